/* Places SIPREC calls over UDP without media: INVITE with SDP and metadata, ACK, BYE. Repeats as RFC 3261 wants.
 *
 *   sip_generator ADDRESS PORT closed OUTSTANDING SECONDS
 *   sip_generator ADDRESS PORT open RATE SECONDS
 *
 * `closed` keeps so many calls under way and hangs up at once; `open` begins RATE calls a second whatever becomes of
 * them. A refused call is over; in `closed` the next comes 20 ms later. After SECONDS no call begins, and those under
 * way have 35 s to end. Prints one JSON object; times are in ms, `first_good_ms` is when, counted from the start, the
 * first INVITE answered with 200 within 100 ms had its answer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 200000, BUFFER = 65536, T1 = 500, T2 = 4000, GIVE_UP = 32000, GRACE = 35000, GOOD = 100, PAUSE = 20 };
enum state { INVITED, PROCEEDING, ANSWERED, ENDED, REFUSED, LOST };

struct call {
    double began, next, interval, gives_up, latency;
    enum state state;
    char tag[80];
};

static struct call calls[MOST];
static int begun, oldest, sock, port;
static int answered, refused, retry_after, other, ended, lost, repeated, under_way;
static double resume_at, first_good = -1, started;
static double *latencies, *bye_latencies, *refusals;
static char nonce[32], body[BUFFER];
static const char *address;

static double now_ms(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e3 + at.tv_nsec / 1e6;
}

static const char *body_format =
    "--boundary\r\nContent-Type: application/sdp\r\n\r\n"
    "v=0\r\no=SRC %d 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n"
    "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=label:1\r\na=sendonly\r\n"
    "m=audio 40002 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n"
    "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=label:2\r\na=sendonly\r\n"
    "\r\n--boundary\r\nContent-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session\r\n\r\n"
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<recording xmlns='urn:ietf:params:xml:ns:recording:1'>\r\n"
    "  <datamode>complete</datamode>\r\n"
    "  <group group_id=\"7+OTCyoxTmqmqyA/%08d==\"><associate-time>2026-11-20T18:00:00Z</associate-time></group>\r\n"
    "  <session session_id=\"hVpd7YQgRW2nD22h%08d==\"><sipSessionID>ab30317f1a784dc48ff824d0%08d</sipSessionID>"
    "<group-ref>7+OTCyoxTmqmqyA/%08d==</group-ref><start-time>2026-11-20T18:00:00Z</start-time></session>\r\n"
    "  <participant participant_id=\"srfBElmCRp2QB23b7Mpk0w==\">\r\n"
    "    <nameID aor=\"sip:alice@example.com\"><name xml:lang=\"en\">Alice</name></nameID>\r\n  </participant>\r\n"
    "  <participant participant_id=\"zSfPoSvdSDCmU3A3TRDxAw==\">\r\n"
    "    <nameID aor=\"sip:bob@example.com\"><name xml:lang=\"en\">Bob</name></nameID>\r\n  </participant>\r\n"
    "  <stream stream_id=\"UAAMm5GRQKSCMVvLyl4rFw==\" session_id=\"hVpd7YQgRW2nD22h%08d==\"><label>1</label>"
    "</stream>\r\n"
    "  <stream stream_id=\"i1Pz3to5hGk8fuXl+PbwCw==\" session_id=\"hVpd7YQgRW2nD22h%08d==\"><label>2</label>"
    "</stream>\r\n"
    "  <participantsessionassoc participant_id=\"srfBElmCRp2QB23b7Mpk0w==\" session_id=\"hVpd7YQgRW2nD22h%08d==\">"
    "<associate-time>2026-11-20T18:00:00Z</associate-time></participantsessionassoc>\r\n"
    "  <participantsessionassoc participant_id=\"zSfPoSvdSDCmU3A3TRDxAw==\" session_id=\"hVpd7YQgRW2nD22h%08d==\">"
    "<associate-time>2026-11-20T18:00:00Z</associate-time></participantsessionassoc>\r\n"
    "  <participantstreamassoc participant_id=\"srfBElmCRp2QB23b7Mpk0w==\"><send>UAAMm5GRQKSCMVvLyl4rFw==</send>"
    "<recv>i1Pz3to5hGk8fuXl+PbwCw==</recv></participantstreamassoc>\r\n"
    "  <participantstreamassoc participant_id=\"zSfPoSvdSDCmU3A3TRDxAw==\"><send>i1Pz3to5hGk8fuXl+PbwCw==</send>"
    "<recv>UAAMm5GRQKSCMVvLyl4rFw==</recv></participantstreamassoc>\r\n"
    "</recording>\r\n\r\n--boundary--\r\n";

/* `unique` numbers the transaction's branch; `tag` is the server's, empty outside a dialog. */
static void transmit(int number, const char *method, int cseq, const char *unique, const char *tag)
{
    static char text[BUFFER];
    int invite = strcmp(method, "INVITE") == 0, length = 0;
    if (invite) {
        int n = number;
        length = snprintf(body, sizeof body, body_format, n + 1, n, n, n, n, n, n, n, n);
    }
    int head = snprintf(text, sizeof text,
        "%s sip:srs@%s:%d SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:%d;branch=z9hG4bK%s-%s-%d;rport\r\n"
        "Max-Forwards: 70\r\nFrom: \"Alice\" <sip:alice@example.com>;tag=%s%d\r\n"
        "To: <sip:srs@example.com>%s%s\r\nCall-ID: %d-%s@127.0.0.1\r\nCSeq: %d %s\r\n%s%sContent-Length: %d\r\n\r\n",
        method, address, port, port, nonce, unique, number, nonce, number, *tag ? ";tag=" : "", tag, number, nonce, cseq,
        method,
        invite ? "Contact: <sip:src@127.0.0.1:5060>;+sip.src\r\nRequire: siprec\r\n"
                 "Accept: application/sdp, application/rs-metadata\r\n"
                 "Allow: INVITE, ACK, CANCEL, BYE, UPDATE, OPTIONS\r\nSupported: replaces, timer, 100rel\r\n" : "",
        invite ? "User-Agent: bench\r\nSession-Expires: 1800\r\nMin-SE: 90\r\nMIME-Version: 1.0\r\n"
                 "Content-Type: multipart/mixed;boundary=boundary\r\n" : "", length);
    memcpy(text + head, body, length);
    send(sock, text, head + length, MSG_NOSIGNAL);
}

