/* The plain case of capture, without the interpreter: empties a group of sockets, and where every datagram of a socket
 * is RTP that its stream expects, counts it and lays the finished records down; appends records to many files.
 *
 * All or nothing for each socket: one datagram that is not plainly right (another source, SSRC or payload type, no
 * RTP, truncated, a jump in the sequence, encrypted, RTCP) and all that this socket gave stays in the arena, uncounted,
 * for the code in Python that knows the policy. So the policy exists once, and this only has to be as strict as
 * `rtp_good` of sift.py, `note` of reception.py and `lay` of records.py. All memory is Python's, which knows how long
 * each array is; the slots of a finished socket serve the next, so that they stay in the processor's cache. */
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADROOM = 64, SLOT = 2048, STRIDE = HEADROOM + SLOT, NAME = 32, PAYLOAD_TYPES = 128 };
enum { PER_SOCKET = 2048, RETRIES = 8, MAX_DROPOUT = 3000, MAX_MISORDER = 100, BLOCK = 32 };
enum { RECORD_HEADER = 16, IPV4_HEADERS = 28, IPV6_HEADERS = 48, START = HEADROOM - RECORD_HEADER - IPV4_HEADERS };
enum { AT_ONCE = 64, CONTROL = 64, RTP_HEADER = 12, NS = 1000000000, CONNECTED = 1, KNOWN }; /* the last two: `only` */

struct __attribute__((packed)) reception { /* RECEPTION of reception.py */
    uint8_t started;
    uint32_t ssrc;
    uint8_t payload_type;
    int64_t rate, base, highest, received, suspect;
    double jitter;
    uint32_t timestamp;
    int64_t time_ns, reported[2], lost_before;
};

struct memory { /* addresses in the order of `native.py`, which has checked how long each array is */
    uint8_t *slots, *names, *truncated; /* one of each by slot */
    int64_t *length, *time_ns;
    uint64_t *high, *low; /* by stream */
    uint16_t *port;
    uint32_t *ssrc;
    uint8_t *settled, *secure, *writing, *six, *payload_types, *templates, *only, *peers;
    uint32_t *sums;
    int64_t *accepted, *octets, *paused, *first_ns, *last_ns;
    double *last_at;
    struct reception *reception;
    int64_t *counts; /* by visited socket: datagrams left to Python */
    int64_t slot_count, streams, visits, room; /* how many of each there are; `room` is the bytes of `out` */
    int32_t *descriptors;                      /* by socket; a kind is 2 x stream, plus 1 for RTCP */
    int64_t *kinds, sockets, *ends; /* by visited socket: the end of its records in `out`, known once they are laid */
    uint8_t *out;
};

struct round {
    struct memory at;
    Py_ssize_t visited, used, laid, kept, failures, most; /* so far; `used` slots are left to Python */
    Py_ssize_t unfinished, aimed_at, aimed, named; /* the headers below point to `aimed` slots, if `named` to names */
    double now;
    struct mmsghdr headers[AT_ONCE];
    struct iovec parts[AT_ONCE];
    _Alignas(struct cmsghdr) uint8_t control[AT_ONCE][CONTROL];
};

static uint16_t read16(const uint8_t *from) { return (uint16_t)(from[0] << 8 | from[1]); }
static uint32_t read32(const uint8_t *from) { return (uint32_t)read16(from) << 16 | read16(from + 2); }
static uint64_t read64(const uint8_t *from) { return (uint64_t)read32(from) << 32 | read32(from + 4); }
static void put16(uint8_t *to, int64_t value) { to[0] = (uint8_t)(value >> 8), to[1] = (uint8_t)value; }

static void aim(struct round *r, Py_ssize_t slot, int count, int named)
{
    if (slot == r->aimed_at && count <= r->aimed && named == r->named)
        return;
    for (int i = 0; i < count; i++) {
        r->parts[i] = (struct iovec){r->at.slots + (slot + i) * STRIDE + HEADROOM, SLOT};
        r->headers[i].msg_hdr = (struct msghdr){
            .msg_name = named ? r->at.names + (slot + i) * NAME : NULL, .msg_namelen = NAME, .msg_iov = &r->parts[i],
            .msg_iovlen = 1, .msg_control = r->control[i], .msg_controllen = CONTROL};
    }
    r->aimed_at = slot, r->aimed = count, r->named = named;
}

