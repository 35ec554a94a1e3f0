/* The usual recording server, for comparison: it wakes for every packet, reads it, and appends it to a capture file.
 *
 *   epoll_recorder ADDRESS FIRST_PORT STREAMS FOLDER
 *
 * Receives RTP on FIRST_PORT + 2 i and RTCP on the port above; two streams share one pcap file of the same format as
 * siprec's. Kept as cheap as such a server can be: it knows its sources beforehand and checks nothing, takes the time
 * from the clock (no system call), receives into the file's buffer (no copy), writes 4 KiB at a time as stdio and
 * libpcap do, and never syncs. Prints "ready" when bound and, after SIGTERM, the packets received.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, RECORD = 16, HEADERS = 28, SLOT = 2048, EVENTS = 512, SOCKETS_PER_FILE = 4 };

struct file {
    int descriptor;
    size_t used;
    uint8_t buffer[BLOCK + RECORD + HEADERS + SLOT];
};

static volatile sig_atomic_t stopped;

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

static void flush(struct file *file)
{
    if (write(file->descriptor, file->buffer, file->used) != (ssize_t)file->used) {
        perror("write");
        exit(1);
    }
    file->used = 0;
}

static void open_file(struct file *file, const char *folder, int number)
{
    static const uint32_t header[6] = {0xa1b23c4d, 2 | 4 << 16, 0, 0, 65535, 101};
    char path[4096];
    snprintf(path, sizeof path, "%s/%05d.pcap", folder, number);
    file->descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (file->descriptor < 0 || write(file->descriptor, header, sizeof header) != sizeof header) {
        perror(path);
        exit(1);
    }
}

static int open_socket(struct in_addr address, int port)
{
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = address};
    int made = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), buffer = 1 << 20;
    setsockopt(made, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (made < 0 || bind(made, (void *)&local, sizeof local)) {
        perror("bind");
        exit(1);
    }
    return made;
}

static void headers(uint8_t *at, int length, const struct sockaddr_in *from, struct in_addr to, int port)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint32_t size = length + HEADERS, sum = 0;
    uint32_t record[4] = {now.tv_sec, now.tv_nsec, size, size};
    uint16_t ip[14] = {htons(0x4500), htons(size), 0, 0, htons(64 << 8 | 17)};
    memcpy(ip + 6, &from->sin_addr, 4);
    memcpy(ip + 8, &to, 4);
    for (int i = 0; i < 10; i++)
        sum += ip[i];
    sum = (sum & 0xFFFF) + (sum >> 16);
    ip[5] = ~(sum + (sum >> 16));
    ip[10] = from->sin_port;
    ip[11] = htons(port);
    ip[12] = htons(length + 8);
    memcpy(at, record, RECORD);
    memcpy(at + RECORD, ip, HEADERS);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    int first = atoi(argv[2]), sockets = 2 * atoi(argv[3]);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = stop}, NULL);
    struct in_addr address;
    inet_pton(AF_INET, argv[1], &address);
    int files = (sockets + SOCKETS_PER_FILE - 1) / SOCKETS_PER_FILE, queue = epoll_create1(0);
    struct file *all = calloc(files, sizeof *all);
    int *descriptors = calloc(sockets, sizeof *descriptors);
    for (int i = 0; i < files; i++)
        open_file(&all[i], argv[4], i);
    for (int i = 0; i < sockets; i++) {
        descriptors[i] = open_socket(address, first + i);
        epoll_ctl(queue, EPOLL_CTL_ADD, descriptors[i], &(struct epoll_event){.events = EPOLLIN, .data.u32 = i});
    }
    puts("ready");
    fflush(stdout);
    long packets = 0;
    while (!stopped) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(queue, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int number = events[i].data.u32;
            struct file *file = &all[number / SOCKETS_PER_FILE];
            uint8_t *at = file->buffer + file->used;
            struct sockaddr_in from;
            socklen_t size = sizeof from;
            ssize_t got = recvfrom(descriptors[number], at + RECORD + HEADERS, SLOT, 0, (void *)&from, &size);
            if (got < 0)
                continue;
            headers(at, got, &from, address, first + number);
            file->used += RECORD + HEADERS + got;
            packets++;
            if (file->used >= BLOCK)
                flush(file);
        }
    }
    for (int i = 0; i < files; i++)
        flush(&all[i]);
    printf("%ld\n", packets);
    return 0;
}