static void invite(int number) { transmit(number, "INVITE", 1, "i", ""); }
static void bye(int number) { transmit(number, "BYE", 2, "b", calls[number].tag); }

static void begin(double now)
{
    struct call *call = &calls[begun];
    *call = (struct call){.began = now, .next = now + T1, .interval = T1, .gives_up = now + GIVE_UP, .state = INVITED};
    under_way++;
    invite(begun++);
}

static void finish(struct call *call, enum state state)
{
    call->state = state;
    under_way--;
}

static int header_tag(const char *text, char *tag, size_t size)
{
    const char *to = strcasestr(text, "\r\nTo:");
    const char *end = to ? strstr(to + 2, "\r\n") : NULL, *at = to ? strstr(to, ";tag=") : NULL;
    if (!at || at > end)
        return 0;
    size_t length = end - at - 5;
    if (length >= size)
        return 0;
    memcpy(tag, at + 5, length);
    tag[length] = 0;
    return 1;
}

static void answered_invite(int number, int status, const char *text, double now)
{
    struct call *call = &calls[number];
    char tag[80] = "";
    if (status < 200) {
        if (call->state == INVITED) {
            call->state = PROCEEDING;
            call->next = call->gives_up;
        }
        return;
    }
    header_tag(text, tag, sizeof tag);
    transmit(number, "ACK", 1, status < 300 ? "a" : "i", tag);
    if (call->state != INVITED && call->state != PROCEEDING)
        return;
    if (status >= 300) {
        refusals[refused + other] = now - call->began;
        if (status == 503) {
            refused++;
            retry_after += strcasestr(text, "\r\nRetry-After:") != NULL;
        } else
            other++;
        finish(call, REFUSED);
        resume_at = now + PAUSE;
        return;
    }
    latencies[answered++] = call->latency = now - call->began;
    if (call->latency < GOOD && first_good < 0)
        first_good = now - started;
    strcpy(call->tag, tag);
    *call = (struct call){.began = now, .next = now + T1, .interval = T1, .gives_up = now + GIVE_UP,
                          .latency = call->latency, .state = ANSWERED};
    strcpy(call->tag, tag);
    bye(number);
}