/* What the kernel said of one datagram goes to the arena, and its header is made ready for the next. */
static void settle(struct round *r, int i, Py_ssize_t slot, const uint8_t *peer)
{
    struct msghdr *header = &r->headers[i].msg_hdr;
    const struct cmsghdr *told = CMSG_FIRSTHDR(header);
    struct timespec time;
    if (told && told->cmsg_level == SOL_SOCKET && told->cmsg_type == SCM_TIMESTAMPNS &&
        told->cmsg_len >= CMSG_LEN(sizeof time))
        memcpy(&time, CMSG_DATA(told), sizeof time);
    else
        clock_gettime(CLOCK_REALTIME, &time);
    r->at.length[slot] = r->headers[i].msg_len;
    r->at.truncated[slot] = (header->msg_flags & MSG_TRUNC) != 0;
    r->at.time_ns[slot] = (int64_t)time.tv_sec * NS + time.tv_nsec;
    header->msg_namelen = NAME, header->msg_controllen = CONTROL;
    if (peer)
        memcpy(r->at.names + slot * NAME, peer, NAME);
}

/* All that waits in a socket, to `limit` free slots from `slot`; from `peer`, or if that is NULL from anyone. */
static Py_ssize_t empty(struct round *r, int fd, Py_ssize_t slot, Py_ssize_t limit, const uint8_t *peer)
{
    Py_ssize_t total = 0;
    for (int retries = RETRIES; total < limit;) {
        int asked = limit - total < AT_ONCE ? (int)(limit - total) : AT_ONCE;
        aim(r, slot + total, asked, peer == NULL);
        int got = recvmmsg(fd, r->headers, (unsigned)asked, MSG_DONTWAIT, NULL);
        if (got < 0) {
            int transient = errno == ECONNREFUSED || errno == EINTR || errno == EHOSTUNREACH ||
                            errno == ENETUNREACH || errno == ECONNRESET;
            r->failures += !transient && errno != EAGAIN && errno != EWOULDBLOCK;
            if (!transient || retries-- == 0)
                return total;
            continue;
        }
        for (int i = 0; i < got; i++, total++)
            settle(r, i, slot + total, peer);
        limit = got < asked ? total : limit;
    }
    return total;
}

static int is_rtp(const uint8_t *packet, int64_t length)
{
    if (length < RTP_HEADER || packet[0] >> 6 != 2 || (packet[1] >= 192 && packet[1] <= 223))
        return 0;
    int64_t header = RTP_HEADER + 4 * (packet[0] & 15);
    if (packet[0] & 0x10) {
        if (header + 4 > length)
            return 0;
        header += 4 + 4 * read16(packet + header + 2);
    }
    int padded = packet[0] & 0x20, padding = padded ? packet[length - 1] : 0;
    return header + padding <= length && (!padded || padding > 0);
}

static int is_from(const struct memory *at, Py_ssize_t stream, const uint8_t *name)
{
    int six = ((const struct sockaddr *)(const void *)name)->sa_family == AF_INET6;
    uint64_t high = six ? read64(name + 8) : 0;
    uint64_t low = six ? read64(name + 16) : (uint64_t)0xFFFF << 32 | read32(name + 4);
    return low == at->low[stream] && high == at->high[stream] && read16(name + 2) == at->port[stream];
}

