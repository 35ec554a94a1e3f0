/* The bare limit that a recorder is measured against: empties N sockets by recvmmsg and throws everything away.
 *
 *   bare_receiver ADDRESS FIRST_PORT STREAMS [TICK_MS]
 *
 * Receives on FIRST_PORT + 2 i, every TICK_MS (200). Prints "ready" when bound and, after SIGTERM, the packets
 * received.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum { SLOTS = 64, SLOT = 2048 };

static volatile sig_atomic_t stopped;

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

static void sleep_until(struct timespec *at, long ns)
{
    at->tv_nsec += ns;
    while (at->tv_nsec >= 1000000000L) {
        at->tv_nsec -= 1000000000L;
        at->tv_sec++;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, at, NULL);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    int first = atoi(argv[2]), streams = atoi(argv[3]), tick_ms = argc > 4 ? atoi(argv[4]) : 200;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = stop}, NULL);
    int *sockets = calloc(streams, sizeof *sockets), buffer = 1 << 20;
    for (int i = 0; i < streams; i++) {
        struct sockaddr_in local = {.sin_family = AF_INET, .sin_port = htons(first + 2 * i)};
        inet_pton(AF_INET, argv[1], &local.sin_addr);
        sockets[i] = socket(AF_INET, SOCK_DGRAM, 0);
        setsockopt(sockets[i], SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
        if (bind(sockets[i], (void *)&local, sizeof local)) {
            perror("bind");
            return 1;
        }
    }
    static char memory[SLOTS][SLOT];
    static struct iovec parts[SLOTS];
    static struct mmsghdr headers[SLOTS];
    for (int i = 0; i < SLOTS; i++) {
        parts[i] = (struct iovec){memory[i], SLOT};
        headers[i].msg_hdr.msg_iov = &parts[i];
        headers[i].msg_hdr.msg_iovlen = 1;
    }
    puts("ready");
    fflush(stdout);
    long packets = 0;
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    while (!stopped) {
        sleep_until(&at, tick_ms * 1000000L);
        for (int i = 0; i < streams; i++) {
            int got;
            while ((got = recvmmsg(sockets[i], headers, SLOTS, MSG_DONTWAIT, NULL)) > 0) {
                packets += got;
                if (got < SLOTS)
                    break;
            }
        }
    }
    printf("%ld\n", packets);
    return 0;
}
