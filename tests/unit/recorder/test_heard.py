"""Who was heard in a channel, and when, however the metadata came to tell it."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import pytest

from siprec.metadata import merge
from siprec.metadata.model import (
    NameID,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Recording,
    RSMetadata,
    Session,
    Stream,
)
from siprec.recorder import describe
from siprec.recorder.dossier import timestamp
from siprec.recorder.heard import HEARD_LIMIT
from siprec.session.model import Channel
from siprec.store import codec
from siprec.store.base import SessionRecord
from tests.support.sessions import WALL_NS, record

SECOND = 1_000_000_000
NAMES = {"a": "Alice", "b": "Bob", "c": "Carol"}


class Call:
    """A session of so many channels, and what it is told in one second after the other."""

    def __init__(self, *labels: str | None) -> None:
        self.record = record(1)
        self.record.metadata = RSMetadata()
        channel = replace(self.record.call.channels[0], stream_id=None, participants=())
        self.record.call.channels[:] = [
            replace(channel, index=index, mline=index, label=label) for index, label in enumerate(labels)
        ]
        self.seconds = 0

    def told(self, document: Recording) -> None:
        self.seconds += 1
        merge.apply(self.record.metadata, document, at_ns=self.now_ns)
        self.assign()

    def assign(self, *anew: int) -> None:
        describe.assign_participants(self.record, at_ns=self.now_ns, anew=anew)

    @property
    def now_ns(self) -> int:
        return WALL_NS + self.seconds * SECOND

    @property
    def channels(self) -> list[Channel]:
        return self.record.call.channels

    @property
    def kept(self) -> list[int]:
        return [len(each.past) for each in self.channels]

    @property
    def heard(self) -> list[list[tuple[str, int, int | None]]]:
        """Of each channel: who, from and until which second."""
        return [
            [(str(each["name"]), self._second(each["from"]), self._end(each["until"])) for each in channel.participants]
            for channel in describe.manifest(self.record).channels
        ]

    def _end(self, text: str | None) -> int | None:
        return None if text is None else self._second(text)

    @staticmethod
    def _second(text: str) -> int:
        base = timestamp(WALL_NS)
        minutes, seconds = (int(text[14:16]) - int(base[14:16]), int(text[17:19]) - int(base[17:19]))
        return 60 * minutes + seconds


def said(sends: dict[str, str], streams: dict[str, str] | None = None, *, partial: bool = False) -> Recording:
    """A document: which stream each participant sends ("" for none), and the label of each declared stream."""
    return Recording(
        "partial" if partial else "complete",
        sessions=(Session("cs"),),
        participants=tuple(Participant(each, (NameID(f"sip:{each}@example.com", NAMES[each]),)) for each in sends),
        streams=tuple(Stream(each, "cs", label) for each, label in (streams or {}).items()),
        participant_session_assocs=tuple(ParticipantSessionAssoc(each, "cs") for each in sends),
        participant_stream_assocs=tuple(
            ParticipantStreamAssoc(each, send=(stream,)) for each, stream in sends.items() if stream
        ),
    )


BOTH = said({"a": "s1", "b": "s2"}, {"s1": "1", "s2": "2"})


@pytest.fixture
def call() -> Call:
    made = Call("1", "2")
    made.told(BOTH)
    return made


def test_of_the_usual_call_nothing_is_kept(call: Call) -> None:
    assert call.heard == [[("Alice", 1, None)], [("Bob", 1, None)]]
    call.told(BOTH)
    assert call.heard == [[("Alice", 1, None)], [("Bob", 1, None)]]
    core = zlib.decompress(codec.encode(call.record, "boot").core).decode()
    assert "past" not in core
    assert "since_ns" not in core


def test_a_hold_ends_a_stretch(call: Call) -> None:
    call.told(Recording("partial", participant_stream_assocs=(ParticipantStreamAssoc("a"),)))
    assert call.heard[0] == [("Alice", 1, 2)]
    call.told(Recording("partial", participant_stream_assocs=(ParticipantStreamAssoc("a", send=("s1",)),)))
    assert call.heard == [[("Alice", 1, 2), ("Alice", 3, None)], [("Bob", 1, None)]]
    assert call.kept == [0, 0]


def test_another_sends_the_same_stream(call: Call) -> None:
    call.told(said({"a": "s1", "c": "s2"}, {"s1": "1", "s2": "2"}))
    assert call.heard == [[("Alice", 1, None)], [("Bob", 1, 2), ("Carol", 2, None)]]
    assert call.kept == [0, 0]


def test_another_stream_takes_the_label(call: Call) -> None:
    call.told(said({"a": "s1", "c": "s3"}, {"s1": "1", "s3": "2"}))
    assert call.heard == [[("Alice", 1, None)], [("Bob", 1, 2), ("Carol", 2, None)]]
    assert call.kept == [0, 1]


def test_it_is_known_after_a_take_over(call: Call) -> None:
    call.told(said({"a": "s1", "c": "s3"}, {"s1": "1", "s3": "2"}))
    before = call.heard
    call.record = codec.decode(codec.encode(call.record, "boot"))
    assert call.heard == before
    call.told(said({"a": "s1", "b": "s4"}, {"s1": "1", "s4": "2"}))
    assert call.heard[1] == [("Bob", 1, 2), ("Carol", 2, 3), ("Bob", 3, None)]


def test_a_record_of_an_earlier_version_is_read(call: Call) -> None:
    row = codec.encode(call.record, "boot")
    core = json.loads(zlib.decompress(row.core))
    assert not {"past", "since_ns"} & core["call"]["channels"][0].keys()
    read: SessionRecord = codec.decode(row)
    assert read == call.record


def test_labels_that_change_places_and_back(call: Call) -> None:
    call.told(Recording("partial", streams=(Stream("s1", "cs", "2"), Stream("s2", "cs", "1"))))
    assert call.heard == [[("Alice", 1, 2), ("Bob", 2, None)], [("Bob", 1, 2), ("Alice", 2, None)]]
    call.told(BOTH)
    assert call.heard[0] == [("Alice", 1, 2), ("Bob", 2, 3), ("Alice", 3, None)]
    assert call.heard[1] == [("Bob", 1, 2), ("Alice", 2, 3), ("Bob", 3, None)]


def test_streams_that_move_up_by_order() -> None:
    """Labels that are not those of the SDP: the streams that are left are paired with the m-lines in order."""
    call = Call("x", "y")
    call.told(BOTH)
    call.told(said({"b": "s2", "c": "s3"}, {"s2": "2", "s3": "3"}))
    assert call.heard == [[("Alice", 1, 2), ("Bob", 2, None)], [("Bob", 1, 2), ("Carol", 2, None)]]


def test_who_is_only_taken_for_the_sender_counts_while_in_the_call() -> None:
    call = Call("1", "2")
    call.told(said({"a": "", "b": ""}))
    assert call.heard == [[("Alice", 1, None)], [("Bob", 1, None)]]
    call.told(said({"a": "", "c": ""}))
    assert call.heard == [[("Alice", 1, None)], [("Bob", 1, 2), ("Carol", 2, None)]]
    call.told(said({"a": "s1", "c": "s3"}, {"s1": "1", "s3": "2"}))
    assert call.heard == [[("Alice", 1, None)], [("Bob", 1, 2), ("Carol", 2, None)]]


def test_all_of_a_mixed_stream_are_told() -> None:
    call = Call("1")
    call.told(said({"a": "m", "b": "m"}, {"m": "1"}))
    call.told(said({"b": "m", "c": "m"}, {"m": "1"}))
    assert call.heard == [[("Alice", 1, 2), ("Bob", 1, None), ("Carol", 2, None)]]


def test_a_call_after_the_other_in_one_recording_session(call: Call) -> None:
    call.told(Recording("partial", sessions=(Session("cs", stop_time=timestamp(call.now_ns + SECOND)),)))
    assert call.heard == [[("Alice", 1, 2)], [("Bob", 1, 2)]]
    second = said({"c": "t1", "b": "t2"}, {"t1": "1", "t2": "2"})
    streams = tuple(replace(each, session_id="cs-2") for each in second.streams)
    attended = tuple(replace(each, session_id="cs-2") for each in second.participant_session_assocs)
    call.told(replace(second, sessions=(Session("cs-2"),), streams=streams, participant_session_assocs=attended))
    assert call.heard == [[("Alice", 1, 2), ("Carol", 3, None)], [("Bob", 1, 2), ("Bob", 3, None)]]


def test_of_a_channel_that_carries_another_stream_nothing_known_counts_any_more() -> None:
    """And who was heard in it before is told on, whether or not anybody is known by then."""
    call = Call("1", "2")
    one = said({"a": "s1"}, {"s1": "1"})
    both = (ParticipantStreamAssoc("a", send=("s1", "s2")),)
    call.told(replace(one, streams=(*one.streams, Stream("s2", "cs", "2")), participant_stream_assocs=both))
    call.told(one)
    call.channels[1] = replace(call.channels[1], label="3")
    call.assign(1)
    assert (call.channels[1].stream_id, call.channels[1].participants) == (None, ())
    assert call.heard == [[("Alice", 1, None)], [("Alice", 1, 2)]]
    call.told(said({"a": "s1", "c": "s3"}, {"s1": "1", "s3": "3"}))
    assert call.heard == [[("Alice", 1, None)], [("Alice", 1, 2), ("Carol", 3, None)]]
    call.told(BOTH)
    assert call.heard[1][:2] == [("Alice", 1, 2), ("Carol", 3, 4)]


def test_what_a_message_makes_only_for_a_moment_is_not_told(call: Call) -> None:
    """Metadata that comes with SDP is looked at twice: with the streams as they were, and as they are."""
    call.told(said({"a": "s3", "b": "s4"}, {"s3": "3", "s4": "4"}))
    call.channels[:] = [replace(each, label=label) for each, label in zip(call.channels, "34", strict=True)]
    call.assign()
    assert call.heard == [[("Alice", 1, None)], [("Bob", 1, None)]]
    call.channels[:] = [replace(each, label=label) for each, label in zip(call.channels, "43", strict=True)]
    call.assign()
    assert call.heard == [[("Alice", 1, 2), ("Bob", 2, None)], [("Bob", 1, 2), ("Alice", 2, None)]]


@pytest.mark.parametrize("changes", [HEARD_LIMIT - 1, HEARD_LIMIT])
def test_no_more_is_told_than_the_limit_and_the_latest_stays(changes: int) -> None:
    call = Call("1")
    for number in range(changes + 1):
        call.told(said({"ab"[number % 2]: f"s{number}"}, {f"s{number}": "1"}))
    (heard,) = call.heard
    assert len(heard) == HEARD_LIMIT
    assert heard[-1][2] is None
    assert heard[0][1] == (1 if changes < HEARD_LIMIT else 2)
    call.told(said({"c": "last"}, {"last": "1"}))
    assert call.kept == [HEARD_LIMIT]


def test_who_a_damaged_journal_has_lost_is_told_by_id(call: Call) -> None:
    call.told(said({"a": "s1", "c": "s3"}, {"s1": "1", "s3": "2"}))
    del call.record.metadata.participants["b"]
    entry = describe.manifest(call.record).channels[1].participants[0]
    assert (entry["participant_id"], entry["name"]) == ("b", None)
