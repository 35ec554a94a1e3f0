"""What a session's capture notes of times for which audio may be missing."""

from siprec.media.file import MAX_OUTAGES, OutageLog
from siprec.media.part import Outage


def test_outages_that_touch_become_one() -> None:
    log = OutageLog()
    log.add(Outage(0, 10, "kernel_drop", 0, 3))
    log.add(Outage(0, 10, "kernel_drop", 1, 1))
    log.add(Outage(10, 20, "kernel_drop", 0, 4))
    log.add(Outage(21, 30, "kernel_drop", 0, 1))
    assert log.all() == (
        Outage(0, 20, "kernel_drop", 0, 7),
        Outage(0, 10, "kernel_drop", 1, 1),
        Outage(21, 30, "kernel_drop", 0, 1),
    )


def test_the_number_of_outages_is_bounded() -> None:
    log = OutageLog()
    for index in range(MAX_OUTAGES + 1):
        log.add(Outage(10 * index, 10 * index + 5, "kernel_drop", 0, 1))
        assert len(log.all()) == min(index + 1, MAX_OUTAGES)
    assert sum(each.packets for each in log.all()) == MAX_OUTAGES + 1
