"""After a recovery that brought no full metadata, the SRC is asked for it (RFC 7866 section 9.2)."""

import asyncio

import pytest

from siprec.metadata import xml
from siprec.metadata.model import SnapshotRequest
from siprec.sip.message import Request
from tests.support.failover import call_id, come_again, named, recorded_call, until
from tests.support.replay import TICK_SECONDS, Server, Src

ALLOWS = "Allow: INVITE, ACK, BYE, UPDATE\n"
PARTIAL = {"<datamode>complete</datamode>": "<datamode>partial</datamode>"}


async def come_back(server: Server, **wanted: dict[str, str]) -> tuple[Src, Src]:
    old = await recorded_call(server)
    new, response = await come_again(server, ALLOWS + named(old), **wanted)  # type: ignore[arg-type]
    assert response.status == 200
    return old, new


def requests(src: Src) -> list[Request]:
    return [each for each in src.received if isinstance(each, Request) and each.method == "UPDATE"]


async def finish(server: Server, old: Src, new: Src) -> None:
    await new.exchange(new.build("BYE"))
    await server.ended(call_id(old))


async def test_a_partial_document_is_completed(server: Server) -> None:
    old, new = await come_back(server, replace=PARTIAL)
    update = await new.request("UPDATE")
    assert update.headers.get("Content-Type") == "application/rs-metadata+xml"
    assert update.headers.get("Content-Disposition") == "recording-session"
    assert update.headers.get("Require") == "siprec"
    assert isinstance(xml.parse(update.body), SnapshotRequest)
    assert new.invite is not None
    body = new.invite.body.partition(b"<?xml")[2].partition(b"</recording>")
    full = b"<?xml" + (body[0] + body[1]).replace(b"partial", b"complete").replace(b">Bob<", b">Carol<")
    answer = await new.exchange(new.build("UPDATE", body=full, content_type="application/rs-metadata+xml"))
    assert answer.status == 200
    await finish(server, old, new)
    assert "Carol" in server.of(call_id(old)).names


async def test_a_complete_document_is_enough(server: Server) -> None:
    old, new = await come_back(server)
    await asyncio.sleep(2 * TICK_SECONDS)
    assert requests(new) == []
    await finish(server, old, new)


async def test_an_src_without_update_is_not_asked(server: Server) -> None:
    old = await recorded_call(server)
    new, _ = await come_again(server, named(old), replace=PARTIAL)
    await asyncio.sleep(2 * TICK_SECONDS)
    assert requests(new) == []
    await finish(server, old, new)


@pytest.mark.parametrize("status", [415, 420])
async def test_one_that_takes_offence_is_asked_once_more(server: Server, status: int) -> None:
    old = await recorded_call(server)
    new, _ = await come_again(server, ALLOWS + named(old), replace=PARTIAL, ack=False)
    new.on_request = lambda request: (status, [], b"")
    await new.ack()
    await until(server, lambda: len(requests(new)) == 2)
    first, second = requests(new)
    assert first.headers.get("Content-Type") == "application/rs-metadata+xml"
    if status == 415:
        assert second.headers.get("Content-Type") == "application/rs-metadata"
    else:
        assert second.headers.get("Require") is None
    assert server.of(call_id(old)).manifest.state == "recording"
    await finish(server, old, new)
    assert len(requests(new)) == 2
