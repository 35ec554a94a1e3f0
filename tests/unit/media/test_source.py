"""The source policy (SECURITY A5), packet by packet: whose packets are written, and that none is lost by caution."""

from ipaddress import ip_network

import pytest

from siprec.media import source
from siprec.media.arena import address_text, address_words
from siprec.media.source import Arrival, Source, SourcePolicy

ALICE, MALLORY = "192.0.2.1", "192.0.2.66"
REMOTE = (*address_words(ALICE), 4000)


def packet(sequence: int, *, host: str = ALICE, port: int = 4000, ssrc: int = 1, payload_type: int = 0) -> Arrival:
    return Arrival((*address_words(host), port), payload_type, sequence, ssrc, 0, b"")


def new(policy: SourcePolicy = SourcePolicy.ADDRESS, *, remote: bool = True, networks: tuple[str, ...] = ()) -> Source:
    made = Source(policy, [ip_network(each) for each in networks])
    made.payload_types = frozenset({0, 8})
    if remote:
        made.renew(REMOTE)
    return made


def refused(made: Source) -> dict[tuple[str, str], int]:
    return made.refusals.by_source()


@pytest.mark.parametrize("policy", list(SourcePolicy))
def test_the_exact_source_is_heard_from_its_first_packet(policy: SourcePolicy) -> None:
    made, first = new(policy), packet(7)
    assert made.judge(first) == [first]
    assert (made.locked, made.ssrc) == (REMOTE, 1)


def test_another_port_is_learned_from_two_packets_in_order_and_both_are_kept() -> None:
    made, first, second = new(), packet(65535, port=5000), packet(0, port=5000)
    assert made.judge(first) == []
    assert made.judge(second) == [first, second]
    assert made.locked == (*address_words(ALICE), 5000)


@pytest.mark.parametrize("following", [100, 99, 100 + 3000])
def test_packets_out_of_order_teach_nothing(following: int) -> None:
    made = new()
    made.judge(packet(100, port=5000))
    assert made.judge(packet(following, port=5000)) == []
    assert made.locked is None


def test_two_packets_of_two_ssrcs_or_two_ports_teach_nothing() -> None:
    made = new()
    for each in (packet(1, port=5000), packet(2, port=5000, ssrc=2), packet(3, port=5002)):
        assert made.judge(each) == []
    assert made.locked is None


def test_after_the_lock_other_ports_are_refused_and_what_was_held_of_them_too() -> None:
    made = new()
    made.judge(packet(1, port=5000))
    made.judge(packet(1))
    assert made.judge(packet(2, port=5000)) == []
    assert refused(made) == {("unlearned", ALICE): 1, ("port", ALICE): 1}


def test_a_foreign_address_is_refused_before_and_after_the_lock() -> None:
    made = new()
    made.judge(packet(1, host=MALLORY))
    made.judge(packet(1))
    made.judge(packet(2, host=MALLORY))
    assert refused(made) == {("address", MALLORY): 2}


def test_strict_learns_nothing() -> None:
    made = new(SourcePolicy.STRICT)
    for sequence in range(5):
        assert made.judge(packet(sequence, port=5000)) == []
    assert refused(made) == {("port", ALICE): 5}


def test_latch_learns_any_listed_network_once() -> None:
    made = new(SourcePolicy.LATCH, networks=("198.51.100.0/24", "2001:db8::/32"))
    assert made.judge(packet(1, host=MALLORY)) == []
    first, second = packet(1, host="198.51.100.7", port=9), packet(2, host="198.51.100.7", port=9)
    assert made.judge(first) == []
    assert made.judge(second) == [first, second]
    assert made.judge(packet(3, host="198.51.100.8", port=9)) == []
    assert refused(made) == {("address", MALLORY): 1, ("address", "198.51.100.8"): 1}


def test_a_payload_type_that_was_not_negotiated_neither_passes_nor_teaches() -> None:
    made = new()
    assert made.judge(packet(1, payload_type=96)) == []
    assert made.locked is None
    assert refused(made) == {("payload_type", ALICE): 1}


def test_a_second_ssrc_needs_two_packets_in_order_and_keeps_both() -> None:
    made = new()
    made.judge(packet(1))
    first, second = packet(500, ssrc=2), packet(502, ssrc=2)
    assert made.judge(first) == []
    assert made.judge(second) == [first, second]
    old = packet(2)
    assert made.judge(old) == [old]
    assert list(made.ssrcs) == [1, 2]


def test_ssrcs_that_change_with_every_packet_are_never_believed() -> None:
    made = new()
    made.judge(packet(1))
    for ssrc in range(100, 100 + source.MAX_HELD + 5):
        assert made.judge(packet(2, ssrc=ssrc)) == []
    assert refused(made) == {("ssrc", ALICE): 5}
    made.forget()
    assert refused(made) == {("ssrc", ALICE): source.MAX_HELD + 5}


def test_without_an_sdp_fifty_packets_wait_for_it() -> None:
    made = new(remote=False)
    packets = [packet(sequence) for sequence in range(source.MAX_HELD + 1)]
    for each in packets:
        assert made.judge(each) == []
    assert made.renew(REMOTE) == packets[1:]
    assert refused(made) == {("unlearned", ALICE): 1}


def test_what_waited_for_the_sdp_is_judged_by_it() -> None:
    made = new(remote=False)
    for each in (packet(1, host=MALLORY), packet(1, payload_type=96), packet(2, port=5000)):
        made.judge(each)
    assert made.renew(REMOTE) == []
    last = packet(3, port=5000)
    assert made.judge(last) == [packet(2, port=5000), last]
    assert refused(made) == {("address", MALLORY): 1, ("payload_type", ALICE): 1}


