"""Metadata documents: vectors of every dialect in pairs, hostile XML, limits, and parse as the inverse of build."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.errors import MetadataError
from siprec.metadata import tree, xml
from siprec.metadata.assign import assign
from siprec.metadata.extensions import external_ids
from siprec.metadata.merge import apply
from siprec.metadata.model import (
    NAMESPACE,
    Group,
    NameID,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Reason,
    Recording,
    RSMetadata,
    Session,
    SessionRecordingAssoc,
    SnapshotRequest,
    Stream,
)
from tests.support.described import Party, describe_call

VECTORS = Path(__file__).parents[2] / "vectors" / "metadata"
GOOD = sorted(VECTORS.glob("*.good.xml"))
BAD = sorted(VECTORS.glob("*.bad.xml"))
AT = 1_800_000_000_000_000_000


def _recording(body: bytes | str, charset: str | None = None) -> Recording:
    found = xml.parse(body.encode() if isinstance(body, str) else body, charset)
    assert isinstance(found, Recording)
    return found


def _document(inner: str) -> str:
    return f'<recording xmlns="{NAMESPACE}">{inner}</recording>'


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_good_vector_reads_as_expected(path: Path) -> None:
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    recording = _recording(path.read_bytes())
    state = RSMetadata()
    apply(state, recording, at_ns=AT)
    assigned = assign(state, list(enumerate(expected["labels"])))
    assert recording.datamode == expected["datamode"]
    assert [[each.display_name, each.aor] for each in recording.participants] == expected["participants"]
    assert [each.session_id for each in recording.sessions] == expected["sessions"]
    assert external_ids(recording) == external_ids(state) == expected["external_ids"]
    names = [[each.participant.display_name for each in one.participants] for one in assigned.values()]
    assert names == expected["assigned"]
    assert state.faults == []


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_what_was_read_can_be_written_and_read_again(path: Path) -> None:
    once = _recording(xml.build(_recording(path.read_bytes())))
    assert _recording(xml.build(once)) == once


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name)
def test_bad_vector_raises_its_sentence(path: Path) -> None:
    with pytest.raises(MetadataError) as caught:
        xml.parse(path.read_bytes())
    assert caught.value.reason == path.with_suffix(".txt").read_text().strip()


def test_good_and_bad_come_in_pairs() -> None:
    assert {path.name.split(".")[0] for path in GOOD} == {path.name.split(".")[0] for path in BAD}


# ---- leniency


def test_empty_recording_is_complete() -> None:
    assert _recording(_document("")) == Recording()
    assert _recording("<recording/>") == Recording()


@pytest.mark.parametrize("element", ["datamode", "dataMode"])
@pytest.mark.parametrize(
    ("text", "mode"), [("partial", "partial"), (" Partial\n", "partial"), ("complete", "complete")]
)
def test_datamode(element: str, text: str, mode: str) -> None:
    assert _recording(_document(f"<{element}>{text}</{element}>")).datamode == mode


def test_order_of_elements_is_free() -> None:
    shuffled = '<stream stream_id="s"/><participant participant_id="p"/><session session_id="c"/>'
    recording = _recording(_document(shuffled))
    assert (recording.sessions, recording.streams) == ((Session("c"),), (Stream("s"),))


def test_explicit_associations_beat_inline_ones() -> None:
    recording = _recording(
        _document(
            '<participant id="p" session="c"><send>a</send></participant>'
            '<participantstreamassoc participant_id="p"/>'
            '<participantsessionassoc participant_id="p" session_id="c"><associate-time>t</associate-time>'
            "</participantsessionassoc>"
        )
    )
    assert recording.participant_stream_assocs == (ParticipantStreamAssoc("p"),)
    assert recording.participant_session_assocs == (ParticipantSessionAssoc("p", "c", "t"),)


def test_reasons_and_params() -> None:
    recording = _recording(
        _document(
            '<session session_id="c"><reason cause="200">ok</reason><reason cause="x" protocol="Q.850">bye</reason>'
            "<stop-time>2026-01-02T03:04:05Z</stop-time></session>"
            '<participantsessionassoc participant_id="p" session_id="c"><param pname="isfocus" pval="true"/>'
            "</participantsessionassoc>"
        )
    )
    assert recording.sessions[0].reasons == (Reason("ok", 200), Reason("bye", None, "Q.850"))
    assert recording.sessions[0].stop_time == "2026-01-02T03:04:05Z"
    assert recording.participant_session_assocs[0].params == (("isfocus", "true"),)


@pytest.mark.parametrize(
    ("text", "aor", "name"),
    [
        (
            '<nameID aor="sip:alice@example.com"><name xml:lang="en">Alice</name></nameID>',
            "sip:alice@example.com",
            "Alice",
        ),
        ("<nameID><aor>sip:alice@example.com</aor></nameID>", "sip:alice@example.com", "alice"),
        ("<aor>alice@example.com</aor><name>Al</name>", "alice@example.com", "Al"),
        ('<nameID aor=""/><nameID aor="tel:+15550100"/>', "tel:+15550100", "+15550100"),
        ('<nameID aor="sip:%41lice@example.com;user=phone"/>', "sip:%41lice@example.com;user=phone", "Alice"),
        ('<nameID aor="sips:192.0.2.1:5061"/>', "sips:192.0.2.1:5061", "192.0.2.1:5061"),
        ("", "", ""),
    ],
)
def test_names_for_display(text: str, aor: str, name: str) -> None:
    participant = _recording(_document(f'<participant id="p">{text}</participant>')).participants[0]
    assert (participant.aor, participant.display_name) == (aor, name)


@pytest.mark.parametrize(
    ("declared", "charset", "encoding"),
    [
        ("UTF-8", None, "utf-8"),
        ("ISO-8859-1", None, "latin-1"),
        ("ISO-8859-1", "utf-8", "utf-8"),
        ("UTF-8", "iso-8859-1", "latin-1"),
        ("x-unheard-of", None, "utf-8"),
        ("UTF-8", "x-unheard-of", "utf-8"),
        ("UTF-16", None, "utf-16"),
        ("UTF-8", "utf-16-le", "utf-16-le"),
        ("UTF-8", None, "latin-1"),
    ],
)
def test_encodings(declared: str, charset: str | None, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{declared}"?>' + _document(
        '<participant id="p"><name>José</name></participant>'
    )
    assert _recording(text.encode(encoding), charset).participants[0].name == "José"


@pytest.mark.parametrize("prefix", ["\r\n\r\n", "\ufeff", " \t\n\ufeff"])
def test_leading_space_is_stripped(prefix: str) -> None:
    assert _recording(prefix + '<?xml version="1.0"?>' + _document("")) == Recording()


def test_extension_is_kept_as_text_that_stands_alone() -> None:
    recording = _recording(
        f'<recording xmlns="{NAMESPACE}" xmlns:ex="http://example.com/ex">'
        '<session session_id="c"><ex:data a="1"><ex:b>x &amp; y</ex:b><!-- gone --><c/></ex:data></session>'
        "<ex:loose>text</ex:loose></recording>"
    )
    inner, loose = recording.sessions[0].extensions[0], recording.extensions[0]
    assert inner.xml == (
        f'<ex:data xmlns="{NAMESPACE}" xmlns:ex="http://example.com/ex" a="1"><ex:b>x &amp; y</ex:b><c/></ex:data>'
    )
    assert (inner.owner, inner.owner_id, inner.namespace, inner.name) == (
        "session",
        "c",
        "http://example.com/ex",
        "data",
    )
    assert inner.values == (("b", "x & y"),)
    assert (loose.owner, loose.values) == ("recording", (("loose", "text"),))


# ---- hostile documents


@pytest.mark.parametrize(
    "body",
    [
        '<!DOCTYPE r SYSTEM "http://127.0.0.1:9/x.dtd"><recording/>',
        '<?xml version="1.0"?>\n<!DOCTYPE recording [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><recording/>',
        "<!doctype recording><recording/>",
        '<!DOCTYPE recording [<!ENTITY % p SYSTEM "file:///etc/passwd">%p;]><recording/>',
    ],
)
def test_doctype_is_refused(body: str) -> None:
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(MetadataError, match="DOCTYPE"):
            xml.parse(body.encode(encoding))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"<",
        b"<recording>",
        b"<recording/><recording/>",
        b"<recording a='1' a='2'/>",
        b"<recording>&unknown;</recording>",
        b"<recording>&#0;</recording>",
        b"<recording>\x01</recording>",
        b"\xff\xfe\x00",
        b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n",
    ],
)
def test_what_is_not_xml_is_refused(body: bytes) -> None:
    with pytest.raises(MetadataError):
        xml.parse(body)


def _with_depth(depth: int) -> str:
    return "<recording>" + "<a>" * (depth - 1) + "</a>" * (depth - 1) + "</recording>"


def _with_elements(count: int) -> str:
    return "<recording>" + "<stream/>" * (count - 1) + "</recording>"


def _with_attributes(count: int) -> str:
    return "<recording " + " ".join(f'a{number}=""' for number in range(count)) + "/>"


def _with_name(length: int) -> str:
    return f"<recording><{'n' * length}/></recording>"


def _with_namespace(length: int) -> str:
    return f'<recording><a xmlns="{"u" * length}"/></recording>'


def _with_bytes(size: int) -> str:
    return "<recording>" + " " * (size - len("<recording></recording>")) + "</recording>"


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (_with_depth, tree.MAX_DEPTH),
        (_with_elements, tree.MAX_ELEMENTS),
        (_with_attributes, tree.MAX_ATTRIBUTES),
        (_with_name, tree.MAX_NAME),
        (_with_namespace, tree.MAX_NAMESPACE),
        (_with_bytes, tree.MAX_BODY_BYTES),
    ],
)
def test_limits_at_and_one_past(make: Callable[[int], str], limit: int) -> None:
    assert isinstance(xml.parse(make(limit).encode()), Recording)
    with pytest.raises(MetadataError, match=str(limit)):
        xml.parse(make(limit + 1).encode())


def test_deep_document_is_refused_without_recursion() -> None:
    with pytest.raises(MetadataError, match="deeper"):
        xml.parse(b"<a>" * 80_000)


def test_extensions_cannot_be_blown_up() -> None:
    """The worst we know: a namespace and a path that are repeated in every extension. Stays in the tens of MiB."""
    uri = "u" * tree.MAX_NAMESPACE
    inner = "<p:a/>" * 900
    nested = "".join(f"<{'n' * 100}{number}>" for number in range(28))
    close = "".join(f"</{'n' * 100}{number}>" for number in reversed(range(28)))
    tracemalloc.start()
    try:
        xml.parse(f'<recording xmlns:p="{uri}">{inner}</recording>'.encode())
        xml.parse(f"<recording>{nested}{'<a>x</a>' * 900}{close}</recording>".encode())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 * 1024 * 1024


# ---- writing


def test_our_client_describes_a_call() -> None:
    parties = [
        Party("p1", "s1", "1", "sip:alice@example.com", "Alice"),
        Party("p2", "s2", "2", "sip:bob@example.com"),
    ]
    recording = describe_call("c1", parties, at_ns=AT, sip_session_id="x;remote=y", group_id="g1")
    body = xml.build(recording)
    assert body.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<recording xmlns="' + NAMESPACE.encode())
    assert _recording(body) == recording
    state = RSMetadata()
    apply(state, recording, at_ns=AT)
    names = [
        each.participant and each.participant.participant.display_name
        for each in assign(state, [(0, "1"), (1, "2")]).values()
    ]
    assert names == ["Alice", "bob"]


def test_snapshot_request() -> None:
    assert xml.build_snapshot_request("lost & found").decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<requestsnapshot xmlns="{NAMESPACE}">\n'
        '  <requestreason xml:lang="en">lost &amp; found</requestreason>\n'
        "</requestsnapshot>\n"
    )
    assert xml.parse(xml.build_snapshot_request("why", "it")) == SnapshotRequest("why", "it")
    assert xml.parse(xml.build_snapshot_request()) == SnapshotRequest()


def test_a_character_that_xml_cannot_hold_is_refused() -> None:
    with pytest.raises(MetadataError, match="cannot hold"):
        xml.build(Recording(participants=(Participant("p", (NameID("sip:a@example.com", "\x07"),)),)))


_ids = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=12)
_texts = st.text(st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Z")), max_size=12).map(str.strip)
_times = st.sampled_from(["", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123+02:00"])
_recordings = st.builds(
    Recording,
    datamode=st.sampled_from(["complete", "partial"]),
    groups=st.lists(st.builds(Group, _ids, _times, _times), max_size=2).map(tuple),
    sessions=st.lists(
        st.builds(
            Session,
            _ids,
            st.lists(_ids, max_size=2).map(tuple),
            st.lists(st.builds(Reason, _texts, st.none() | st.integers(0, 999)), max_size=2).map(tuple),
            st.just("") | _ids,
            _times,
            _times,
        ),
        max_size=2,
    ).map(tuple),
    participants=st.lists(
        st.builds(Participant, _ids, st.lists(st.builds(NameID, _texts, _texts), max_size=2).map(tuple)), max_size=2
    ).map(tuple),
    streams=st.lists(st.builds(Stream, _ids, st.just("") | _ids, _texts), max_size=2).map(tuple),
    session_recording_assocs=st.lists(st.builds(SessionRecordingAssoc, _ids, _times, _times), max_size=2).map(tuple),
    participant_session_assocs=st.lists(
        st.builds(ParticipantSessionAssoc, _ids, _ids, _times, _times, st.lists(st.tuples(_texts, _texts)).map(tuple)),
        max_size=2,
    ).map(tuple),
    participant_stream_assocs=st.lists(
        st.builds(ParticipantStreamAssoc, _ids, st.lists(_ids, max_size=2, unique=True).map(tuple)), max_size=2
    ).map(tuple),
)


@given(_recordings)
def test_parse_is_the_inverse_of_build(recording: Recording) -> None:
    assert xml.parse(xml.build(recording)) == recording


@given(st.binary(max_size=300), st.sampled_from([b"", b"<recording>", b'<?xml version="1.0" encoding="UTF-16"?>']))
def test_any_bytes_raise_only_metadata_error(data: bytes, prefix: bytes) -> None:
    for charset in (None, "utf-8", "utf-16", "gb18030", "no such", "\0"):
        try:
            xml.parse(prefix + data, charset)
        except MetadataError:
            continue


@given(st.data())
def test_any_cut_or_flip_of_a_document_raises_only_metadata_error(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(GOOD)).read_bytes())
    where = data.draw(st.integers(0, len(body) - 1))
    body[where] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(where, len(body)))
    for damaged in (bytes(body), bytes(body[:cut])):
        try:
            found = xml.parse(damaged)
        except MetadataError:
            continue
        if isinstance(found, Recording):
            apply(RSMetadata(), found, at_ns=AT)


def test_an_element_of_a_foreign_namespace_is_an_extension_whatever_its_name() -> None:
    found = xml.parse(
        f'<recording xmlns="{NAMESPACE}" xmlns:x="urn:example:x"><x:session session_id="1"/>'
        f'<x:datamode>partial</x:datamode><recording><session session_id="2"/></recording></recording>'.encode()
    )
    assert isinstance(found, Recording)
    assert (found.sessions, found.datamode) == ((), "complete")
    assert [each.name for each in found.extensions] == ["session", "datamode", "recording"]
    assert xml.parse(xml.build(found)) == found


FIXTURES = Path(__file__).parents[4] / "shared" / "fixtures"
BODIES = [*sorted(FIXTURES.glob("siprec-rfc-examples/*.xml")), *sorted(FIXTURES.glob("vendor/*.mime"))]


@pytest.mark.skipif(not BODIES, reason="the shared fixtures are not here")
def test_published_bodies_are_read_without_a_fault() -> None:
    for path in BODIES:
        data = path.read_bytes()
        body = data[data.index(b"<?xml") :].split(b"\n--")[0]
        found = xml.parse(body)
        if isinstance(found, SnapshotRequest):
            continue
        state = RSMetadata(complete=True)
        apply(state, found, at_ns=AT)
        assert state.faults == [], path.name
        if path.suffix == ".xml":
            assert xml.parse(xml.build(found)) == found, path.name
