"""What an SRC does when its recorder is lost: it goes to the next one, in one of three styles.

    replaces    a new INVITE whose Replaces (RFC 3891) names the lost dialog
    fresh       a new INVITE that does not speak of the lost dialog; only its metadata has the same session_id
                (what SBCs in the field do)
    reinvite    the re-INVITE of the lost dialog, To tag and all, sent to the other server, with Replaces

A recorder is lost when it leaves OPTIONS in the dialog unanswered, answers that it knows no such dialog or has no
service, breaks the TCP connection, or when its host refuses the packets of every stream (ICMP port unreachable). Its
BYE is no loss: it has ended the recording. RTP goes on all the time, as an SBC's does: what is sent before the other
server has answered is what the failure costs. The servers take turns: from the second the call goes back to the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from siprec import clock
from siprec.client.call import LiveCall
from siprec.client.options import CallOptions, Failover, FailoverStyle
from siprec.client.src import RecordingClient, destination, replaces_header

PROBE_SECONDS = 1.0
"""Between two OPTIONS in the dialog. SBCs take 5 to 60 s; whoever watches or tests does not want to wait for that."""

PROBE_PATIENCE = 2.0
"""For an answer to OPTIONS: two retransmissions over UDP (after 0.5 and 1.5 s) have been lost too by then."""

LOST_STATUSES = frozenset({408, 481, 503})
"""Nobody answered; the dialog is unknown; the connection broke (RFC 3261 section 8.1.3.1), or no service."""

LOOK_SECONDS = 0.1
REFUSALS = 5
"""Packets in a row that every stream must have had refused, looked at this often: 100 ms of audio."""

GIVE_UP_SECONDS = 30.0
"""For how long the other server is tried, AGAIN_SECONDS after each refusal."""

AGAIN_SECONDS = 1.0

Report = Callable[[str], None]


async def carry(client: RecordingClient, call: LiveCall, *, report: Report) -> LiveCall:
    """Let an answered `call` have its `options.duration` of media, on whatever server of its options is left.

    Returns the call that the session ended up in, which wants its BYE. Never raises for what a server does.
    """
    began = clock.monotonic()
    ends_at = began + call.options.duration
    call.limit(call.options.duration)

    def tell(text: str) -> None:
        report(f"{clock.monotonic() - began:6.1f} s  {text}")

    while not client.stopping:
        failover = call.options.failover
        if failover is None:
            await call.run(ends_at - clock.monotonic())
            break
        reason = await watch(call, ends_at - clock.monotonic())
        if reason is None:
            break
        tell(f"{call.options.target} is lost: {reason}")
        noticed, lost = clock.monotonic(), call
        carried = await go_over(client, lost, failover, report=tell)
        if carried is None:
            lost.abandon()
            lost.result.problem = f"{failover.target} did not take the call over"
            break
        call = carried
        call.result.carried = lost.result.carried + 1
        tell(f"{failover.target} carries the call on, {(clock.monotonic() - noticed) * 1000:.0f} ms after that")
    return call


async def watch(call: LiveCall, seconds: float) -> str | None:
    """Let `call` go on for `seconds`; None at its end, or why its recorder counts as lost as soon as it does."""
    running = asyncio.ensure_future(call.run(seconds))
    signs = [asyncio.ensure_future(each(call)) for each in (_unanswered, _refused)]
    done, rest = await asyncio.wait((running, *signs), return_when=asyncio.FIRST_COMPLETED)
    for each in rest:
        each.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    return None if running in done else next(each.result() for each in signs if each in done)


async def go_over(client: RecordingClient, lost: LiveCall, failover: Failover, *, report: Report) -> LiveCall | None:
    """Take the session of `lost` to another server, tried for GIVE_UP_SECONDS: its call there, None when that failed.

    In the style `reinvite` that is `lost` itself, whose dialog goes on there.
    """
    back = replace(failover, target=lost.options.target)
    options = replace(lost.options, target=failover.target, failover=back)
    gives_up_at = clock.monotonic() + GIVE_UP_SECONDS
    while not client.stopping:
        outcome = await _STYLES[failover.style](client, lost, options)
        if isinstance(outcome, LiveCall):
            return outcome
        if clock.monotonic() > gives_up_at:
            break
        report(f"{failover.target}: {outcome}")
        await asyncio.sleep(AGAIN_SECONDS)
    return None


# ---------------------------------------------------------------------- signs of loss


async def _unanswered(call: LiveCall) -> str:
    while True:
        await asyncio.sleep(PROBE_SECONDS)
        reply = await call.options_ping(seconds=PROBE_PATIENCE)
        if reply.status in LOST_STATUSES:
            return f"OPTIONS: {reply.reason}" if reply.response is None else f"OPTIONS answered {reply.status}"


async def _refused(call: LiveCall) -> str:
    seen = _refusals(call)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if seen and all(now >= before + REFUSALS for now, before in zip(_refusals(call), seen, strict=True)):
            return "its host refuses the packets of every stream"


def _refusals(call: LiveCall) -> list[int]:
    return [stream.counts.refused for stream in call.streams if stream.active]


# ---------------------------------------------------------------------- styles


async def _invite(client: RecordingClient, lost: LiveCall, options: CallOptions, *, replaces: bool) -> LiveCall | str:
    taken = client.take_over(lost, options, replaces=replaces)
    await taken.answer()
    return taken if taken.result.answered else taken.result.problem or "no answer"


async def _replaces(client: RecordingClient, lost: LiveCall, options: CallOptions) -> LiveCall | str:
    return await _invite(client, lost, options, replaces=True)


async def _fresh(client: RecordingClient, lost: LiveCall, options: CallOptions) -> LiveCall | str:
    return await _invite(client, lost, options, replaces=False)


async def _reinvite(client: RecordingClient, lost: LiveCall, options: CallOptions) -> LiveCall | str:
    if lost.dialog is None:
        return "the call has no dialog"
    before, lost.options = lost.options, options
    lost.retarget(*destination(options.target))
    reply = await lost.reinvite(headers=(("Replaces", replaces_header(lost.dialog)),), seconds=options.timeout)
    if reply.ok:
        return lost
    lost.options = before
    return f"the re-INVITE was answered {reply.status} {reply.reason}" if reply.response else reply.reason


_STYLES: dict[FailoverStyle, Callable[[RecordingClient, LiveCall, CallOptions], Awaitable[LiveCall | str]]] = {
    "replaces": _replaces,
    "fresh": _fresh,
    "reinvite": _reinvite,
}