static void receive(char *text, double now)
{
    int status, number;
    char *id = strcasestr(text, "\r\nCall-ID: "), *cseq = strcasestr(text, "\r\nCSeq: ");
    if (sscanf(text, "SIP/2.0 %d", &status) != 1 || !id || !cseq || sscanf(id + 11, "%d-", &number) != 1)
        return;
    if (number < 0 || number >= begun)
        return;
    struct call *call = &calls[number];
    if (cseq[8] == '1')
        answered_invite(number, status, text, now);
    else if (call->state == ANSWERED && status >= 200) {
        if (status == 200)
            bye_latencies[ended++] = now - call->began;
        else
            lost++;
        finish(call, status == 200 ? ENDED : LOST);
    }
}

static void repeat(double now)
{
    while (oldest < begun && calls[oldest].state > ANSWERED)
        oldest++;
    for (int i = oldest; i < begun; i++) {
        struct call *call = &calls[i];
        if (call->state > ANSWERED || now < call->next)
            continue;
        if (now >= call->gives_up) {
            lost++;
            finish(call, LOST);
            continue;
        }
        repeated++;
        call->interval *= 2;
        if (call->state == ANSWERED && call->interval > T2)
            call->interval = T2;
        call->next = now + call->interval;
        call->state == ANSWERED ? bye(i) : invite(i);
    }
}

static int compare(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

static double percentile(double *values, int count, double share)
{
    if (!count)
        return 0;
    qsort(values, count, sizeof *values, compare);
    return values[(int)(share * (count - 1) + 0.5)];
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 2;
    address = argv[1], port = atoi(argv[2]);
    int open = strcmp(argv[3], "open") == 0;
    double number = atof(argv[4]), length = atof(argv[5]) * 1e3;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    sock = socket(AF_INET, SOCK_DGRAM, 0);
    int octets = 8 << 20;
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &octets, sizeof octets);
    if (connect(sock, (void *)&to, sizeof to)) {
        perror("connect");
        return 1;
    }
    latencies = calloc(MOST, sizeof *latencies);
    bye_latencies = calloc(MOST, sizeof *bye_latencies);
    refusals = calloc(MOST, sizeof *refusals);
    started = now_ms();
    snprintf(nonce, sizeof nonce, "%x%x", getpid(), (unsigned)started);
    double stop = started + length, swept = started, late = 0, done_at = started;
    static char text[BUFFER];
    for (;;) {
        double now = now_ms();
        if (now < stop && begun < MOST) {
            if (open) {
                while (begun < number * (now - started) / 1e3 && begun < MOST) {
                    double by = now_ms() - started - begun / number * 1e3;
                    late = by > late ? by : late;
                    begin(now_ms());
                }
            } else
                while (under_way < number && now >= resume_at && begun < MOST)
                    begin(now_ms());
        } else if (under_way == 0 || now > stop + GRACE)
            break;
        struct pollfd wait = {.fd = sock, .events = POLLIN};
        poll(&wait, 1, 1);
        ssize_t got;
        while ((got = recv(sock, text, sizeof text - 1, MSG_DONTWAIT)) > 0) {
            text[got] = 0;
            done_at = now_ms();
            receive(text, done_at);
        }
        if (now - swept > 20) {
            repeat(now);
            swept = now;
        }
    }
    printf("{\"begun\": %d, \"answered\": %d, \"refused\": %d, \"retry_after\": %d, \"other\": %d, \"ended\": %d, "
           "\"lost\": %d, \"unfinished\": %d, \"repeated\": %d, \"seconds\": %.3f, \"p50_ms\": %.2f, \"p99_ms\": %.2f, "
           "\"bye_p99_ms\": %.2f, \"refusal_p99_ms\": %.2f, \"first_good_ms\": %.1f, \"late_ms\": %.1f}\n",
           begun, answered, refused, retry_after, other, ended, lost, under_way, repeated, (done_at - started) / 1e3,
           percentile(latencies, answered, 0.5), percentile(latencies, answered, 0.99),
           percentile(bye_latencies, ended, 0.99), percentile(refusals, refused + other, 0.99), first_good, late);
    return 0;
}
