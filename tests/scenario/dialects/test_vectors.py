"""Every dialect's INVITE, in a good and a bad pair.

`invite.sip` (or what else begins a call) is recorded. `bad.sip` differs in one thing, and `bad.txt` says what comes of
it: the status, and below it, for a call that is recorded all the same, what is wrong with its metadata.
"""

from pathlib import Path

import pytest

from siprec.sip.message import parse
from tests.support.replay import VECTORS, recording_server, sdp_of

DIALECTS = sorted(each.parent.name for each in VECTORS.glob("*/bad.txt"))
OPENING = ("invite", "near", "good")
ANSWERED = {"sendonly": "recvonly", "sendrecv": "recvonly", None: "recvonly"}  # everything else is inactive


def opening(dialect: str) -> str:
    return next(each for each in OPENING if (VECTORS / dialect / f"{each}.sip").exists())


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_good(dialect: str, tmp_path: Path) -> None:
    async with recording_server(tmp_path, RECORD_PLAIN_CALLS="true") as server:
        src = server.src(dialect)
        request = parse(src.load(opening(dialect)))
        response = await src.send(opening(dialect))
        assert response.status == 200
        assert response.contact is not None
        assert "+sip.srs" in response.contact.params
        assert not {"siprec"} & set(response.headers.values("Supported"))
        offer, answer = sdp_of(request), sdp_of(response)
        assert answer is not None
        for ours, theirs in zip(offer.media if offer else answer.media, answer.media, strict=True):
            assert (ours.kind, ours.label, ours.transport) == (theirs.kind, theirs.label, theirs.transport)
            assert theirs.port % 2 == 0
            if theirs.port:
                assert theirs.direction == (ANSWERED.get(ours.direction, "inactive") if offer else "recvonly")
        if offer is not None:
            await src.ack()
            recorded = await src.bye()
            assert recorded.manifest.state == "ended"
            assert recorded.manifest.metadata_errors == []


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_bad(dialect: str, tmp_path: Path) -> None:
    status, *faults = (VECTORS / dialect / "bad.txt").read_text().splitlines()
    async with recording_server(tmp_path) as server:
        src = server.src(dialect)
        response = await src.send("bad")
        assert response.status == int(status)
        if response.status == 200:
            await src.ack()
            recorded = await src.bye()
            assert recorded.manifest.state == "ended"
            assert recorded.manifest.metadata_errors == faults
        else:
            assert server.recordings() == []