def test_a_new_sdp_opens_what_was_locked() -> None:
    made = new()
    made.judge(packet(1))
    there = (*address_words("192.0.2.2"), 6000)
    made.renew(there)
    moved = packet(9, host="192.0.2.2", port=6000, ssrc=77)
    assert made.judge(moved) == [moved]
    assert made.judge(packet(2)) == []
    assert refused(made) == {("address", ALICE): 1}


def test_only_so_many_ssrcs_are_remembered() -> None:
    made = new()
    for ssrc in range(source.MAX_SSRCS + 1):
        made.judge(packet(1, ssrc=ssrc))
        made.judge(packet(2, ssrc=ssrc))
    assert list(made.ssrcs) == list(range(1, source.MAX_SSRCS + 1))
    assert made.judge(packet(3, ssrc=0)) == []


def test_sources_beyond_the_limit_are_counted_as_one() -> None:
    made = new()
    for last in range(source.MAX_REFUSALS):
        made.judge(packet(1, host=f"198.51.100.{last}"))
    assert len(refused(made)) == source.MAX_REFUSALS
    for last in range(100, 110):
        made.judge(packet(1, host=f"203.0.113.{last}"))
    made.judge(packet(1, host="198.51.100.0"))
    assert len(refused(made)) == source.MAX_REFUSALS + 1
    assert refused(made)["address", "::"] == 10
    assert refused(made)["address", "198.51.100.0"] == 2


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "255.255.255.255", "::1", "2001:db8::1"])
def test_addresses_survive_as_numbers(address: str) -> None:
    assert address_text(*address_words(address)) == address


def silent(policy: SourcePolicy = SourcePolicy.ADDRESS, *, networks: tuple[str, ...] = ()) -> Source:
    """Locked to REMOTE, whose last packet was 7."""
    made = new(policy, networks=networks)
    made.judge(packet(7))
    made.falls_silent(7)
    return made


@pytest.mark.parametrize("policy", [SourcePolicy.ADDRESS, SourcePolicy.LATCH])
def test_a_silent_stream_goes_on_from_another_port(policy: SourcePolicy) -> None:
    made, moved = silent(policy, networks=(f"{ALICE}/32",)), packet(80, port=5000)
    assert made.judge(moved) == [moved]
    assert (made.locked, made.silent) == (moved.origin, False)
    assert made.judge(packet(81)) == []
    assert refused(made) == {("port", ALICE): 1}


@pytest.mark.parametrize("other", [{"ssrc": 2}, {"sequence": 7}, {"sequence": 4000}, {"host": MALLORY}])
def test_a_silent_stream_does_not_go_on_in_another(other: dict[str, int | str]) -> None:
    made = silent()
    for _ in range(3):
        assert made.judge(packet(**{"sequence": 80, "port": 5000, **other})) == []  # type: ignore[arg-type]
    assert made.locked == REMOTE
    again = packet(8)
    assert made.judge(again) == [again]


def test_a_stream_whose_source_speaks_again_goes_on_nowhere_else() -> None:
    made = silent()
    made.speaks()
    assert made.judge(packet(80, port=5000)) == []


def test_under_strict_a_silent_stream_goes_on_nowhere_else() -> None:
    made = silent(SourcePolicy.STRICT)
    assert made.judge(packet(80, port=5000)) == []
    assert refused(made) == {("port", ALICE): 1}


def test_under_latch_a_silent_stream_goes_on_in_listed_networks_only() -> None:
    made, moved = silent(SourcePolicy.LATCH, networks=("198.51.100.0/24",)), packet(80, host="198.51.100.7")
    assert made.judge(packet(80, host=MALLORY)) == []
    assert made.judge(moved) == [moved]


MOVED = (*address_words(ALICE), 5000)


@pytest.mark.parametrize("policy", list(SourcePolicy))
def test_what_is_on_its_way_from_the_old_source_is_taken_until_the_new_one_speaks(policy: SourcePolicy) -> None:
    made = new(policy)
    made.judge(packet(1))
    made.renew(MOVED)
    for old in (packet(2), packet(3), packet(4)):
        assert made.judge(old) == [old]
    assert (made.locked, made.moving) == (None, True)
    first = packet(900, port=5000, ssrc=2)
    assert made.judge(first) == [first]
    assert (made.locked, made.moving) == (MOVED, False)
    assert made.judge(packet(5)) == []


def test_the_old_source_is_not_taken_for_ever_nor_with_another_ssrc() -> None:
    made = new(SourcePolicy.STRICT)
    made.judge(packet(1))
    made.renew(MOVED)
    assert made.judge(packet(2, ssrc=2)) == []
    late = Arrival(REMOTE, 0, 3, 1, source.OLD_SOURCE_NS, b"")
    assert made.judge(late) == []
    assert refused(made) == {("port", ALICE): 2}


@pytest.mark.parametrize("spoken", [False, True])
def test_a_change_that_is_taken_back_leaves_the_old_source(spoken: bool) -> None:
    made = new()
    made.judge(packet(1))
    made.renew(MOVED)
    if spoken:
        made.judge(packet(900, port=5000, ssrc=2))
    made.renew(REMOTE)
    again = packet(2)
    assert made.judge(again) == [again]
    assert made.locked == REMOTE
