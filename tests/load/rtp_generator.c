/* Sends counted G.711 packets: N sockets to N ports, 50 packets a second each, spread evenly over 20 ms.
 *
 *   rtp_generator ADDRESS FIRST_PORT STREAMS SECONDS FIRST_SOURCE_PORT [BURST_US]
 *
 * Stream i goes to FIRST_PORT + 2 i, from FIRST_SOURCE_PORT + i of the same address. What is due within BURST_US
 * (1000) leaves together, a kindness to receivers that wake for packets: a longer burst is fewer wake-ups. The payload
 * begins with a 32-bit counter (network order), so that every lost, doubled or moved packet can be told. Prints packets
 * sent and by how many ms the last was late.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 12, PAYLOAD = 160, RATE = 50 };

static int64_t now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000L + at.tv_nsec;
}

static void sleep_until(int64_t ns)
{
    struct timespec at = {ns / 1000000000L, ns % 1000000000L};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 2;
    int first = atoi(argv[2]), streams = atoi(argv[3]), rounds = (int)(atof(argv[4]) * RATE);
    int source = atoi(argv[5]), burst_us = argc > 6 ? atoi(argv[6]) : 1000, bursts = 1000000 / RATE / burst_us;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int *sockets = calloc(streams, sizeof *sockets);
    for (int i = 0; i < streams; i++) {
        struct sockaddr_in to = {.sin_family = AF_INET}, from = {.sin_family = AF_INET};
        sockets[i] = socket(AF_INET, SOCK_DGRAM, 0);
        from.sin_port = htons(source + i);
        inet_pton(AF_INET, argv[1], &to.sin_addr);
        from.sin_addr = to.sin_addr;
        to.sin_port = htons(first + 2 * i);
        if (bind(sockets[i], (void *)&from, sizeof from) || connect(sockets[i], (void *)&to, sizeof to)) {
            perror("socket");
            return 1;
        }
    }
    uint8_t packet[HEADER + PAYLOAD];
    memset(packet, 0xD5, sizeof packet);
    long sent = 0;
    int64_t due = now_ns();
    for (int round = 0; round < rounds; round++) {
        for (int burst = 0; burst < bursts; burst++) {
            int begin = (int)((long)streams * burst / bursts), end = (int)((long)streams * (burst + 1) / bursts);
            for (int i = begin; i < end; i++) {
                uint16_t sequence = htons((uint16_t)round);
                uint32_t timestamp = htonl(160u * round), ssrc = htonl(0x5000u + i), count = htonl(round);
                packet[0] = 0x80;
                packet[1] = 8;
                memcpy(packet + 2, &sequence, 2);
                memcpy(packet + 4, &timestamp, 4);
                memcpy(packet + 8, &ssrc, 4);
                memcpy(packet + 12, &count, 4);
                sent += send(sockets[i], packet, sizeof packet, 0) == sizeof packet;
            }
            sleep_until(due += 1000000000L / RATE / bursts);
        }
    }
    printf("%ld %.1f\n", sent, (now_ns() - due) / 1e6);
    return 0;
}
