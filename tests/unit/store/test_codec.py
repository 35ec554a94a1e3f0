"""Records at rest: what goes in comes out, whatever version wrote it, and nonsense is told."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.metadata.merge import apply
from siprec.metadata.model import Participant, Recording, RSMetadata
from siprec.session.model import HISTORY_LIMIT, CallData, DialogInfo
from siprec.session.transitions import Event, State
from siprec.store import codec, plain
from siprec.store.base import Reason, SessionRecord
from siprec.store.codec import Row, TooNew, Unreadable
from tests.support.sessions import record

texts = st.text(max_size=20)
calls = st.builds(
    CallData,
    session_id=texts,
    node=texts,
    source=texts,
    identity=texts,
    call_id=texts,
    offered_ns=st.integers(min_value=0, max_value=2**62),
    state=st.sampled_from(State),
    fence=st.integers(0, 2**40),
    external_ids=st.dictionaries(texts, texts, max_size=3),
)


def _body(raw: object) -> bytes:
    return zlib.compress(json.dumps(raw).encode())


def _core(row: Row) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(zlib.decompress(row.core))
    return raw


@settings(max_examples=50)
@given(calls)
def test_records_come_back_as_they_were(call: CallData) -> None:
    kept = SessionRecord(call, record(1).dialogs, record(1).metadata)
    assert codec.decode(codec.encode(kept, "boot")) == kept


def test_the_history_keeps_its_length() -> None:
    mine = record(1)
    for _ in range(3 * HISTORY_LIMIT):
        mine.call.fire(Event.INACTIVE if mine.call.state == State.RECORDING else Event.ACTIVE, at_ns=1, monotonic=1.0)
    back = codec.decode(codec.encode(mine, "boot"))
    assert back == mine
    assert len(back.call.history) == HISTORY_LIMIT


def test_every_field_of_a_record_can_be_stored() -> None:
    for kind in (CallData, DialogInfo, RSMetadata):
        plain.shape(kind)


def test_a_record_is_about_a_kilobyte() -> None:
    row = codec.encode(record(1), "boot")
    assert len(row.core) < 1024


def test_of_an_ended_session_a_few_hundred_bytes_are_left() -> None:
    row = codec.bury(codec.encode(record(1), "boot-1"), "bye")
    assert len(row.core) + len(row.sdp) + len(row.xml) < 400
    assert {key for key in codec.keys(codec.encode(record(1), "boot-1")) if key[0] != "media"} == codec.keys(row)


def test_a_broken_row_cannot_be_buried() -> None:
    with pytest.raises(Unreadable):
        codec.bury(replace(codec.encode(record(1), "boot-1"), core=_body({"call": {}})), "bye")


def test_fields_of_a_later_version_are_passed_over() -> None:
    row = codec.encode(record(1), "boot")
    core = _core(row)
    core["call"]["from_the_future"] = {"a": [1]}
    core["dialogs"][0]["dialog"]["flow"]["colour"] = "red"
    core["else"] = 1
    assert codec.decode(replace(row, core=_body(core))) == record(1)


def test_fields_of_a_later_version_than_the_writer_have_their_defaults() -> None:
    row = codec.encode(record(1), "boot")
    core = _core(row)
    del core["call"]["channels"][0]["address"]
    assert codec.decode(replace(row, core=_body(core))).call.channels[0].address == ""


def test_the_schema_before_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(raw: codec.Raw) -> codec.Raw:
        raw["core"]["call"]["source"] = raw["core"]["call"].pop("origin")
        return raw

    row = codec.encode(record(1), "boot")
    core = _core(row)
    core["call"]["origin"] = core["call"].pop("source")
    old, keys = replace(row, core=_body(core)), codec.keys(row)
    monkeypatch.setattr(codec, "SCHEMA", row.schema + 1)
    with pytest.raises(Unreadable, match="too old"):
        codec.decode(old)
    monkeypatch.setitem(codec._UPGRADES, row.schema, rename)
    assert codec.decode(old) == record(1)
    assert codec.keys(old) == keys


def test_a_later_schema_is_told_from_damage() -> None:
    row = replace(codec.encode(record(1), "boot"), schema=codec.SCHEMA + 1)
    with pytest.raises(TooNew):
        codec.decode(row)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("call", "source"), 7, "int where str"),
        (("call", "offered_ns"), True, "bool where int"),
        (("call", "history"), [{"event": "answered"}], "lacks"),
        (("call", "channels"), {}, "dict where a list"),
        (("call", "external_ids"), [], "list where an object"),
        (("call", "channels", 0, "remote"), ["192.0.2.1"], "1 items where 2"),
        (("call", "channels", 0, "mode"), "sleeping", "none of"),
        (("dialogs", 0, "dialog", "flow"), "udp", "not an object"),
        (("dialogs", 0, "dialog", "last_invite", "answer"), "%%%", "base64|Only base64|Non-base64"),
        (("dialogs",), None, "not iterable"),
    ],
)
def test_values_are_checked(path: tuple[Any, ...], value: object, reason: str) -> None:
    row = codec.encode(record(1), "boot")
    core = _core(row)
    at: Any = core
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(Unreadable, match=reason):
        codec.decode(replace(row, core=_body(core)))


def test_a_body_that_inflates_beyond_the_limit_is_not_read() -> None:
    row = codec.encode(record(1), "boot")
    largest = json.dumps({"": " " * (codec.BODY_LIMIT - len('{"": ""}'))}).encode()
    with pytest.raises(Unreadable, match="call"):
        codec.decode(replace(row, core=zlib.compress(largest)))
    with pytest.raises(Unreadable, match="over"):
        codec.decode(replace(row, core=zlib.compress(largest + b" ")))


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bodies_raise_only_unreadable(data: bytes, deflated: bool) -> None:
    row = codec.encode(record(1), "boot")
    for damaged in (replace(row, core=zlib.compress(data) if deflated else data), replace(row, xml=data)):
        try:
            codec.decode(damaged)
            codec.keys(damaged)
        except Unreadable:
            continue


def test_what_a_record_may_not_hold_is_told_at_once() -> None:
    @dataclass
    class Wrong:
        handle: object

    @dataclass
    class Right:
        handle: object = field(default=None, metadata={"stored": False})

    with pytest.raises(TypeError):
        plain.shape(Wrong)
    assert plain.dump(Right()) == {}


def test_no_head_field_is_missing_from_the_row() -> None:
    names = {each.name for each in fields(Row)}
    assert names >= codec._HEAD
    assert set(get_type_hints(CallData)) >= codec._SDP
    assert get_args(Reason) == ("bye", "lost")


@pytest.mark.parametrize("ended", [None, "bye"])
def test_the_keys_of_a_record_are_those_of_its_row(ended: Reason | None) -> None:
    mine = record(1)
    mine.ended = ended
    assert codec.keys_of(mine) == codec.keys(codec.encode(mine, "boot"))


def test_metadata_that_changed_is_stored_anew() -> None:
    mine = record(1)
    before = codec.encode(mine, "boot")
    assert codec.encode(mine, "boot").xml is before.xml
    apply(mine.metadata, Recording("complete", participants=(Participant("carol"),)), at_ns=1)
    assert codec.decode(codec.encode(mine, "boot")).metadata == mine.metadata != codec.decode(before).metadata