/* The octets of `count` datagrams from `slot`, with which the stream's `row` is brought up to date; 0 if one is odd. */
static int64_t tally(const struct memory *at, int64_t stream, Py_ssize_t slot, Py_ssize_t count, struct reception *row)
{
    int64_t octets = 0, most = -MAX_MISORDER, highest = row->highest;
    double rate = (double)row->rate / (double)NS;
    if (!at->settled[stream] || at->secure[stream] || !row->started || row->ssrc != at->ssrc[stream])
        return 0;
    for (Py_ssize_t end = slot + count; slot < end; slot++) {
        const uint8_t *packet = at->slots + slot * STRIDE + HEADROOM;
        if (at->truncated[slot] || !is_rtp(packet, at->length[slot]) || read32(packet + 8) != row->ssrc ||
            !at->payload_types[stream * PAYLOAD_TYPES + (packet[1] & 127)] ||
            !is_from(at, stream, at->names + slot * NAME))
            return 0;
        int64_t ahead = (int16_t)(uint16_t)(read16(packet + 2) - (uint16_t)highest);
        if (ahead >= MAX_DROPOUT || ahead < -MAX_MISORDER)
            return 0;
        most = ahead > most ? ahead : most;
        uint32_t timestamp = read32(packet + 4);
        double delay = (double)(at->time_ns[slot] - row->time_ns) * rate - (int32_t)(timestamp - row->timestamp);
        row->jitter += ((delay < 0 ? -delay : delay) - row->jitter) / 16;
        row->timestamp = timestamp, row->time_ns = at->time_ns[slot], octets += at->length[slot];
    }
    row->highest += most > 0 ? most : 0, row->received += count;
    return (at->slots[(slot - 1) * STRIDE + HEADROOM + 1] & 127) == row->payload_type ? octets : 0;
}

static int64_t sum16(const uint8_t *from, int64_t length)
{
    int64_t total = length % 2 ? from[length - 1] << 8 : 0;
    for (; length > 1; length -= 2, from += 2)
        total += read16(from);
    return total;
}

static int64_t inverted(int64_t total)
{
    total = (total & 0xFFFF) + (total >> 16);
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF;
}

static uint8_t *lay(const struct memory *at, Py_ssize_t stream, Py_ssize_t slot, uint8_t *out)
{
    int six = at->six[stream], start = six ? 0 : START;
    const uint8_t *name = at->names + slot * NAME, *datagram = at->slots + slot * STRIDE + HEADROOM;
    int64_t length = at->length[slot], size = length + (six ? IPV6_HEADERS : IPV4_HEADERS);
    int64_t total = at->sums[2 * stream];
    memcpy(out, at->templates + 2 * stream * HEADROOM + start, HEADROOM); /* more than is there to take, as below */
    uint32_t seconds = (uint32_t)(at->time_ns[slot] / NS), rest = (uint32_t)(at->time_ns[slot] % NS);
    memcpy(out, (uint32_t[]){seconds, rest, (uint32_t)size, (uint32_t)size}, RECORD_HEADER); /* little-endian */
    uint8_t *udp = out + (HEADROOM - start) - 8, *ip = out + RECORD_HEADER;
    memcpy(udp, name + 2, 2);
    put16(udp + 4, length + 8);
    if (six) {
        put16(ip + 4, length + 8);
        memcpy(ip + 8, name + 8, 16);
        total += 2 * (length + 8) + read16(name + 2) + sum16(name + 8, 16) + sum16(datagram, length);
        int64_t checksum = inverted(total);
        put16(udp + 6, checksum ? checksum : 0xFFFF);
    } else {
        put16(ip + 2, size);
        memcpy(ip + 12, name + 4, 4);
        put16(ip + 10, inverted(total + size + read16(name + 4) + read16(name + 6)));
    }
    for (int64_t i = 0; i < length; i += BLOCK) /* there is room for a whole one; a copy of any length starts slowly */
        memcpy(udp + 8 + i, datagram + i, BLOCK);
    return udp + 8 + length;
}

/* Count and lay the datagrams of one RTP socket; 0 when Python must look at them, and then nothing has changed. */
static int finish(struct round *r, Py_ssize_t stream, Py_ssize_t slot, Py_ssize_t count)
{
    const struct memory *at = &r->at;
    struct reception row = at->reception[stream];
    int64_t octets = tally(at, stream, slot, count, &row), last = slot + count - 1;
    if (octets == 0 || octets + count * (RECORD_HEADER + IPV6_HEADERS) + BLOCK > r->at.room - r->laid)
        return 0;
    at->reception[stream] = row;
    at->last_ns[stream] = at->time_ns[last], at->last_at[stream] = r->now;
    if (!at->writing[stream])
        return at->paused[stream] += count, 1;
    at->first_ns[stream] = at->first_ns[stream] ? at->first_ns[stream] : at->time_ns[slot];
    at->accepted[stream] += count, at->octets[stream] += octets;
    uint8_t *out = at->out + r->laid;
    for (Py_ssize_t each = slot; each <= last; each++)
        out = lay(at, stream, each, out);
    r->laid = out - at->out, r->kept += count;
    return 1;
}

