/* The least that can answer a call: 200 to each INVITE and BYE, with the five headers that must come back and a fixed
 * SDP. It parses nothing else, checks nothing, keeps nothing and repeats nothing.
 *
 *   sip_responder ADDRESS PORT        says "ready"
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BUFFER = 65536 };

static const char *sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
                         "m=audio 10000 RTP/AVP 8\r\na=label:1\r\na=recvonly\r\n"
                         "m=audio 10002 RTP/AVP 8\r\na=label:2\r\na=recvonly\r\n";

static int copied(char *out, const char *request, const char *name)
{
    const char *at = strcasestr(request, name), *end = at ? strstr(at + 2, "\r\n") : NULL;
    if (!end)
        return 0;
    memcpy(out, at + 2, end - at - 2);
    return end - at - 2;
}

int main(int argc, char **argv)
{
    static char request[BUFFER], answer[BUFFER];
    static const char *names[] = {"\r\nVia:", "\r\nFrom:", "\r\nCall-ID:", "\r\nCSeq:", "\r\nTo:"};
    if (argc < 3)
        return 2;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))}, from;
    inet_pton(AF_INET, argv[1], &here.sin_addr);
    int sock = socket(AF_INET, SOCK_DGRAM, 0), octets = 8 << 20;
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &octets, sizeof octets);
    if (bind(sock, (void *)&here, sizeof here)) {
        perror("bind");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(sock, request, sizeof request - 1, 0, (void *)&from, &size);
        if (got < 0)
            continue;
        request[got] = 0;
        if (strncmp(request, "ACK", 3) == 0)
            continue;
        int invite = strncmp(request, "INVITE", 6) == 0, length = sprintf(answer, "SIP/2.0 200 OK\r\n");
        for (int i = 0; i < 5; i++) {
            length += copied(answer + length, request, names[i]);
            if (i == 4 && invite)
                length += sprintf(answer + length, ";tag=bare");
            length += sprintf(answer + length, "\r\n");
        }
        length += sprintf(answer + length, "Content-Type: application/sdp\r\nContent-Length: %zu\r\n\r\n%s",
                          invite ? strlen(sdp) : 0, invite ? sdp : "");
        sendto(sock, answer, length, 0, (void *)&from, size);
    }
}
