"""SRCs that lose their dialog and come again, for scenarios of recovery (on top of `replay`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import count

from siprec.sip.message import Response
from tests.support.replay import PATIENCE, TICK_SECONDS, Recorded, Server, Src

ALLOW = "a=127.0.0.20|127.0.0.21|127.0.30.0/24,b=127.0.0.66"
"""Two identities: the SRCs at .20 and .21 are one."""

ABSENT_SECONDS = 0.3
"""Long enough to count as an absence (250 ms)."""

_numbers = count(1)
_GOOD_MEDIA = ("m=audio 12000 ", "m=audio 12004 ")


def caller(server: Server, address: str = "127.0.0.20") -> tuple[Src, dict[str, str]]:
    """An SRC, and what makes its messages those of a call of its own: Call-ID, branch, tag, media ports, session."""
    number = next(_numbers)
    ports = [12000 + 8 * number, 12004 + 8 * number]
    own = {
        "trait-09-failover-call": f"recovery-{number}",
        "z9hG4bK-trait-09-failover-1": f"z9hG4bK-recovery-{number}",
        "tag=src-1": f"tag=recovery-{number}",
        "UDP 127.0.0.20": f"UDP {address}",
        "MDAwMDAwMDAwMDAwMDAwMQ==": f"session-{number}",
    }
    own |= {line: f"m=audio {port} " for line, port in zip(_GOOD_MEDIA, ports, strict=True)}
    return server.src("trait-09-failover", address=(address, 5060)), own


async def recorded_call(server: Server, *, session: str | None = None, replace: Mapping[str, str] | None = None) -> Src:
    """A call in progress whose first stream has been heard. `session`: its communication session."""
    src, own = caller(server)
    if session is not None:
        own["MDAwMDAwMDAwMDAwMDAwMQ=="] = session
    assert (await src.send("good", replace=own | dict(replace or {}))).status == 200
    await src.ack()
    await src.speak("1")
    return src


def named(dialog: Src, *, extra: str = "") -> str:
    """A Replaces header that names an SRC's dialog."""
    return f"Replaces: {call_id(dialog)};to-tag={dialog.to_tag};from-tag={from_tag(dialog)}{extra}\n"


def call_id(src: Src) -> str:
    assert src.invite is not None
    return src.invite.call_id


def from_tag(src: Src) -> str:
    assert src.invite is not None
    return src.invite.from_.tag or ""


async def come_again(
    server: Server,
    header: str,
    *,
    address: str = "127.0.0.20",
    session: str | None = None,
    replace: Mapping[str, str] | None = None,
    ack: bool = True,
) -> tuple[Src, Response]:
    """A further INVITE, with `header` (a line, or none), and what it came to."""
    src, own = caller(server, address)
    if session is not None:
        own["MDAwMDAwMDAwMDAwMDAwMQ=="] = session
    own["Max-Forwards: 70\n"] = f"Max-Forwards: 70\n{header}"
    response = await src.send("good", replace=own | dict(replace or {}))
    if response.status == 200 and ack:
        await src.ack()
    return src, response


async def reinvite(src: Src, header: str, *, replace: Mapping[str, str] | None = None) -> Response:
    """The SRC's INVITE again, inside its dialog, with `header`."""
    assert src.invite is not None
    src.cseq += 1
    data = bytes(src.invite).replace(
        b"Max-Forwards: 70\r\n", b"Max-Forwards: 70\r\n" + header.replace("\n", "\r\n").encode()
    )
    data = data.replace(
        (src.invite.headers.get("To") or "").encode() + b"\r\n",
        f"{src.invite.headers.get('To')};tag={src.to_tag}\r\n".encode(),
    )
    data = data.replace(b"CSeq: 1 ", f"CSeq: {src.cseq} ".encode())
    data = data.replace((src.invite.via.branch or "").encode(), f"z9hG4bK-again-{src.to_tag}-{src.cseq}".encode())
    for old, new in (replace or {}).items():
        assert old.encode() in data, old
        data = data.replace(old.encode(), new.encode())
    response = await src.exchange(data)
    if response.status == 200:
        await src.ack()
    return response


async def absence(seconds: float = ABSENT_SECONDS) -> None:
    """Let the time of a failure pass: gaps are measured in real packets, so it is real time."""
    await asyncio.sleep(seconds)


async def until(server: Server, where: Callable[[], object]) -> None:
    """Wait for what nobody tells of."""
    async with asyncio.timeout(PATIENCE):
        while not where():  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS / 4)


async def still_records(server: Server, src: Src) -> Recorded:
    """That a call was left alone: it has heard no BYE, its stream is recorded on, its BYE ends it well."""
    await src.speak("1")
    assert not [each for each in src.received if getattr(each, "method", "") == "BYE"]
    recorded = await src.bye()
    assert recorded.manifest.channels[0].packets == 10
    assert recorded.manifest.recoveries == []
    return recorded
