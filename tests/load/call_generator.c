/* Sends counted G.711 packets for calls that come and go: each stream 50 packets a second, for as long as it is told.
 *
 *   call_generator SOURCE_ADDRESS DESTINATION_ADDRESS
 *
 * A line "NUMBER SOURCE_PORT DESTINATION_PORT PAYLOAD_TYPE PACKETS" on standard input begins a stream, from its own
 * socket; the port above the source's is held too, so that reports of the receiver find somebody. When the last packet
 * of stream NUMBER has left, 20 ms later "NUMBER SENT" is told on standard output. The line "stop NUMBER" ends the streams
 * of that number as soon as they have lasted a second. What is due within a millisecond leaves together. The payload begins with a 32-bit counter (network order). At
 * the end of the input "late MS" is told: by how many ms packets were late at most; then it exits.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 12, PAYLOAD = 160, RATE = 50, SLOTS = 1000 / RATE, LINES = 1 << 16 };

struct stream {
    struct stream *next;
    int number, rtp, rtcp, type, sent, wanted;
    uint16_t sequence;
};

static struct stream *slots[SLOTS]; /* of a packet time, a millisecond each */
static const char *from, *to;

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

static struct sockaddr_in place(const char *address, int port)
{
    struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &made.sin_addr);
    return made;
}

static int bound(int port)
{
    struct sockaddr_in at = place(from, port);
    int made = socket(AF_INET, SOCK_DGRAM, 0);
    if (made < 0 || bind(made, (void *)&at, sizeof at)) {
        perror("call_generator: socket");
        exit(1);
    }
    return made;
}

static void begin(const char *line, int slot)
{
    struct stream *made = calloc(1, sizeof *made);
    int source, destination;
    if (sscanf(line, "%d %d %d %d %d", &made->number, &source, &destination, &made->type, &made->wanted) != 5)
        exit(2);
    struct sockaddr_in at = place(to, destination);
    made->rtp = bound(source);
    made->rtcp = bound(source + 1);
    if (connect(made->rtp, (void *)&at, sizeof at)) {
        perror("call_generator: connect");
        exit(1);
    }
    made->next = slots[slot];
    slots[slot] = made;
}

static int stopped(struct stream *each)
{
    if (each->sent < each->wanted)
        return 0;
    close(each->rtp);
    close(each->rtcp);
    printf("%d %d\n", each->number, each->sent);
    free(each);
    return 1;
}

static void send_slot(int slot)
{
    uint8_t packet[HEADER + PAYLOAD];
    memset(packet, 0xD5, sizeof packet);
    packet[0] = 0x80;
    for (struct stream **link = &slots[slot], *each; (each = *link);) {
        struct stream *next = each->next;
        if (stopped(each)) {
            *link = next;
            continue;
        }
        uint16_t sequence = htons(each->sequence++);
        uint32_t count = htonl(each->sent), timestamp = htonl(160u * each->sent), ssrc = htonl(0x5000u + each->number);
        packet[1] = each->type;
        memcpy(packet + 2, &sequence, 2);
        memcpy(packet + 4, &timestamp, 4);
        memcpy(packet + 8, &ssrc, 4);
        memcpy(packet + 12, &count, 4);
        each->sent += send(each->rtp, packet, sizeof packet, 0) == sizeof packet;
        link = &each->next;
    }
}

static void stop(int number)
{
    for (int slot = 0; slot < SLOTS; slot++)
        for (struct stream *each = slots[slot]; each; each = each->next)
            if (each->number == number && each->sent < each->wanted)
                each->wanted = each->sent > RATE ? each->sent : RATE;
}

/* Take the lines that have come; 0 at the end of the input. */
static int obey(int slot)
{
    static char lines[LINES];
    static size_t held;
    ssize_t got = read(0, lines + held, LINES - 1 - held);
    if (got <= 0)
        return got < 0;
    lines[held += got] = 0;
    char *line = lines, *end;
    for (; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        if (strncmp(line, "stop ", 5) == 0)
            stop(atoi(line + 5));
        else
            begin(line, slot);
    }
    held -= line - lines;
    memmove(lines, line, held);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    from = argv[1];
    to = argv[2];
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
    int64_t due = now_ns(), late = 0;
    for (int slot = 0; obey(slot); slot = (slot + 1) % SLOTS) {
        send_slot(slot);
        fflush(stdout);
        int64_t behind = now_ns() - (due += 1000000L);
        late = behind > late ? behind : late;
        sleep_until(due);
    }
    printf("late %.1f\n", late / 1e6);
    return 0;
}
