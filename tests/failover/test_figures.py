"""How lost packets are counted, and what a row says of them."""

from __future__ import annotations

from collections import Counter

from siprec.client.media import PortPair, RtpStream
from siprec.client.tracks import tracks
from tests.failover.figures import BEFORE, Loss, Row, losses, table


def stream(packets: int) -> RtpStream:
    """One that has made so many."""
    (track, _) = tracks(0.1, codec="PCMU", speakers=2, seed=1)
    made = RtpStream(track, PortPair("127.0.0.1"), seed=1, label="1", counter=True)
    made.connect(None)
    for _ in range(packets):
        made._packet(0)
    return made


def test_losses_belong_to_the_failure_before_them() -> None:
    sent = stream(1000)
    lost = {195, 196, 201, 700}
    found = Counter(number for number in range(1000) if number not in lost)
    marks = [{sent.ssrc: 200}, {sent.ssrc: 600}]
    assert losses(found, sent, marks) == [Loss(3, 2), Loss(1, 1)]
    sent.close()


def test_what_was_read_and_not_written_belongs_to_the_next_failure() -> None:
    sent = stream(1000)
    edge = 600 - BEFORE
    found = Counter(number for number in range(1000) if number not in {edge - 1, edge})
    assert losses(found, sent, [{sent.ssrc: 0}, {sent.ssrc: 600}]) == [Loss(1, 1), Loss(1, 1)]
    sent.close()


def test_a_row_tells_median_and_worst_of_its_streams() -> None:
    row = Row("a failure", "0 packets", sessions=1, streams=2)
    row.add([Loss(0, 0), Loss(0, 0), Loss(4, 3)])
    row.expect(max(row.packets_lost) == 0, "packets were lost")
    line = row.line()
    assert (line["packets_lost_median"], line["packets_lost_max"]) == (0, 4)
    assert (line["milliseconds_median"], line["milliseconds_max"]) == (0, 60)
    assert (line["ok"], line["problems"]) == (False, ["packets were lost"])
    assert table([row]).splitlines()[-1] == "| a failure | 2 | 0, 4 | 0 ms, 60 ms | 0 packets | FAILED |"
