"""How an offer changes the channels of a session: which open, move, pause, resume or close.

Pure: negotiated m-lines in, changes out (RFC 3264 section 8). An offer that changes nothing, as a session
refresh sends it, yields no change, so it never restarts anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from siprec.sdp.negotiate import NegotiatedStream, refuse
from siprec.session.model import Channel, Mode

DECODED = ("PCMU", "PCMA", "G722", "L16", "opus")
"""Encodings that rendering turns into audio; an offer's are all kept, in its order."""

CAPTURED = ("G729", "G729E", "AMR", "AMR-WB", "iLBC", "GSM", "speex", "G723", "G726-32", "G728", "EVS", "SILK")
"""Encodings that are captured where nothing better is offered, to be decoded later: better kept than lost."""

OPEN_LIMIT = 32
"""Streams of one session at a time: each costs a port pair; RFC 7866 section 8.4 asks for 4."""

CHANNELS_LIMIT = OPEN_LIMIT
"""Channels that a session gets: with as many as streams can be open, one is closed whenever another stream comes. More
would only make the file larger, by 57 MB an hour and channel, all of it silence but for one call of many in one session
(RFC 7866 section 10).
"""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one channel. `channel` is its new value; ports are kept, or still 0 for `opened`. `another`: it
    is opened for another stream than it had before.
    """

    kind: Literal["opened", "changed", "closed"]
    channel: Channel
    another: bool = False


def admitted(channels: Iterable[Channel], streams: Iterable[NegotiatedStream]) -> list[NegotiatedStream]:
    """`streams`, the m-lines of one offer, with those refused that are accepted beyond OPEN_LIMIT: not those that are
    open already, then the last of them.
    """
    streams = list(streams)
    running = {each.mline for each in channels if each.open}
    accepted = sorted((each.index not in running, each.index) for each in streams if each.accepted)
    beyond = {index for _, index in accepted[OPEN_LIMIT:]}
    reason = f"more than {OPEN_LIMIT} streams at a time"
    return [refuse(each, reason) if each.index in beyond else each for each in streams]


def closed(channels: Iterable[Channel], over: Collection[int]) -> list[Channel]:
    """`channels` once those of the indexes `over`, which are open, are closed."""
    channels = list(channels)
    before = max((each.closing for each in channels), default=0)
    number = {index: before + place for place, index in enumerate(sorted(over), 1)}
    return [
        replace(each, mode="closed", closing=number[each.index]) if each.index in number else each for each in channels
    ]


def changes(channels: Sequence[Channel], streams: Sequence[NegotiatedStream]) -> list[Change]:
    """The changes that take `channels` to what `streams`, the m-lines of one offer in order, describe.

    An m-line that the offer leaves out, which RFC 3264 section 8 forbids, is closed as by port 0. All that is closed is
    closed first: a stream may be in another slot now, where its label finds its channel (RFC 4574).
    """
    over = {each.index for each in channels if each.open and _is_over(each, streams)}
    channels = closed(channels, over)
    found = [Change("closed", each) for each in channels if each.index in over]
    running = {each.mline: each for each in channels if each.open}
    places = _places(channels, [each for each in streams if each.accepted and each.index not in running])
    for stream in streams:
        if stream.index in places:
            place = places[stream.index]
            known = next((each for each in channels if each.index == place), None)
            another = known is not None and _closed_before([known], stream) is None
            found.append(Change("opened", _channel(place, stream, known), another))
        elif stream.accepted and (wanted := _moved(running[stream.index], stream)) != running[stream.index]:
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


def _is_over(channel: Channel, streams: Sequence[NegotiatedStream]) -> bool:
    """Whether its slot carries it no more; with another label it is another stream (RFC 3264 section 8.2, RFC 4574)."""
    stream = streams[channel.mline] if channel.mline < len(streams) else None
    if stream is None or not stream.accepted:
        return True
    return None not in {channel.label, stream.label} and channel.label != stream.label


def _places(channels: Sequence[Channel], streams: Sequence[NegotiatedStream]) -> dict[int, int]:
    """The index of the channel for each of `streams`, which are to be opened, by slot.

    It is the one that the stream had before, else a new one. Once there are CHANNELS_LIMIT it is a closed one: the last
    of its slot, so that one call after the other in the same slots has the same channels, else the one that has been
    closed longest.
    """
    free = [each for each in channels if not each.open]
    found: dict[int, int] = {}

    def choose(stream: NegotiatedStream, channel: Channel | None) -> None:
        if stream.index not in found and channel is not None:
            free.remove(channel)
            found[stream.index] = channel.index

    for stream in streams:
        choose(stream, _closed_before(free, stream))
    new = iter(range(len(channels), CHANNELS_LIMIT))
    for stream in streams:
        if stream.index not in found and (index := next(new, None)) is not None:
            found[stream.index] = index
    for stream in streams:
        choose(stream, max((each for each in free if each.mline == stream.index), key=_closing, default=None))
    for stream in streams:
        choose(stream, min(free, key=_closing, default=None))
    return found


def _closing(channel: Channel) -> tuple[int, int]:
    """By when it was closed; those of a record of an earlier version do not tell."""
    return channel.closing, channel.index


def _closed_before(free: Sequence[Channel], stream: NegotiatedStream) -> Channel | None:
    """The channel that this stream filled before it was closed: by its label, which some give twice, and its slot."""
    same = [each for each in free if each.label == stream.label]
    same_slot = next((each for each in same if each.mline == stream.index), None)
    return same_slot or next((each for each in same if stream.label is not None), None)


def _channel(index: int, stream: NegotiatedStream, known: Channel | None) -> Channel:
    return Channel(
        index=index,
        stream_id=known.stream_id if known else None,
        participants=known.participants if known else (),
        past=known.past if known else (),
        since_ns=known.since_ns if known else 0,
        closing=known.closing if known else 0,
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
