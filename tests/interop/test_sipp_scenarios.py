"""SIPp as an SRC that does what SBCs do: every answer is checked by SIPp's scenario, the recording here.

All scenarios of the table run on one server, some at a time, from the first test on; each test waits for its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from siprec.archive.folder import RecordingFolder
from siprec.archive.manifest import Manifest
from tests.interop import media
from tests.support.server import EVENT_SECONDS, Server, serving
from tests.support.sipp import Run, Sipp

AT_A_TIME = 6
"""Scenarios that run side by side: two cores carry more, but not without jitter."""


@dataclass(frozen=True, slots=True)
class Played:
    """One run of a scenario: what SIPp says of it, and the recordings of its calls, finished."""

    run: Run
    recordings: tuple[Manifest, ...]
    folders: tuple[Path, ...] = ()

    @property
    def only(self) -> Manifest:
        """The one recording; it is complete and nothing is wrong with its metadata."""
        assert len(self.recordings) == 1, [each.call_id for each in self.recordings]
        found = self.recordings[0]
        assert (found.state, found.metadata_errors) == ("ended", []), found.verdict_reason
        return found


@dataclass(slots=True)
class Stage:
    """A server, and the scenarios that run against it."""

    server: Server
    sipp: Sipp
    keys: dict[str, str]
    futures: dict[str, Future[Played]] = field(default_factory=dict)

    def of(self, name: str) -> Played:
        """What came of a plan; SIPp is content with it."""
        played = self.futures[name].result()
        assert played.run.code == 0, played.run.explain()
        return played

    def play(self, plan: Plan) -> Played:
        run = self.sipp.run(
            plan.scenario, self.server.port, transport=plan.transport, calls=plan.calls, keys=self.keys,
            repeats=plan.repeats,
        )  # fmt: skip
        return self.collect(run)

    def collect(self, run: Run) -> Played:
        """Wait until all that the calls of `run` left is rendered, or gone. The log is only read: runs share it."""
        calls = set(run.call_ids)
        until(lambda: self._sessions("call offered", calls) <= self._sessions(_OVER, calls), run.explain)
        refused = self._sessions("call not recorded", calls)
        until(lambda: not self._folders(refused), lambda: f"the folders of refused calls {refused} remain")
        found = self._folders(self._sessions("call offered", calls))
        return Played(run, tuple(each.read() for each in found), tuple(each.path for each in found))

    def _folders(self, sessions: set[str]) -> list[RecordingFolder]:
        return [each for each in self.server.recordings() if each.session_id in sessions]

    def _sessions(self, events: str, calls: set[str]) -> set[str]:
        told = events.split("|")
        return {each["session"] for each in list(self.server.log) if each["event"] in told and each["call_id"] in calls}


_OVER = "recording ready|call not recorded|recording could not be rendered, its capture is kept|call failed"


@dataclass(frozen=True, slots=True)
class Plan:
    scenario: str
    transport: str = "udp"
    calls: int = 1
    repeats: bool = True


def until(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    """Wait for what a log or a trace will tell."""
    deadline = time.monotonic() + EVENT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)


PLANS = {
    "hold by inactive": Plan("hold-by-inactive"),
    "hold by inactive over TCP": Plan("hold-by-inactive", transport="tcp"),
    "hold by port 0": Plan("hold-by-port-zero"),
    "hold by address 0.0.0.0": Plan("hold-by-address-zero"),
    "hold by UPDATE": Plan("hold-by-update"),
    "metadata by UPDATE": Plan("metadata-by-update"),
    "transfer": Plan("transfer"),
    "conference": Plan("conference"),
    "cancel": Plan("cancel"),
    "refresh by re-INVITE": Plan("refresh-by-reinvite"),
    "refresh by UPDATE": Plan("refresh-by-update"),
    "reliable provisional": Plan("reliable-provisional"),
    "offerless": Plan("offerless"),
    "BYE with metadata": Plan("bye-with-metadata"),
    "lost ACK": Plan("lost-ack", repeats=False),
    "repeated INVITE": Plan("repeated-invite", repeats=False),
    "wrong tags": Plan("wrong-tags"),
    "methods": Plan("methods"),
    "OPTIONS in the dialog": Plan("options"),
    "OPTIONS outside": Plan("options-outside"),
    "BYE of nothing": Plan("bye-unknown"),
    "plain INVITE": Plan("plain-invite"),
    "two calls at once": Plan("basic", calls=2),
    "two calls on one connection": Plan("basic", transport="tcp", calls=2),
}


@pytest.fixture(scope="module")
def stage(player: Sipp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """All plans begun; those that no test has waited for are given up at the end."""
    root = tmp_path_factory.mktemp("scenarios")
    talk = root / "talk.ulaw"
    talk.write_bytes(media.source(200, seed=5).tobytes())
    (root / "recordings").mkdir()
    with (
        serving(root / "recordings", CAPTURE_KEEP="always") as server,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):
        stage = Stage(server, player, {"audio": str(talk)})
        stage.futures = {name: pool.submit(stage.play, plan) for name, plan in PLANS.items()}
        yield stage
        pool.shutdown(cancel_futures=True)
        assert server.stop() == 0


# ---- hold and resume


def assert_held(found: Manifest, cause: str, seconds: float) -> None:
    """One gap in the middle, of that cause and no shorter, in which nothing was heard; before and after it every packet
    arrived. How much longer all takes is SIPp's affair, and the machine's."""
    assert found.verdict == "ok", found.verdict_reason
    (gap,) = found.gaps
    assert (gap.channel, gap.cause) == (0, cause)
    assert gap.start > 0.4
    assert gap.length > seconds - 0.1
    (channel,) = found.channels
    assert channel.lost == 0
    assert channel.packets > 40
    assert found.duration is not None
    assert gap.length + channel.packets * 0.02 < found.duration
    assert gap.start + gap.length < found.duration - 0.4


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("hold by inactive", "paused"),
        ("hold by inactive over TCP", "paused"),
        ("hold by address 0.0.0.0", "hold"),
        ("hold by UPDATE", "paused"),
    ],
)
def test_a_hold_is_a_gap_with_its_cause(stage: Stage, name: str, cause: str) -> None:
    assert_held(stage.of(name).only, cause, 0.8)


def test_a_stream_taken_away_and_given_back_keeps_its_channel_and_disturbs_no_other(stage: Stage) -> None:
    found = stage.of("hold by port 0").only
    assert [(each.label, each.participant) for each in found.channels] == [("96", "Alice"), ("97", "Bob")]
    assert (found.channels[0].lost, [(each.channel, each.cause) for each in found.gaps]) == (0, [(1, "paused")])
    assert found.channels[0].packets > 65
    assert found.verdict == "one-way"  # SIPp has no audio for the second
    assert "Bob" in str(found.verdict_reason)


@pytest.mark.parametrize("name", ["refresh by re-INVITE", "refresh by UPDATE"])
def test_a_session_refresh_restarts_nothing(stage: Stage, name: str) -> None:
    played = stage.of(name)
    found = played.only
    assert (found.verdict, found.gaps) == ("ok", [])
    (channel,) = found.channels
    assert (channel.lost, len(channel.ssrcs)) == (0, 1)
    assert channel.packets > 40
    assert len(list(played.folders[0].glob("parts/*/capture-*.pcap"))) == 1


# ---- metadata


def names(found: Manifest) -> dict[str | None, tuple[list[str], list[str]]]:
    return {each.name: (each.joined, each.left) for each in found.participants}


def test_metadata_alone_in_an_update_changes_a_name(stage: Stage) -> None:
    played = stage.of("metadata by UPDATE")
    assert list(names(played.only)) == ["Alice", "Bob from Support"]
    assert (played.only.verdict, played.only.gaps) == ("ok", [])
    assert [each.name for each in sorted(played.folders[0].glob("metadata/*.xml"))] == ["0001.xml", "0002.xml"]


def test_a_transfer_brings_a_new_participant_and_keeps_the_old(stage: Stage) -> None:
    found = stage.of("transfer").only
    assert names(found) == {
        "Alice": (["2026-03-01T09:00:00.000Z"], []),
        "Bob": (["2026-03-01T09:00:00.000Z"], ["2026-03-01T09:00:01.000Z"]),
        "Carol": (["2026-03-01T09:00:01.000Z"], []),
    }
    assert (found.verdict, found.gaps, found.channels[0].lost) == ("ok", [], 0)


def test_a_conference_remembers_who_joined_and_left(stage: Stage) -> None:
    found = stage.of("conference").only
    assert names(found) == {
        "Alice": (["2026-03-01T09:00:00.000Z"], []),
        "Bob": (["2026-03-01T09:00:00.000Z"], []),
        "Carol": (["2026-03-01T09:00:01.000Z"], ["2026-03-01T09:00:02.000Z"]),
    }
    assert (found.verdict, found.gaps, found.channels[0].lost) == ("ok", [], 0)


def test_metadata_in_the_bye_is_kept_and_merged(stage: Stage) -> None:
    played = stage.of("BYE with metadata")
    assert [left for _, left in names(played.only).values()] == [["2026-03-01T09:00:05.000Z"]] * 2
    assert len(list(played.folders[0].glob("metadata/*.xml"))) == 2
    assert played.only.channels[0].participant == "Alice, Bob"


# ---- how a call begins


def test_a_provisional_response_that_must_be_reliable_is(stage: Stage) -> None:
    """The server may also answer 200 at once; then nothing is to be acknowledged by PRACK."""
    played = stage.of("reliable provisional")
    assert played.only.verdict == "ok"
    assert played.run.answers(183, "INVITE") + played.run.answers(180, "INVITE") == played.run.answers(200, "PRACK")


def test_an_invite_without_offer_gets_one(stage: Stage) -> None:
    found = stage.of("offerless").only
    assert found.verdict == "ok", found.verdict_reason
    assert [each.label for each in found.channels] == ["96"]
    assert found.channels[0].packets > 30


def test_a_200_without_ack_is_repeated(stage: Stage) -> None:
    played = stage.of("lost ACK")
    assert played.run.answers(200, "INVITE") >= 3
    assert (played.only.verdict, played.only.channels[0].lost) == ("ok", 0)


def test_an_invite_that_comes_again_gets_the_same_answer(stage: Stage) -> None:
    played = stage.of("repeated INVITE")
    answers = {each.text for each in played.run.messages if each.is_answer(200, "INVITE")}
    assert len(answers) == 1
    assert played.run.answers(200, "INVITE") == 2
    assert played.only.verdict == "ok"


def test_cancel_and_answer_may_cross(stage: Stage) -> None:
    """Cancelled in time, no folder remains; too late, the call was answered and SIPp has hung up."""
    played = stage.of("cancel")
    if played.run.answers(487, "INVITE"):
        assert played.recordings == ()
    else:
        assert played.only.verdict == "no-rtp"


def test_cancel_before_any_answer_leaves_nothing_behind(player: Sipp, tmp_path: Path) -> None:
    """The server is stopped until both messages wait for it."""
    with serving(tmp_path) as server:
        os.kill(server.worker, signal.SIGSTOP)
        try:
            running = player.start("cancel-at-once", server.port)
            until(lambda: len(running.messages()) >= 2, lambda: "SIPp sent no CANCEL")
        finally:
            os.kill(server.worker, signal.SIGCONT)
        run = running.finish()
        assert run.code == 0, run.explain()
        assert (run.answers(200, "CANCEL"), run.answers(487, "INVITE"), run.answers(200, "INVITE")) == (1, 1, 0)
        server.wait_for("call not recorded")
        assert server.stop() == 0
        assert server.recordings() == []
        assert server.log[-1]["event"] == "stopped"


# ---- what is not served, or not heard


def test_requests_with_the_tags_of_another_dialog_do_not_touch_the_call(stage: Stage) -> None:
    played = stage.of("wrong tags")
    assert (played.run.answers(481, "BYE"), played.run.answers(481, "OPTIONS")) == (1, 1)
    assert (played.only.verdict, played.only.channels[0].lost) == ("ok", 0)


@pytest.mark.parametrize("name", ["methods", "OPTIONS in the dialog"])
def test_other_methods_in_the_dialog_do_not_touch_the_call(stage: Stage, name: str) -> None:
    found = stage.of(name).only
    assert (found.verdict, found.gaps, found.channels[0].lost) == ("ok", [], 0)


@pytest.mark.parametrize("name", ["OPTIONS outside", "BYE of nothing", "plain INVITE"])
def test_what_is_no_recording_session_leaves_no_recording(stage: Stage, name: str) -> None:
    assert stage.of(name).recordings == ()


# ---- more than one


@pytest.mark.parametrize("name", ["two calls at once", "two calls on one connection"])
def test_two_calls_at_once_are_two_recordings(stage: Stage, name: str) -> None:
    played = stage.of(name)
    assert len(set(played.run.call_ids)) == 2
    assert sorted(each.call_id for each in played.recordings) == sorted(played.run.call_ids)
    assert [(each.state, each.verdict) for each in played.recordings] == [("ended", "ok")] * 2
    assert len({each.channels[0].ssrcs[0] for each in played.recordings}) == 2
