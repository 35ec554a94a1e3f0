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


async def test_without_a_suite_we_know_there_is_no_call(server: Server) -> None:
    src = server.src("google", transport="tcp")
    response = await src.send("secure", replace={"AES_CM_128_HMAC_SHA1_80": "F8_128_HMAC_SHA1_80"})
    assert response.status == 488
    assert list(server.root.rglob("recording.json")) == []


async def test_a_line_without_a_key_is_refused_alone(server: Server) -> None:
    src = server.src("google", transport="tcp")
    response = await src.send("secure", replace={"a=crypto:2": "a=sixty:2"})
    assert response.status == 200
    await src.ack()
    assert src.answer is not None
    assert [(each.port > 0, each.transport) for each in src.answer.media] == [(True, "RTP/SAVP"), (False, "RTP/SAVP")]
    await src.bye()


async def test_a_refresh_with_the_same_keys_changes_nothing(server: Server) -> None:
    src = server.src("google", transport="tcp")
    await src.send("secure")
    await src.ack()
    first = str(src.answer)
    offer = str(src.offer).encode()
    again = await src.exchange(src.build("INVITE", body=offer, headers={"Contact": "<sip:src@127.0.0.20:5060>"}))
    assert again.status == 200
    await src.ack()
    assert str(src.answer) == first
    await src.bye()


async def test_our_offer_keeps_its_keys(server: Server) -> None:
    """A re-INVITE without SDP is answered with ours, SRTP and all; the ACK may bring new keys."""
    src = server.src("google", transport="tcp")
    await src.send("secure")
    await src.ack()
    assert src.answer is not None
    before = [each.crypto for each in src.answer.media]
    again = await src.exchange(src.build("INVITE", headers={"Contact": "<sip:src@127.0.0.20:5060>"}))
    assert again.status == 200
    assert src.offer is not None
    assert [(each.port > 0, each.transport) for each in src.offer.media] == [(True, "RTP/SAVP")] * 2
    assert [each.crypto for each in src.offer.media] == before
    await src.ack(body=str(src.offer_before).encode())
    await src.bye()
