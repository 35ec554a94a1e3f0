"""An INVITE with Replaces, as the user agent server of RFC 3891 section 3 must take it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from siprec.sip.message import Response
from tests.support.replay import Server, Src, recording_server

DIALECT = "trait-09-failover"


async def established(server: Server) -> Src:
    src = server.src(DIALECT)
    assert (await src.send("good")).status == 200
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    return src


def dialog_of(src: Src, *, suffix: str = "") -> str:
    """The Replaces value that names the dialog of `src`: our tag is its To tag."""
    assert src.invite is not None
    return f"{src.invite.call_id};to-tag={src.to_tag};from-tag={src.invite.from_.tag}{suffix}"


async def replace(server: Server, value: str, changes: dict[str, str] | None = None) -> Response:
    """Send an INVITE with that Replaces from the same SRC."""
    return await server.src(DIALECT).send("replacing", replace={"${replaces}": value, **(changes or {})})


async def still_recorded(src: Src) -> None:
    """The dialog was left untouched: it still takes audio and a BYE."""
    await src.speak("1")
    recorded = await src.bye()
    assert recorded.manifest.channels[0].packets == 10
    assert recorded.heard == ["Alice", "Bob"]


async def test_the_new_dialog_goes_on_and_the_old_one_gets_bye(server: Server) -> None:
    src = await established(server)
    later = server.src(DIALECT)
    response = await later.send("replacing", replace={"${replaces}": dialog_of(src)})
    assert response.status == 200
    await later.ack()
    assert src.invite is not None
    await src.request("BYE")
    await later.speak("1")
    await later.speak("2")
    await later.exchange(later.build("BYE"))
    recorded = await server.ended(src.invite.call_id)
    assert len(server.recordings()) == 1
    assert recorded.heard == ["Alice", "Bob"]
    assert [each.packets for each in recorded.manifest.channels] == [10, 10]
    assert [each["call_id"] for each in recorded.manifest.dialogs] == [src.invite.call_id, "replacing@127.0.0.20"]
    assert len(recorded.manifest.recoveries) == 1


BAD: dict[str, tuple[Callable[[str], str], int]] = {
    "two headers": (lambda good: f"{good}\nReplaces: x@example.com;to-tag=1;from-tag=2", 400),
    "a Join beside it": (lambda good: f"{good}\nJoin: x@example.com;to-tag=1;from-tag=2", 400),
    "no tags": (lambda good: good.partition(";")[0], 400),
    "another Call-ID": (lambda good: f"x{good}", 481),
    "another to-tag": (lambda good: good.replace("to-tag=", "to-tag=x"), 481),
    "another from-tag": (lambda good: good.replace("from-tag=", "from-tag=x"), 481),
    "tags the other way round": (
        lambda good: good.replace("to-tag", "?").replace("from-tag", "to-tag").replace("?", "from-tag"),
        481,
    ),
    "early-only on a confirmed dialog": (lambda good: f"{good};early-only", 486),
}


@pytest.mark.parametrize(("change", "status"), BAD.values(), ids=BAD.keys())
async def test_what_is_refused_leaves_the_old_dialog_alone(
    server: Server, change: Callable[[str], str], status: int
) -> None:
    src = await established(server)
    assert (await replace(server, change(dialog_of(src)))).status == status
    await still_recorded(src)


async def test_media_that_cannot_be_taken_leave_the_old_dialog_alone(server: Server) -> None:
    src = await established(server)
    assert (await replace(server, dialog_of(src), {"RTP/AVP": "UDP/DTLS/SCTP"})).status == 488
    await still_recorded(src)


async def test_a_terminated_dialog_is_603(server: Server) -> None:
    src = await established(server)
    named = dialog_of(src)
    await src.bye()
    assert (await replace(server, named)).status == 603


async def test_another_identity_is_403(tmp_path: Path) -> None:
    async with recording_server(tmp_path, SIP_ALLOW="one=127.0.0.20,other=127.0.0.21") as server:
        src = await established(server)
        other = server.src(DIALECT, address=("127.0.0.21", 5060))
        changes = {"${replaces}": dialog_of(src), "Via: SIP/2.0/UDP 127.0.0.20": "Via: SIP/2.0/UDP 127.0.0.21"}
        assert (await other.send("replacing", replace=changes)).status == 403
        await still_recorded(src)


@pytest.mark.parametrize("method", ["UPDATE", "INFO", "BYE"])
async def test_in_another_request_it_is_400(server: Server, method: str) -> None:
    src = await established(server)
    request = src.build(method, headers={"Replaces": dialog_of(src)})
    assert (await src.exchange(request)).status == 400
    await still_recorded(src)


async def test_an_options_dialog_or_none_matches_nothing(server: Server) -> None:
    src = await established(server)
    assert (await replace(server, "nobody@example.com;to-tag=0;from-tag=0")).status == 481
    await still_recorded(src)


async def test_replaces_is_advertised(server: Server) -> None:
    src = server.src(DIALECT)
    assert "replaces" in (await src.send("good")).headers.values("Supported")
