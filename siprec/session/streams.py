"""How an offer changes the channels of a session: which open, move, pause, resume or close.

Pure: negotiated m-lines in, changes out (RFC 3264 section 8). An offer that changes nothing, as a session
refresh sends it, yields no change, so it never restarts anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from siprec.sdp.negotiate import NegotiatedStream
from siprec.session.model import Channel, Mode

DECODED = ("PCMU", "PCMA", "G722", "L16", "opus")
"""Encodings that rendering turns into audio; an offer's are all kept, in its order."""

CAPTURED = ("G729", "G729E", "AMR", "AMR-WB", "iLBC", "GSM", "speex", "G723", "G726-32", "G728", "EVS", "SILK")
"""Encodings that are captured where nothing better is offered, to be decoded later: better kept than lost."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one channel. `channel` is its new value; ports are kept, or still 0 for `opened`."""

    kind: Literal["opened", "changed", "closed"]
    channel: Channel


def changes(
    channels: Sequence[Channel],
    streams: Sequence[NegotiatedStream],
) -> list[Change]:
    """The changes that take `channels` to what `streams`, the m-lines of one offer in order, describe.

    An m-line that the offer leaves out, which RFC 3264 section 8 forbids, is closed as by port 0. That comes first: its
    stream may be in another slot now.
    """
    left_out = {each.index for each in channels if each.open and each.mline >= len(streams)}
    channels = [replace(each, mode="closed") if each.index in left_out else each for each in channels]
    found = [Change("closed", each) for each in channels if each.index in left_out]
    count = len(channels)
    for stream in streams:
        current = next((each for each in channels if each.mline == stream.index and each.open), None)
        if current is not None and (not stream.accepted or _is_other(current, stream)):
            found.append(Change("closed", replace(current, mode="closed")))
            current = None
        if not stream.accepted:
            continue
        if current is None:
            opened = {each.channel.index for each in found if each.kind == "opened"}
            known = _closed_before([each for each in channels if each.index not in opened], stream)
            index = count if known is None else known.index
            count += known is None
            found.append(Change("opened", _channel(index, stream, known)))
        elif (wanted := _moved(current, stream)) != current:
            found.append(Change("changed", wanted))
    return found


def holds(channels: Iterable[Channel], held: Callable[[Channel], bool]) -> list[Channel]:
    """The open channels whose mode changes by metadata: held by the call, or no longer.

    `held` tells of a channel whether the call itself holds it: its metadata says that those heard in it send it no more
    (RFC 8068 section 3.2.2). Otherwise an inactive stream is a pause of the recording (RFC 7866 section 7.1.1.1).
    """
    wanted = [(each, "hold" if held(each) else each.sdp_mode) for each in channels if each.open]
    return [replace(channel, mode=mode) for channel, mode in wanted if mode != channel.mode]


def mode_of(stream: NegotiatedStream) -> Mode:
    """What an accepted m-line should be doing: c=0.0.0.0 is a hold (RFC 3264 section 8.4), inactive a pause."""
    if stream.held:
        return "hold"
    return "active" if stream.direction == "recvonly" else "paused"


def _is_other(current: Channel, stream: NegotiatedStream) -> bool:
    """A slot whose label changed carries another stream now (RFC 3264 section 8.2, RFC 4574)."""
    return None not in {current.label, stream.label} and current.label != stream.label


def _closed_before(channels: Sequence[Channel], stream: NegotiatedStream) -> Channel | None:
    """The channel that this stream filled before it was closed: by its label, which some give twice, and its slot."""
    closed = [each for each in channels if not each.open and each.label == stream.label]
    same_slot = next((each for each in closed if each.mline == stream.index), None)
    return same_slot or next((each for each in closed if stream.label is not None), None)


def _channel(index: int, stream: NegotiatedStream, known: Channel | None) -> Channel:
    return Channel(
        index=index,
        stream_id=known.stream_id if known else None,
        participants=known.participants if known else (),
        past=known.past if known else (),
        since_ns=known.since_ns if known else 0,
        mline=stream.index,
        label=stream.label,
        mode=mode_of(stream),
        sdp_mode=mode_of(stream),
        formats=stream.formats,
        remote=_remote(stream),
        remote_rtcp=stream.remote_rtcp,
        rtcp_mux=stream.rtcp_mux,
        crypto=stream.crypto,
    )


def _moved(current: Channel, stream: NegotiatedStream) -> Channel:
    mode = mode_of(stream)
    return replace(
        current,
        label=current.label if stream.label is None else stream.label,
        mode=current.mode if mode == current.sdp_mode else mode,  # what the call holds it holds on
        sdp_mode=mode,
        formats=stream.formats,
        remote=_remote(stream) or current.remote,
        remote_rtcp=stream.remote_rtcp or current.remote_rtcp,
        rtcp_mux=stream.rtcp_mux,
        crypto=stream.crypto,
    )


def _remote(stream: NegotiatedStream) -> tuple[str, int] | None:
    if stream.held or stream.remote_address is None:
        return None
    return (stream.remote_address, stream.remote_port)
