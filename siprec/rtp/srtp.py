"""SRTP and SRTCP under one master key (RFC 3711, RFC 7714), over libsrtp.

`Inbound` keeps what the peer's packets need: the roll-over counter and the replay window of each SSRC. Nobody tells a
late joiner the roll-over counter, and after a restart we are one: a packet that does not prove right under the counter
that is due is tried under later ones, never under one that would turn time back.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from pylibsrtp import Error, Policy, Session

from siprec.errors import SrtpError

PROFILES: Mapping[str, int] = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    "AEAD_AES_256_GCM": Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}
"""Suites by their names in SDP."""

WINDOW = 1024
"""Packets by which one may be late and still be told from a replay; a stream of 50 a second waits 20 s for none."""

MAX_ROLL_OVERS = 64
"""Roll-over counters tried for one packet: 23 hours at 50 packets a second. Trying all of them takes 1 ms."""

SEARCH_NS = 1_000_000_000
"""Least time between two such searches, so that forged packets cannot keep us busy with them."""

MAX_SOURCES = 64
"""SSRCs whose progress is remembered. Only who has the key can add one."""

MIN_RTP = 12
MIN_RTCP = 8

_ANY = 1 << 16
_STEP = 30_000  # below half of the 16-bit sequence numbers, so that the next index is never in doubt
_BEHIND = 1_000  # the search stops short of the packet, so that packets overtaken by it are still new
_TAIL = {"AES_CM_128_HMAC_SHA1_80": (10, 10), "AES_CM_128_HMAC_SHA1_32": (4, 10)}
_DUMMY = Struct(">BBHII")


class Inbound:
    """What comes from the peer. `master`: master key and salt; `mki_bytes`: the key identifier in each packet."""

    def __init__(self, suite: str, master: bytes, *, mki_bytes: int = 0) -> None:
        self._suite, self._master = suite, master
        self._mki = mki_bytes
        self._rtp_tail, self._rtcp_tail = _TAIL.get(suite, (0, 0))
        self._session = _session(suite, master, Policy.SSRC_ANY_INBOUND)
        self._resumed: dict[int, Session] = {}
        self._progress: dict[int, int] = {}
        self._searched_ns = -SEARCH_NS

    def rtp(self, packet: bytes, *, now_ns: int) -> bytes:
        """The RTP packet in `packet`. `now_ns`: when it came. Raises SrtpError."""
        if len(packet) < MIN_RTP:
            raise SrtpError("too short for SRTP")
        packet = self._without_identifier(packet, self._rtp_tail)
        ssrc = int.from_bytes(packet[8:12], "big")
        sequence = int.from_bytes(packet[2:4], "big")
        try:
            clear = self._resumed.get(ssrc, self._session).unprotect(packet)
        except (Error, ValueError) as error:
            fault = _fault(error)
            if fault.replay or abs(now_ns - self._searched_ns) < SEARCH_NS:
                raise fault from None
            self._searched_ns = now_ns
            return self._search(packet, ssrc, sequence)
        self._note(ssrc, sequence)
        return clear

    def rtcp(self, packet: bytes) -> bytes:
        """The RTCP packet in `packet`. Raises SrtpError."""
        if len(packet) < MIN_RTCP:
            raise SrtpError("too short for SRTCP")
        try:
            return self._session.unprotect_rtcp(self._without_identifier(packet, self._rtcp_tail))
        except (Error, ValueError) as error:
            raise _fault(error) from None

    def _without_identifier(self, packet: bytes, tail: int) -> bytes:
        """The master key identifier stands before the authentication tag, and is not authenticated (section 3.1)."""
        if not self._mki:
            return packet
        end = max(MIN_RTCP, len(packet) - tail)
        return packet[: max(MIN_RTCP, end - self._mki)] + packet[end:]

    def _note(self, ssrc: int, sequence: int) -> None:
        """Follow the index as section 3.3.1 does."""
        last = self._progress.get(ssrc)
        if last is None:
            self._progress[ssrc] = sequence
            if len(self._progress) > MAX_SOURCES:
                oldest = next(iter(self._progress))
                del self._progress[oldest]
                self._resumed.pop(oldest, None)
        elif (ahead := (sequence - last) % _ANY) < _ANY // 2:
            self._progress[ssrc] = last + ahead

    def _search(self, packet: bytes, ssrc: int, sequence: int) -> bytes:
        """Try `packet` under the roll-over counters ahead. Raises SrtpError when none fits."""
        last = self._progress.get(ssrc, -1)
        scout = _Scout(self._suite, self._master, ssrc)
        first = max(0, last) // _ANY
        for counter in range(first, first + MAX_ROLL_OVERS + 1):
            index = counter * _ANY + sequence
            if index <= last:
                continue
            try:
                scout.advance(index - _BEHIND)
                clear = scout.session.unprotect(packet)
            except (Error, ValueError):
                continue
            self._note(ssrc, sequence)
            self._progress[ssrc] = index
            self._resumed[ssrc] = scout.session
            return clear
        raise SrtpError("authentication failed")


class _Scout:
    """A context brought to a later index: libsrtp moves on only by packets that prove right, so it is given some."""

    def __init__(self, suite: str, master: bytes, ssrc: int) -> None:
        self.session = _session(suite, master, Policy.SSRC_ANY_INBOUND)
        self._sender = _session(suite, master, Policy.SSRC_ANY_OUTBOUND)
        self._ssrc = ssrc
        self._at = -1

    def advance(self, index: int) -> None:
        """Have `index` be the last packet that was seen; 0 and below is no packet yet."""
        while self._at < index:
            self._at = min(self._at + _STEP, index) if self._at >= 0 else min(index, _STEP)
            dummy = _DUMMY.pack(0x80, 0, self._at % _ANY, 0, self._ssrc)
            self.session.unprotect(self._sender.protect(dummy))


class Outbound:
    """What goes to the peer."""

    def __init__(self, suite: str, master: bytes) -> None:
        self._session = _session(suite, master, Policy.SSRC_ANY_OUTBOUND)

    def rtp(self, packet: bytes) -> bytes:
        """`packet` as SRTP."""
        return self._session.protect(packet)

    def rtcp(self, packet: bytes) -> bytes:
        """`packet` as SRTCP."""
        return self._session.protect_rtcp(packet)


def _session(suite: str, master: bytes, direction: int) -> Session:
    policy = Policy(key=master, ssrc_type=direction, srtp_profile=PROFILES[suite])
    policy.window_size = WINDOW
    return Session(policy)


def _fault(error: Exception) -> SrtpError:
    replay = "replay" in str(error)
    return SrtpError("replayed" if replay else "authentication failed", replay=replay)
