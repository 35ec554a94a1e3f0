/* The bare limit that a recorder is measured against: empties N sockets by recvmmsg and throws everything away.
 *
 *   bare_receiver ADDRESS FIRST_PORT STREAMS SECONDS [TICK_MS]
 *
 * Receives on FIRST_PORT + 2 i, every TICK_MS (200). Prints "ready" when bound, then packets and CPU seconds
 * (user and system, of the whole process after "ready").
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 64, SLOT = 2048 };

static double cpu(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    int first = atoi(argv[2]), streams = atoi(argv[3]), tick_ms = argc > 5 ? atoi(argv[5]) : 200;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
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
    double began = cpu(), end = now() + atof(argv[4]);
    long packets = 0;
    while (now() < end) {
        struct timespec nap = {tick_ms / 1000, tick_ms % 1000 * 1000000L};
        nanosleep(&nap, NULL);
        for (int i = 0; i < streams; i++) {
            int got;
            while ((got = recvmmsg(sockets[i], headers, SLOTS, MSG_DONTWAIT, NULL)) > 0) {
                packets += got;
                if (got < SLOTS)
                    break;
            }
        }
    }
    printf("%ld %.6f\n", packets, cpu() - began);
    return 0;
}
