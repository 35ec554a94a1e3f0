"""What the threads of a capture have in common."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Fault:
    """Trouble that someone should know of, when it begins (`active`) and when it is over."""

    cause: Literal["disk", "backlog", "internal", "worker"]
    active: bool
    detail: str


def guarded(job: Callable[[], None], on_fault: Callable[[Fault], None]) -> None:
    """Run `job`; a defect of ours is reported and ends that job, not the thread that all sessions share."""
    try:
        job()
    except Exception as error:  # noqa: BLE001
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_name}:{where.tb_lineno}" if where else ""
        on_fault(Fault("internal", True, f"{type(error).__name__} in {place}: {error}"))


def nothing() -> None:
    """The job of a thread that was woken by its clock, and what follows a job that nobody waits for."""


def resolve(future: Future[Any], result: object) -> None:
    """Set the result unless the one who waited has cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_result(result)
