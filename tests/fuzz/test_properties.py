"""The targets under hypothesis, and properties that need more than bytes; each invariant is the first sentence."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siprec.media import part as parts
from siprec.media.source import Arrival, Origin, Source, SourcePolicy
from siprec.rtp.dtmf import Collector
from siprec.sip.endpoint import Endpoint
from siprec.sip.events import DialogEnded, RequestReceived
from siprec.sip.flow import Flow
from tests.fuzz.targets import TARGETS
from tests.support.mutation import PIECES

_bytes = st.binary(max_size=400) | st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=20).map(b"".join)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no defect
@given(data=_bytes)
def test_a_target_holds_for_any_bytes(target: str, data: bytes) -> None:
    """What each target says of itself."""
    TARGETS[target](data)


# --- files

_ns = st.integers(0, parts.MAX_NUMBER)
_small = st.integers(0, 65_535)
_format = st.builds(parts.PayloadFormat, st.integers(0, 127), st.text(), _small, st.integers(1, 8), st.text())
_phase = st.builds(
    parts.Phase,
    _ns,
    st.sampled_from(["active", "hold", "metadata-hold", "paused", "closed"]),
    st.lists(_format, max_size=3).map(tuple),
)
_stream = st.builds(
    parts.PartStream, _small, st.none() | st.text(), _small, _small, st.lists(_phase, max_size=3)
)  # fmt: skip
_outage = st.builds(
    parts.Outage, _ns, _ns, st.sampled_from(["kernel_drop", "disk", "backlog", "interrupted"]), st.none() | _small,
    _small,
)  # fmt: skip
_part = st.builds(
    parts.Part, st.text(), st.text(), _small, _ns, st.none() | _ns, st.lists(_stream, max_size=3),
    st.lists(_outage, max_size=3), st.lists(st.tuples(_ns, _ns), max_size=3), st.booleans(),
)  # fmt: skip


@given(_part)
def test_a_control_file_is_read_as_it_was_written(part: parts.Part) -> None:
    """load(dump(part)) == part."""
    assert parts.load(parts.dump(part)) == part


@pytest.mark.parametrize(
    "wrong",
    [
        b"[]", b"null", b"{}", b"[" * 100_000, b"\xff", b"1e999", b'{"schema": "siprec.part/2"}',
        b'{"session_id": "1", "node": "a", "fence": 1, "started_ns": null, "schema": "siprec.part/1"}',
        b'{"session_id": "1", "node": "a", "fence": true, "started_ns": 1, "schema": "siprec.part/1"}',
        b'{"session_id": "1", "node": "a", "fence": 1, "started_ns": 9223372036854775808}',
        b'{"session_id": "1", "node": "a", "fence": 1, "started_ns": 1, "clock": [[1]]}',
        b'{"session_id": "1", "node": "a", "fence": 1, "started_ns": 1, "outages": [{"cause": "x"}]}',
    ],
)  # fmt: skip
def test_a_damaged_control_file_is_told(wrong: bytes) -> None:
    """A file that is no part raises what `load` says, and nothing else."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        parts.load(wrong)


# --- telephone events

_event = st.tuples(st.integers(0, 8), st.integers(0, 3), st.sampled_from([0, 160, 320, 65_535]), st.booleans())


@given(st.lists(_event, max_size=12), st.randoms(use_true_random=False))
def test_events_do_not_depend_on_the_order_of_their_packets(sent: list[tuple[int, int, int, bool]],
                                                            shuffler: random.Random) -> None:  # fmt: skip
    """Any order of the same packets, however often each comes, gives the same events."""
    packets = [
        (start * 65_535, bytes((code, 0x80 if end else 0)) + lasts.to_bytes(2, "big"), number)
        for number, (start, code, lasts, end) in enumerate(sent)
    ]
    expected, found = Collector(), Collector()
    for timestamp, payload, number in packets:
        expected.feed(timestamp, payload, sequence=number)
    again = packets + packets
    shuffler.shuffle(again)
    for timestamp, payload, number in again:
        found.feed(timestamp, payload, sequence=number)
    assert found.events == expected.events


# --- who is recorded (SECURITY A5)

HERE, THERE = 1, 2
REMOTE: Origin = (0, HERE, 40_000)
_origin = st.tuples(st.just(0), st.sampled_from([HERE, THERE]), st.sampled_from([40_000, 40_002, 5]))
_arrival = st.builds(
    Arrival, _origin, st.sampled_from([0, 8, 77]), st.integers(0, 6), st.sampled_from([1, 2]), st.just(0), st.just(b"")
)


@given(st.sampled_from([SourcePolicy.ADDRESS, SourcePolicy.STRICT]), st.lists(_arrival, max_size=40))
def test_nothing_from_elsewhere_is_ever_accepted(policy: SourcePolicy, arrivals: list[Arrival]) -> None:
    """What is accepted has a negotiated payload type and one origin: the SDP's address, with `strict` its port too."""
    source = Source(policy)
    source.payload_types = frozenset({0, 8})
    source.renew(REMOTE)
    accepted = [each for arrival in arrivals for each in source.judge(arrival)]
    source.forget()
    assert {each.origin[:2] for each in accepted} <= {REMOTE[:2]}
    assert len({each.origin for each in accepted}) <= 1
    assert {each.payload_type for each in accepted} <= {0, 8}
    if policy is SourcePolicy.STRICT:
        assert {each.origin for each in accepted} <= {REMOTE}
    assert len(accepted) + sum(source.refusals.by_source().values()) == len(arrivals)


# --- who may end a call (SECURITY A3)

FLOW = Flow("udp", ("192.0.2.2", 5060), ("192.0.2.1", 5060))
GUESSES = 5_000


def _request(method: str, number: int, *, to_tag: str = "", from_tag: str = "a") -> bytes:
    to = f";tag={to_tag}" if to_tag else ""
    return (
        f"{method} sip:srs@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;rport;branch=z9hG4bK{number}\r\n"
        f"From: <sip:alice@example.com>;tag={from_tag}\r\nTo: <sip:srs@192.0.2.2>{to}\r\nCall-ID: c\r\n"
        f"CSeq: {number} {method}\r\nContact: <sip:alice@192.0.2.1>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def test_guessed_tags_end_no_call() -> None:
    """A BYE that knows the Call-ID and one tag, but not both, is answered 481 and ends nothing."""
    draw = random.Random(1)
    endpoint = Endpoint(token=lambda: f"{draw.getrandbits(80):020x}")
    endpoint.receive(_request("INVITE", 1), FLOW, 0.0)
    (invite,) = endpoint.events()
    assert isinstance(invite, RequestReceived)
    dialog = endpoint.respond(invite.transaction, 200, now=0.0)
    assert dialog is not None
    assert len(dialog.local_tag) * 4 >= 64  # bits, when it is hexadecimal
    endpoint.receive(_request("ACK", 1, to_tag=dialog.local_tag), FLOW, 0.0)
    endpoint.outgoing()
    for number in range(2, 2 + GUESSES):
        tags = (
            {"to_tag": f"{draw.getrandbits(80):020x}"} if number % 2 else {"to_tag": dialog.local_tag, "from_tag": "b"}
        )
        endpoint.receive(_request("BYE", number, **tags), FLOW, 0.0)
    answers = [each.data[:11] for each in endpoint.outgoing()]
    assert answers == [b"SIP/2.0 481"] * GUESSES
    assert dialog.state == "confirmed"
    assert not [event for event in endpoint.events() if isinstance(event, DialogEnded)]
