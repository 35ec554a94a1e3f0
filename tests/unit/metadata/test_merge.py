"""Complete and partial documents, one after another, and what they come to."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.metadata import merge, xml
from siprec.metadata.assign import Assignment, assign
from siprec.metadata.extensions import extensions, external_ids
from siprec.metadata.merge import Change, apply
from siprec.metadata.minimise import FIELDS, minimise
from siprec.metadata.model import (
    NAMESPACE,
    Extension,
    Group,
    Interval,
    NameID,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Recording,
    RSMetadata,
    Session,
    SessionRecordingAssoc,
    Stream,
)
from siprec.metadata.times import format_time
from siprec.store import plain
from tests.support.described import Party, describe_call

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
ALICE = Party("alice-id", "s1", "1", "sip:alice@example.com", "Alice")
BOB = Party("bob-id", "s2", "2", "sip:bob@example.com", "Bob")
CALL = describe_call("c1", [ALICE, BOB], at_ns=T0, sip_session_id="a;remote=b", group_id="g1")


def _at(seconds: int) -> int:
    return T0 + seconds * SECOND


def _text(seconds: int) -> str:
    return format_time(_at(seconds))


def _after(*documents: Recording) -> RSMetadata:
    """The state after documents that came a second apart, the first at T0."""
    state = RSMetadata()
    for second, document in enumerate(documents):
        apply(state, document, at_ns=_at(second))
    return state


def _partial(**parts: object) -> Recording:
    return Recording(datamode="partial", **parts)  # type: ignore[arg-type]


def _told(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(each.what, each.kind, each.id) for each in changes]


def _names(assigned: dict[int, Assignment]) -> list[list[str]]:
    return [[each.participant.display_name for each in one.participants] for one in assigned.values()]


# ---- complete documents


def test_first_document_tells_everything_once() -> None:
    state = RSMetadata()
    told = _told(apply(state, CALL, at_ns=_at(9)))
    assert told == [
        ("appeared", "group", "g1"),
        ("appeared", "session", "c1"),
        ("appeared", "participant", "alice-id"),
        ("appeared", "participant", "bob-id"),
        ("appeared", "stream", "s1"),
        ("appeared", "stream", "s2"),
        ("joined", "participant", "alice-id"),
        ("joined", "participant", "bob-id"),
        ("sends", "participant", "alice-id"),
        ("receives", "participant", "alice-id"),
        ("sends", "participant", "bob-id"),
        ("receives", "participant", "bob-id"),
    ]
    assert state.participants["alice-id"].joined_ns == T0
    assert state.sessions["c1"].span == Interval(T0)
    assert state.sessions["c1"].recorded == [Interval(T0)]
    assert apply(state, CALL, at_ns=_at(10)) == []


def test_what_a_complete_document_leaves_out_has_ended_but_stays_known() -> None:
    carol = Party("carol-id", "s3", "1", "sip:carol@example.com")
    state = _after(CALL, describe_call("c2", [carol, BOB], at_ns=_at(1), group_id="g1"))
    assert state.sessions["c1"].span == Interval(T0, _at(1))
    assert state.sessions["c2"].span == Interval(_at(1))
    assert state.participants["alice-id"].left_ns == _at(1)
    assert state.participants["bob-id"].left_ns is None
    assert state.streams["s1"].span.end_ns == _at(1)
    assert state.groups["g1"].span.open
    assert _names(assign(state, [(0, "1"), (1, "2")])) == [["carol"], ["Bob"]]


def test_who_was_left_out_by_mistake_comes_back() -> None:
    state = _after(CALL, Recording(), CALL)
    assert state.participants["alice-id"].sessions["c1"] == [Interval(T0, _at(1)), Interval(_at(2))]
    assert [each.span for each in state.participants["alice-id"].sends] == [Interval(T0, _at(1)), Interval(_at(2))]
    assert state.sessions["c1"].span.open


def test_a_document_without_associations_keeps_participants_present() -> None:
    document = Recording(participants=(Participant("p"),))
    state = _after(document, document)
    assert (state.participants["p"].joined_ns, state.participants["p"].left_ns) == (T0, None)
    assert _after(document, Recording()).participants["p"].left_ns == _at(1)


# ---- partial documents


def test_partial_document_is_laid_over_field_by_field() -> None:
    update = _partial(
        sessions=(Session("c1", sip_session_ids=("c;remote=d",)),),
        participants=(Participant("bob-id", (NameID("sip:bob@example.com", "Robert"),)),),
        streams=(Stream("s2", label="7"),),
    )
    state = _after(CALL)
    told = apply(state, update, at_ns=_at(1))
    assert _told(told) == [
        ("changed", "session", "c1"),
        ("changed", "participant", "bob-id"),
        ("changed", "stream", "s2"),
    ]
    assert (told[1].before, told[1].after) == ("Bob <sip:bob@example.com>", "Robert <sip:bob@example.com>")
    session = state.sessions["c1"].session
    assert (session.sip_session_ids, session.group_ref, session.start_time) == (("c;remote=d",), "g1", _text(0))
    assert state.streams["s2"].stream == Stream("s2", "c1", "7")
    assert state.participants["alice-id"].sending == ["s1"]


def test_partial_document_first_is_used_and_flagged() -> None:
    state = RSMetadata()
    told = apply(state, _partial(participants=(Participant("p"),)), at_ns=T0)
    assert _told(told) == [("fault", "recording", ""), ("appeared", "participant", "p")]
    assert state.faults == ["a partial document before any complete one"]
    assert not state.complete


def test_participant_may_come_and_go_several_times() -> None:
    def leave(second: int) -> Recording:
        return _partial(
            participant_session_assocs=(ParticipantSessionAssoc("bob-id", "c1", disassociate_time=_text(second)),)
        )

    def join(second: int) -> Recording:
        return _partial(participant_session_assocs=(ParticipantSessionAssoc("bob-id", "c1", _text(second)),))

    state = _after(CALL, leave(10), join(20), leave(30), join(40))
    bob = state.participants["bob-id"]
    assert bob.sessions["c1"] == [Interval(T0, _at(10)), Interval(_at(20), _at(30)), Interval(_at(40))]
    assert (bob.joined_ns, bob.left_ns) == (T0, None)
    assert apply(state, join(40), at_ns=_at(50)) == []
    assert _told(apply(state, leave(60), at_ns=_at(61))) == [("left", "participant", "bob-id")]
    assert apply(state, leave(60), at_ns=_at(62)) == []
    assert bob.left_ns == _at(60)


def test_who_leaves_sends_nothing_any_more() -> None:
    leave = ParticipantSessionAssoc("bob-id", "c1", disassociate_time=_text(10))
    state = _after(CALL, _partial(participant_session_assocs=(leave,)))
    assert (state.participants["bob-id"].sending, state.participants["bob-id"].receiving) == ([], [])
    assert state.participants["alice-id"].receiving == ["s2"]


def test_stream_association_replaces_the_one_before() -> None:
    def says(*send: str) -> Recording:
        return _partial(participant_stream_assocs=(ParticipantStreamAssoc("alice-id", send),))

    state = _after(CALL, says(), says("s1", "s9"), says("s9"))
    alice = state.participants["alice-id"]
    assert alice.sending == ["s9"]
    assert alice.receiving == []
    assert [(each.stream_id, each.span) for each in alice.sends] == [
        ("s1", Interval(T0, _at(1))),
        ("s1", Interval(_at(2), _at(3))),
        ("s9", Interval(_at(2))),
    ]


def test_several_associations_of_one_participant_in_one_document_add_up() -> None:
    both = (ParticipantStreamAssoc("alice-id", ("s1",)), ParticipantStreamAssoc("alice-id", ("s9",), ("s2",)))
    state = _after(CALL, _partial(participant_stream_assocs=both))
    assert state.participants["alice-id"].sending == ["s1", "s9"]
    assert state.participants["alice-id"].receiving == ["s2"]


def test_disassociated_streams_end_when_stated() -> None:
    assoc = ParticipantStreamAssoc("alice-id", ("s1",), disassociate_time=_text(5))
    state = _after(CALL, _partial(participant_stream_assocs=(assoc,)))
    assert state.participants["alice-id"].sends[0].span == Interval(T0, _at(5))


def test_stop_time_takes_participants_and_streams_along() -> None:
    state = _after(CALL)
    stop = _partial(sessions=(Session("c1", stop_time=_text(30)),))
    told = _told(apply(state, stop, at_ns=_at(31)))
    assert told[0] == ("ended", "session", "c1")
    assert {("left", "participant", "alice-id"), ("left", "participant", "bob-id")} <= set(told)
    assert state.participants["alice-id"].left_ns == _at(30)
    assert state.streams["s1"].span.end_ns == _at(30)
    assert state.participants["alice-id"].sending == []
    assert apply(state, stop, at_ns=_at(32)) == []
    assert _names(assign(state, [(0, "1"), (1, "2")])) == [["Alice"], ["Bob"]]


def test_complete_document_of_an_ended_session_is_idempotent() -> None:
    ended = Recording(
        sessions=(Session("c1", start_time=_text(0), stop_time=_text(9)),),
        participants=CALL.participants,
        streams=CALL.streams,
        participant_session_assocs=CALL.participant_session_assocs,
        participant_stream_assocs=CALL.participant_stream_assocs,
    )
    state = RSMetadata()
    assert apply(state, ended, at_ns=_at(10))
    assert apply(state, ended, at_ns=_at(11)) == []
    assert state.participants["bob-id"].sessions["c1"] == [Interval(T0, _at(9))]
    assert _names(assign(state, [(0, "1"), (1, "2")])) == [["Alice"], ["Bob"]]


def test_new_session_in_the_same_group_after_a_transfer() -> None:
    stop = _partial(sessions=(Session("c1", stop_time=_text(5)),))
    carol = Party("carol-id", "s1", "1", "sip:carol@example.com")
    state = _after(CALL, stop, describe_call("c2", [carol, BOB], at_ns=_at(6), group_id="g1"))
    assert state.participants["bob-id"].sessions == {"c1": [Interval(T0, _at(5))], "c2": [Interval(_at(6))]}
    assert state.streams["s1"].span.open
    assert _names(assign(state, [(0, "1"), (1, "2")])) == [["carol"], ["Bob"]]


def test_recording_association_has_intervals_too() -> None:
    off = _partial(session_recording_assocs=(SessionRecordingAssoc("c1", disassociate_time=_text(4)),))
    on = _partial(session_recording_assocs=(SessionRecordingAssoc("c1", _text(8)),))
    assert _after(CALL, off, on).sessions["c1"].recorded == [Interval(T0, _at(4)), Interval(_at(8))]


def test_params_and_undeclared_participants_are_kept() -> None:
    assoc = ParticipantSessionAssoc("focus-id", "c1", params=(("isfocus", "true"),))
    state = _after(CALL, _partial(participant_session_assocs=(assoc,)))
    assert state.participants["focus-id"].params == {"c1": (("isfocus", "true"),)}
    assert state.participants["focus-id"].joined_ns == _at(1)


def test_times_of_a_clock_never_set_are_replaced_by_the_time_received() -> None:
    state = RSMetadata()
    apply(state, Recording(sessions=(Session("c", start_time="1970-05-13T03:29:05Z"),)), at_ns=_at(3))
    assert state.sessions["c"].span.start_ns == _at(3)


# ---- faults and limits

UUID = "AAAAAAAAAAAAAAAAAAAAAA=="


def test_one_uuid_on_two_kinds_is_an_error_of_the_later_one() -> None:
    state = RSMetadata()
    document = Recording(participants=(Participant(UUID),), streams=(Stream(UUID, label="1"),))
    told = _told(apply(state, document, at_ns=T0))
    assert told == [("appeared", "participant", UUID), ("fault", "stream", UUID)]
    assert state.faults == ["the id of a participant on a stream"]
    assert not state.streams


def test_short_ids_may_be_used_for_every_kind() -> None:
    state = _after(Recording(sessions=(Session("1"),), participants=(Participant("1"),), streams=(Stream("1"),)))
    assert state.faults == []


@pytest.mark.parametrize(
    ("text", "unique"),
    [
        (UUID, True),
        ("urn:uuid:00000000-0000-4000-8000-000000000000", True),
        ("00000000-0000-4000-8000-00000000000F", True),
        ("00000000000040008000000000000000", True),
        ("1001", False),
        ("9a2de728ba0bc348db1e", False),
        ("MTQ3YzA3YzAtNjdkNy0xMA==" + "AAAA", False),
        ("A" * 23 + "!", False),
        ("é" * 24, False),
        ("", False),
    ],
)
def test_unique_ids(text: str, unique: bool) -> None:
    assert merge.is_unique_id(text) is unique


def test_limit_of_known_elements() -> None:
    streams = tuple(Stream(f"s{number}") for number in range(merge.MAX_KNOWN))
    state = _after(Recording(streams=streams))
    assert len(state.streams) == merge.MAX_KNOWN
    assert state.faults == []
    apply(state, _partial(streams=(Stream("one more"),)), at_ns=T0)
    assert len(state.streams) == merge.MAX_KNOWN
    assert state.faults == [f"more than {merge.MAX_KNOWN} elements of the kind stream"]


def test_limit_of_intervals_forgets_the_oldest() -> None:
    state = _after(CALL)
    for number in range(merge.MAX_INTERVALS):
        assoc = ParticipantSessionAssoc("bob-id", "c1", _text(10 + number), _text(10 + number))
        leave = ParticipantSessionAssoc("bob-id", "c1", disassociate_time=_text(9))
        apply(state, _partial(participant_session_assocs=(leave, assoc)), at_ns=_at(10 + number))
        spans = state.participants["bob-id"].sessions["c1"]
        assert len(spans) == min(number + 2, merge.MAX_INTERVALS)
    assert spans[0].start_ns == _at(10)


def test_limit_of_sessions_of_one_participant() -> None:
    assocs = tuple(ParticipantSessionAssoc("p", f"c{number}") for number in range(merge.MAX_INTERVALS))
    state = _after(Recording(participant_session_assocs=assocs))
    assert state.faults == []
    apply(state, _partial(participant_session_assocs=(ParticipantSessionAssoc("p", "more"),)), at_ns=T0)
    assert len(state.participants["p"].sessions) == merge.MAX_INTERVALS
    assert state.faults == [f"in more than {merge.MAX_INTERVALS} sessions"]


# ---- who is on which m-line


def _document(inner: str) -> RSMetadata:
    found = xml.parse(f'<recording xmlns="{NAMESPACE}">{inner}</recording>'.encode())
    assert isinstance(found, Recording)
    return _after(found)


PEOPLE = '<participant id="a"><aor>alice</aor>{}</participant><participant id="b"><aor>bob</aor>{}</participant>'


BOTH = PEOPLE.format("<send>x</send>", "<send>y</send>")
NOBODY = PEOPLE.format("", "")
STREAM = '<stream id="{}"><label>{}</label></stream>'


@pytest.mark.parametrize(
    ("inner", "labels", "names", "ground"),
    [
        pytest.param(
            BOTH + STREAM.format("y", "1") + STREAM.format("x", "2"),
            ["1", "2"], [["bob"], ["alice"]], "label", id="labels beat order"),
        pytest.param(
            PEOPLE.format("<send>x</send>", "<send>x</send>") + STREAM.format("x", "1"),
            ["1"], [["alice", "bob"]], "label", id="mixed stream"),
        pytest.param(BOTH, ["1", "2"], [["alice"], ["bob"]], "order", id="sends to undeclared streams"),
        pytest.param(NOBODY, ["1", "0"], [["alice"], ["bob"]], "order", id="no streams at all"),
        pytest.param(NOBODY, [None, None], [["alice"], ["bob"]], "order", id="no labels at all"),
        pytest.param(NOBODY, ["1"], [["alice", "bob"]], "order", id="one line for all"),
        pytest.param(
            BOTH + STREAM.format("x", "first") + STREAM.format("y", "second"),
            ["1", "2"], [["alice"], ["bob"]], "order", id="labels of another world"),
        pytest.param(
            NOBODY + STREAM.format("x", "1") + STREAM.format("y", "2"),
            ["1", "2"], [["alice"], ["bob"]], "order", id="streams that nobody sends"),
        pytest.param("", ["1", "2"], [[], []], "none", id="nothing known"),
    ],
)  # fmt: skip
def test_assignment(inner: str, labels: list[str | None], names: list[list[str]], ground: str) -> None:
    assigned = assign(_document(inner), list(enumerate(labels)))
    assert _names(assigned) == names
    assert {each.ground for each in assigned.values()} == {ground}


def test_third_stream_that_mixes_both() -> None:
    inner = PEOPLE.format("<send>x</send><send>m</send>", "<send>y</send><send>m</send>")
    for name, label in (("x", "1"), ("y", "2"), ("m", "3")):
        inner += f'<stream id="{name}"><label>{label}</label></stream>'
    assigned = assign(_document(inner), [(0, "1"), (1, "2"), (2, "3")])
    assert _names(assigned) == [["alice"], ["bob"], ["alice", "bob"]]
    assert assigned[2].participant is None
    assert assigned[0].participant is not None
    assert assigned[2].stream_id == "m"


def test_hold_does_not_take_the_name_from_the_channel() -> None:
    hold = _partial(participant_stream_assocs=(ParticipantStreamAssoc("alice-id", (), ("s2",)),))
    assert _names(assign(_after(CALL, hold), [(0, "1"), (1, "2")])) == [["Alice"], ["Bob"]]


def test_transfer_that_names_undeclared_streams() -> None:
    """RFC 8068 section 3.2.3: the new party sends streams that no element declares."""
    update = _partial(
        participants=(Participant("carol-id", (NameID("sip:carol@example.com"),)),),
        participant_session_assocs=(
            ParticipantSessionAssoc("carol-id", "c1", _text(5)),
            ParticipantSessionAssoc("alice-id", "c1", disassociate_time=_text(5)),
        ),
        participant_stream_assocs=(ParticipantStreamAssoc("carol-id", ("s7",)),),
    )
    assigned = assign(_after(CALL, update), [(0, "1"), (1, "2")])
    assert _names(assigned) == [["carol"], ["Bob"]]
    assert assigned[0].stream_id == "s1"


# ---- what goes with the state


def test_external_ids_and_extensions_of_a_state() -> None:
    extension = Extension("group", "g1", "", "ucid", "<ucid>1</ucid>", (("ucid", "00fa08;encoding=hex"),))
    state = _after(CALL, _partial(groups=(Group("g1", extensions=(extension,)),)))
    assert extensions(state) == [extension]
    assert external_ids(state) == {"session-id": "a;remote=b", "ucid": "00FA08"}


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("00FA080001000a5B2C3D4E;encoding=hex", "0001000A5B2C3D4E"),
        ("04C80100FA080001000A5B2C3D4E", "0001000A5B2C3D4E"),
        (" fa080001000A5B2C3D4E ", "0001000A5B2C3D4E"),
        ("0001000a5b2c3d4e", "0001000A5B2C3D4E"),
        ("00fa08000705d4c5", "00FA08000705D4C5"),
        ("00001000101513897294", "0001000A5A3C3D4E"),
        ("65535655354294967295", "FFFFFFFFFFFFFFFF"),
        ("65536000101513897294", "65536000101513897294"),  # no node has that number
        ("00001000104294967296", "00001000104294967296"),
        ("0000100010151389729", "0000100010151389729"),
        ("\u0661" * 20, "\u0661" * 20),
        ("00001000101513897294;encoding=hex", "00001000101513897294"),
    ],
)
def test_a_ucid_has_one_form(written: str, known: str) -> None:
    extension = Extension("session", "s1", "", "ucid", "", (("ucid", written),))
    assert external_ids(Recording(extensions=(extension,))) == {"ucid": known}


def test_state_survives_a_store() -> None:
    extension = Extension("session", "c1", "", "x", "<x/>", (("x", "y"),))
    assoc = ParticipantSessionAssoc("bob-id", "c1", params=(("isfocus", "true"),))
    update = _partial(
        sessions=(Session("c1", extensions=(extension,)),), participant_session_assocs=(assoc,), extensions=(extension,)
    )
    state = _after(CALL, update, _partial(sessions=(Session("c1", stop_time=_text(9)),)))
    assert plain.load(RSMetadata, json.loads(json.dumps(plain.dump(state)))) == state


def test_minimise_keeps_only_what_policy_names() -> None:
    extension = Extension("session", "c1", "", "x", "<x/>")
    full = Recording(
        groups=(Group("g1"),),
        sessions=(Session("c1", ("a;remote=b",), group_ref="g1", start_time="t", extensions=(extension,)),),
        participants=(Participant("p", (NameID("sip:alice@example.com", "Alice"),), "Al"),),
        streams=CALL.streams,
        participant_session_assocs=(ParticipantSessionAssoc("p", "c1", "t", params=(("isfocus", "true"),)),),
        extensions=(extension,),
    )
    assert minimise(full, keep=FIELDS) == full
    least = minimise(full, keep=())
    assert least == Recording(
        sessions=(Session("c1", start_time="t"),),
        participants=(Participant("p", (NameID(""),)),),
        streams=CALL.streams,
        participant_session_assocs=(ParticipantSessionAssoc("p", "c1", "t"),),
    )
    assert minimise(full, keep={"names"}).participants[0].display_name == "Al"
    assert minimise(full, keep={"aors"}).participants[0].display_name == "alice"


# ---- property

_ids = st.sampled_from(["1", "2", UUID, ""])
_times = st.sampled_from(["", "nonsense", _text(-5), _text(5)])
_assocs = st.builds(ParticipantSessionAssoc, _ids, _ids, _times, _times)
_sends = st.lists(_ids, max_size=2).map(tuple)
_recordings = st.builds(
    Recording,
    datamode=st.sampled_from(["complete", "partial"]),
    groups=st.lists(st.builds(Group, _ids, _times, _times), max_size=2).map(tuple),
    sessions=st.lists(st.builds(Session, _ids, start_time=_times, stop_time=_times), max_size=2).map(tuple),
    participants=st.lists(st.builds(Participant, _ids), max_size=2).map(tuple),
    streams=st.lists(st.builds(Stream, _ids, _ids, st.sampled_from(["", "1", "2"])), max_size=2).map(tuple),
    session_recording_assocs=st.lists(st.builds(SessionRecordingAssoc, _ids, _times, _times), max_size=2).map(tuple),
    participant_session_assocs=st.lists(_assocs, max_size=3).map(tuple),
    participant_stream_assocs=st.lists(
        st.builds(ParticipantStreamAssoc, _ids, _sends, _sends, _times, _times), max_size=2
    ).map(tuple),
)


@settings(max_examples=300)
@given(st.lists(_recordings, max_size=5))
def test_any_documents_merge_without_error_and_erase_nothing(documents: list[Recording]) -> None:
    state = RSMetadata()
    seen: set[str] = set()
    for second, document in enumerate(documents):
        apply(state, document, at_ns=_at(second))
        assert seen <= set(state.participants)
        seen = set(state.participants)
        for person in state.participants.values():
            spans = [*person.intervals, *(each.span for each in (*person.sends, *person.recvs))]
            assert all(span.end_ns is None or span.end_ns >= span.start_ns for span in spans)
            assert len(set(person.sending)) == len(person.sending)
        assign(state, [(0, "1"), (1, None), (2, "2")])
    assert plain.load(RSMetadata, json.loads(json.dumps(plain.dump(state)))) == state