static void drain_group(struct round *r, Py_ssize_t at)
{
    r->at.ends[0] = 0;
    for (; r->visited < r->at.visits && at < r->at.sockets && r->used < r->at.slot_count && !r->unfinished; at++) {
        Py_ssize_t left = r->at.slot_count - r->used, limit = left < PER_SOCKET ? left : PER_SOCKET;
        int64_t kind = r->at.kinds[at], rtp = kind >= 0 && !(kind & 1) && kind >> 1 < r->at.streams;
        int64_t stream = rtp ? kind >> 1 : 0;
        uint8_t *peer = r->at.peers + stream * NAME, *only = r->at.only + stream;
        Py_ssize_t got = empty(r, r->at.descriptors[at], r->used, limit, rtp && *only == KNOWN ? peer : NULL);
        int done = got == 0 || (rtp && finish(r, stream, r->used, got));
        if (rtp && *only == CONNECTED && done && got > 0 && got < limit) /* what came before connect(2) is out */
            memcpy(peer, r->at.names + r->used * NAME, NAME), *only = KNOWN;
        r->used += done ? 0 : got, r->most = got > r->most ? got : r->most;
        r->unfinished = got == limit && got < PER_SOCKET;
        r->at.counts[r->visited++] = done ? 0 : got;
        r->at.ends[r->visited] = r->laid;
    }
}

static PyObject *drain(PyObject *Py_UNUSED(self), PyObject *arguments)
{
    struct round r;
    Py_buffer memory;
    Py_ssize_t begin;
    memset(&r, 0, offsetof(struct round, headers));
    if (!PyArg_ParseTuple(arguments, "y*nd", &memory, &begin, &r.now))
        return NULL;
    int fit = memory.len == sizeof r.at && begin >= 0;
    memcpy(&r.at, memory.buf, fit ? sizeof r.at : 0);
    PyBuffer_Release(&memory);
    if (!fit)
        return PyErr_Format(PyExc_ValueError, "other memory is needed");
    Py_BEGIN_ALLOW_THREADS
    drain_group(&r, begin);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(nnnnnnn)", r.visited, r.used, r.laid, r.kept, r.failures, r.most, r.unfinished);
}

/* Append pieces `place` to before `last` of `data`, cut at `cuts`, each to its file, until one fails. */
static PyObject *append(PyObject *Py_UNUSED(self), PyObject *arguments)
{
    Py_buffer files, data, cuts;
    Py_ssize_t place, last, done = 0, code = 0;
    if (!PyArg_ParseTuple(arguments, "y*y*y*nn", &files, &data, &cuts, &place, &last))
        return NULL;
    int fit = place >= 0 && last <= files.len / 4 && last < cuts.len / 8;
    const int64_t *cut = cuts.buf;
    for (Py_ssize_t i = place; fit && i < last; i++)
        fit = 0 <= cut[i] && cut[i] <= cut[i + 1] && cut[i + 1] <= data.len;
    Py_BEGIN_ALLOW_THREADS
    for (; fit && code == 0 && place < last; place += code == 0) {
        const char *from = (const char *)data.buf + cut[place];
        for (done = 0; code == 0 && done < cut[place + 1] - cut[place];) {
            ssize_t wrote = write(((int32_t *)files.buf)[place], from + done, cut[place + 1] - cut[place] - done);
            done += wrote > 0 ? wrote : 0, code = wrote < 0 && errno != EINTR ? errno : 0;
        }
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&files), PyBuffer_Release(&data), PyBuffer_Release(&cuts);
    if (!fit)
        return PyErr_Format(PyExc_ValueError, "pieces that are not there");
    return Py_BuildValue("(nnn)", place, code ? done : 0, code);
}

static PyMethodDef methods[] = {
    {"drain", drain, METH_VARARGS, NULL}, {"append", append, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&module); }
