"""An SRC that fails over sends a new INVITE with a new Call-ID; only the ids in its metadata tie the two."""

from tests.support.replay import Server


async def test_the_second_dialog_names_the_same_session(server: Server) -> None:
    first = server.src("trait-09-failover")
    assert (await first.send("good")).status == 200
    await first.ack()
    await first.speak("1")
    second = server.src("trait-09-failover", address=("127.0.0.21", 5060))
    assert (await second.send("again", replace={"127.0.0.20": "127.0.0.21"})).status == 200
    await second.ack()
    await second.speak("2")
    await second.bye()
    await first.bye()
    sessions = {session.session_id for each in server.recordings() for session in each.manifest.sessions}
    assert sessions == {"MDAwMDAwMDAwMDAwMDAwMQ=="}
    assert sum(channel.packets for each in server.recordings() for channel in each.manifest.channels) == 10


async def test_the_recordings_name_each_other(server: Server) -> None:
    first = server.src("trait-09-failover")
    await first.send("good")
    await first.ack()
    second = server.src("trait-09-failover", address=("127.0.0.21", 5060))
    await second.send("again", replace={"127.0.0.20": "127.0.0.21"})
    await second.ack()
    await second.bye()
    await first.bye()
    found = server.recordings()
    tied = [each.manifest for each in found if each.manifest.replica_of or each.manifest.continues]
    assert len(found) == 1 or len(tied) == 1
