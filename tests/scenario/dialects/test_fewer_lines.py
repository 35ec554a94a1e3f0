"""An offer with fewer m-lines than the one before, which RFC 3264 section 8 forbids."""

from pathlib import Path

import pytest

from tests.support.replay import Server, Src, recording_server


async def begun(server: Server) -> tuple[Src, list[str]]:
    """A call of two streams, and the pieces of its offer: the session's lines, and those of each stream."""
    src = server.src("trait-06-sdp")
    assert (await src.send("good")).status == 200
    await src.ack()
    await src.speak("a_leg")
    await src.speak("b_leg")
    head, *lines = str(src.offer).split("m=")
    return src, [head, *(f"m={each}" for each in lines)]


async def offer(src: Src, *pieces: str, method: str = "INVITE") -> list[bool]:
    """Have an offer of these pieces answered; which m-lines of the answer have a port."""
    assert (await src.exchange(src.build(method, body="".join(pieces).encode()))).status == 200
    if method == "INVITE":
        await src.ack()
    assert src.answer is not None
    return [bool(each.port) for each in src.answer.media]


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
@pytest.mark.parametrize("left_out", [True, False])
async def test_what_is_left_out_is_closed_as_by_port_0(server: Server, method: str, left_out: bool) -> None:
    src, (head, a, b) = await begun(server)
    before = len(server.open_ports)
    refused = [] if left_out else [b.replace("audio 12004", "audio 0")]
    assert await offer(src, head, a, *refused, method=method) == [True, *(False for _ in refused)]
    await src.speak("a_leg", packets=20)
    assert len(server.open_ports) == before - 1
    assert await offer(src, head, a, b, method=method) == [True, True]
    await src.speak("a_leg")
    await src.speak("b_leg")
    recorded = await src.bye()
    assert recorded.labels == ["a_leg", "b_leg"]
    assert [each.packets for each in recorded.manifest.channels] == [30, 10]
    assert recorded.causes == {(1, "paused")}
    told = [each["channels"] for each in recorded.events if each["event"] == method.lower() and "channels" in each]
    assert told == [["a_leg:active", "b_leg:closed"], ["a_leg:active", "b_leg:active"]]


async def test_the_stream_after_it_moves_up(server: Server) -> None:
    src, (head, _, b) = await begun(server)
    assert await offer(src, head, b) == [True]
    await src.speak("b_leg")
    recorded = await src.bye()
    assert recorded.labels == ["a_leg", "b_leg"]
    assert [each.packets for each in recorded.manifest.channels] == [5, 10]


async def test_the_last_of_them_may_go_too(server: Server) -> None:
    src, (head, a, b) = await begun(server)
    assert await offer(src, head) == []
    assert await offer(src, head, a, b) == [True, True]
    await src.speak("b_leg")
    assert [each.packets for each in (await src.bye()).manifest.channels] == [5, 10]


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
async def test_strict_refuses_it_and_changes_nothing(tmp_path: Path, method: str) -> None:
    async with recording_server(tmp_path, SIPREC_MODE="strict") as server:
        src, (head, a, b) = await begun(server)
        ports, changed = list(server.open_ports), a.replace("a_leg", "c_leg")
        refused = await src.exchange(src.build(method, body=f"{head}{changed}".encode()))
        assert refused.status == 488
        assert refused.headers.get("Warning") == '399 siprec "the offer has fewer media sections than the one before"'
        assert server.open_ports == ports
        await src.speak("a_leg")
        await src.speak("b_leg")
        assert await offer(src, head, a, b, method=method) == [True, True]
        recorded = await src.bye()
        assert recorded.labels == ["a_leg", "b_leg"]
        assert [each.packets for each in recorded.manifest.channels] == [10, 10]
        assert recorded.causes == set()
