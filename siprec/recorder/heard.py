"""Who was heard in a channel, and when, as the metadata tells.

What was told of the stream that a channel carries now lies in the metadata itself, with all who sent it before. Only
of a channel that has carried another stream, or was somebody else's by a guess, is more to be kept: its `past`. So the
usual call keeps nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from siprec.metadata.model import Interval
from siprec.session.model import Channel, Stretch
from siprec.store.base import SessionRecord

HEARD_LIMIT = 200
"""Stretches of one channel, past and told; later ones push out the oldest, which are in events.jsonl only. A day of
calls in one persistent recording session (RFC 8068 section 3.4) stays below; one costs each record some 20 octets.
"""


def follow(record: SessionRecord, channel: Channel, *, at_ns: int) -> Channel:
    """`channel` as it is to replace the one of its index, with what that was until the message of `at_ns`."""
    before = record.call.channels[channel.index]
    if (before.stream_id, before.participants) == (channel.stream_id, channel.participants):
        return channel
    if not (before.stream_id or before.participants) or before.since_ns == at_ns:  # one message, looked at twice
        return channel
    told = _told(record)
    over = _present(record, before, told=told)
    if before.stream_id == channel.stream_id:
        kept = {*channel.participants, *(key for key, _ in told.get(channel.stream_id or "", ()))}
        over = [each for each in over if each.participant not in kept]
    ended = (each if each.end_ns is not None else replace(each, end_ns=max(each.start_ns, at_ns)) for each in over)
    return replace(channel, past=(*before.past, *ended)[-HEARD_LIMIT:], since_ns=at_ns)


def stretches(record: SessionRecord) -> list[list[Stretch]]:
    """All of each channel, by time; those that last have no end."""
    told = _told(record)
    return [_joined([*each.past, *_present(record, each, told=told)]) for each in record.call.channels]


_Told = dict[str, list[tuple[str, Interval]]]


def _told(record: SessionRecord) -> _Told:
    """Who sent each stream that is a channel's, and when."""
    wanted = {each.stream_id for each in record.call.channels}
    found: _Told = defaultdict(list)
    for key, person in record.metadata.participants.items():
        for each in person.sends:
            if each.stream_id in wanted:
                found[each.stream_id].append((key, each.span))
    return found


def _present(record: SessionRecord, channel: Channel, *, told: _Told) -> list[Stretch]:
    """What the metadata tells of the stream that `channel` carries. Of those who are only taken for its senders: when
    they sent what nobody declared (RFC 8068 section 3.2.3), or else were in the call. What was heard elsewhere before
    counts from when it came here.
    """
    people, declared = record.metadata.participants, record.metadata.streams
    sent = told.get(channel.stream_id or "", [])
    taken = [key for key in channel.participants if key in people and key not in {sender for sender, _ in sent}]
    guessed = [
        (key, span)
        for key in taken
        for span in [each.span for each in people[key].sends if each.stream_id not in declared] or people[key].intervals
    ]
    elsewhere = {(each.participant, each.start_ns) for one in record.call.channels for each in one.past}
    found = []
    for key, span in (*sent, *guessed):
        start_ns = span.start_ns
        if (key, start_ns) in elsewhere:
            start_ns = max(start_ns, channel.since_ns)
            if span.end_ns is not None and span.end_ns <= start_ns:
                continue
        found.append(Stretch(key, start_ns, span.end_ns))
    return found


def _joined(found: Iterable[Stretch]) -> list[Stretch]:
    """By time; what overlaps or meets of one participant is one stretch."""
    result: list[Stretch] = []
    latest: dict[str, int] = {}
    for each in sorted(found, key=lambda each: each.start_ns):
        at = latest.get(each.participant)
        last = result[at] if at is not None else None
        if at is None or last is None or (last.end_ns is not None and each.start_ns > last.end_ns):
            latest[each.participant] = len(result)
            result.append(each)
        elif last.end_ns is not None:
            end_ns = None if each.end_ns is None else max(last.end_ns, each.end_ns)
            result[at] = replace(last, end_ns=end_ns)
    return result[-HEARD_LIMIT:]
