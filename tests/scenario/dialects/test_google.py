"""Google's test client: an ACK with the branch of its INVITE, labels in the metadata that no line has, SRTP."""

from tests.support.replay import Server


async def test_labels_that_no_line_has_are_paired_in_order(server: Server) -> None:
    src = server.src("google", transport="tcp")
    response = await src.send("invite")
    assert response.status == 200
    assert response.headers.get("Session-Expires") == "1800;refresher=uac"
    await src.ack(branch="z9hG4bK-google-1")
    await src.speak("1")
    await src.speak("2")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.manifest.metadata_errors == []
    assert "ack" in [each["event"] for each in recorded.events]


async def test_a_secure_offer_gets_a_secure_answer(server: Server) -> None:
    src = server.src("google", transport="tcp")
    response = await src.send("secure")
    assert response.status == 200
    await src.ack()
    assert src.answer is not None
    assert [each.transport for each in src.answer.media] == ["RTP/SAVP", "RTP/SAVP"]
    keys = [crypto for each in src.answer.media for crypto in each.crypto]
    assert [each.split()[:2] for each in keys] == [["1", "AES_CM_128_HMAC_SHA1_80"], ["2", "AES_CM_128_HMAC_SHA1_80"]]
    assert len({each.split()[2] for each in keys}) == 2
    await src.bye()
