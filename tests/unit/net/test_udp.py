"""SIP over UDP on the loopback."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from siprec.errors import ListenError
from siprec.net.udp import MAX_QUEUED, UdpListener, source_address
from siprec.sip.events import AckReceived, DialogEnded, RequestFailed, RequestReceived, ResponseReceived
from siprec.sip.flow import Flow
from siprec.sip.message import Response, parse
from tests.support.shell import Shell, until


@contextmanager
def listening(
    shell: Shell, host: str = "127.0.0.1", *, allow: Callable[[str], bool] = lambda ip: True
) -> Iterator[UdpListener]:
    listener = UdpListener(host, 0, pump=shell.pump, allow=allow, refused=shell.note_refused)
    try:
        yield listener
    finally:
        shell.pump.close()
        listener.close()


def options(port: int, branch: str = "z9hG4bKx") -> bytes:
    lines = [
        "OPTIONS sip:127.0.0.1 SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1:{port};branch={branch};rport",
        "From: <sip:alice@example.com>;tag=1",
        "To: <sip:bob@example.com>",
        f"Call-ID: {branch}",
        "CSeq: 1 OPTIONS",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@contextmanager
def peer(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.setblocking(False)
        yield sock


async def receive(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    async with asyncio.timeout(10):
        data, source = await asyncio.get_running_loop().sock_recvfrom(sock, 65535)
        return data, source[:2]


async def test_a_call_between_two_sockets() -> None:
    alice, bob = Shell(), Shell()
    with listening(alice) as here, listening(bob) as there:
        flow = Flow("udp", here.address, there.address)
        body = b"x" * 3000
        alice.endpoint.invite(
            f"sip:bob@127.0.0.1:{there.address[1]}",
            flow,
            from_="<sip:alice@example.com>",
            to="<sip:bob@example.com>",
            contact=f"<sip:alice@127.0.0.1:{here.address[1]}>",
            body=body,
            now=time.monotonic(),
        )
        alice.pump.flush()
        asked = await bob.event(RequestReceived)
        assert asked.request.body == body
        assert asked.flow == Flow("udp", there.address, here.address)
        answered = await bob.event(AckReceived)
        bob.endpoint.request("BYE", answered.dialog, now=time.monotonic())
        bob.pump.flush()
        assert (await alice.event(DialogEnded)).cause == "remote"
        assert (await bob.event(DialogEnded)).cause == "local"
        assert (alice.defects, bob.defects) == ([], [])


@pytest.mark.parametrize(("wildcard", "aim"), [("0.0.0.0", "127.0.0.7"), ("::", "::1")])
async def test_on_a_wildcard_the_reply_leaves_from_the_address_that_was_hit(wildcard: str, aim: str) -> None:
    bob = Shell()
    with listening(bob, wildcard) as there, peer("::1" if ":" in aim else "127.0.0.1") as sock:
        sock.sendto(options(sock.getsockname()[1]), (aim, there.address[1]))
        data, source = await receive(sock)
        assert source == (aim, there.address[1])
        assert isinstance(parse(data), Response)
        assert (await bob.event(RequestReceived)).flow.local == (aim, there.address[1])


async def test_a_broadcast_is_not_answered() -> None:
    bob = Shell()
    with listening(bob, "0.0.0.0") as there, peer() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(options(sock.getsockname()[1], "z9hG4bKall"), ("127.255.255.255", there.address[1]))
        sock.sendto(options(sock.getsockname()[1], "z9hG4bKone"), ("127.0.0.1", there.address[1]))
        assert parse((await receive(sock))[0]).call_id == "z9hG4bKone"
        assert (await bob.event(RequestReceived)).request.call_id == "z9hG4bKone"


async def test_the_unlisted_get_silence_and_are_counted_before_parsing() -> None:
    bob = Shell()
    with listening(bob, allow=lambda ip: ip != "127.0.0.66") as there, peer("127.0.0.66") as bad, peer() as good:
        bad.sendto(b"anything", there.address)
        good.sendto(options(good.getsockname()[1]), there.address)
        await receive(good)
        assert bob.refused.get_nowait() == ("127.0.0.66", "udp")
        with pytest.raises(BlockingIOError):
            bad.recv(10)


async def test_many_datagrams_in_one_wake_up_are_all_taken() -> None:
    bob = Shell()
    with listening(bob) as there, peer() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # all answers come at once
        for number in range(200):
            sock.sendto(options(sock.getsockname()[1], f"z9hG4bK{number}"), there.address)
        seen = {parse((await receive(sock))[0]).call_id for _ in range(200)}
        assert len(seen) == 200


async def test_nobody_at_the_other_end_is_no_error() -> None:
    """ECONNREFUSED, told by ICMP, belongs to some earlier datagram: the request times out or is answered later."""
    alice, bob = Shell(), Shell()
    with peer() as gone:
        closed = gone.getsockname()
    with listening(alice) as here, listening(bob) as there:
        for target in (closed, there.address, closed, there.address):
            _options(alice, here, target)
            await asyncio.sleep(0)
        statuses = [(await alice.event(ResponseReceived)).response.status for _ in range(2)]
        assert statuses == [200, 200]
        assert alice.defects == []


@pytest.mark.parametrize("remote", [("127.0.0.1", 0), ("127.0.0.1", 65536), ("localhost", 5060), ("", 5060)])
async def test_only_ip_literals_and_real_ports_reach_the_socket(remote: tuple[str, int]) -> None:
    alice = Shell()
    with listening(alice) as here:
        _options(alice, here, remote)
        assert (await alice.event(RequestFailed)).cause == "transport"
        assert alice.defects == []


async def test_what_no_listener_can_send_fails_at_once() -> None:
    alice = Shell()
    with listening(alice) as here:
        _options(alice, here, ("::1", 5060))
        assert (await alice.event(RequestFailed)).cause == "transport"


async def test_a_message_too_long_for_a_datagram_fails() -> None:
    alice = Shell()
    with listening(alice) as here:
        _options(alice, here, ("127.0.0.1", 5060), body=b"x" * 70_000)
        assert (await alice.event(RequestFailed)).cause == "transport"


async def test_a_port_in_use_says_which_setting() -> None:
    bob = Shell()
    with (
        listening(bob) as there,
        pytest.raises(ListenError, match=r"SIP_HOST, SIP_PORT: .*127\.0\.0\.1 port \d+: Addr"),
    ):
        UdpListener(*there.address, pump=bob.pump, allow=lambda ip: True, refused=bob.note_refused)


@pytest.mark.parametrize("host", ["localhost", "", "192.0.2.77"])
async def test_an_address_that_is_not_ours_cannot_be_listened_on(host: str) -> None:
    with pytest.raises(ListenError):
        UdpListener(host, 0, pump=Shell().pump, allow=lambda ip: True, refused=lambda ip, transport: None)


async def test_the_receive_buffer_is_what_the_kernel_granted() -> None:
    with listening(Shell()) as here:
        assert here.receive_buffer_bytes > 100_000


async def test_a_full_socket_queues_up_to_the_limit_and_counts_what_it_drops() -> None:
    alice = Shell()
    with listening(alice) as here, peer() as sock:
        flow = Flow("udp", here.address, sock.getsockname())
        here._queue.append((flow, b"first"))  # as if the socket were full: nothing may overtake what waits
        for _ in range(MAX_QUEUED):
            here.send(flow, b"more")
        assert here.dropped == 1
        here._writable()
        assert (await receive(sock))[0] == b"first"
        assert len(here._queue) == 0


async def test_a_socket_that_was_bound_before_is_taken_over() -> None:
    bob = Shell()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    listener = UdpListener("127.0.0.1", 0, pump=bob.pump, allow=lambda ip: True, refused=bob.note_refused, sock=sock)
    assert listener.address == ("127.0.0.1", port)
    with peer() as client:
        client.sendto(options(client.getsockname()[1]), listener.address)
        await receive(client)
    bob.pump.close()
    listener.close()
    await until(lambda: sock.fileno() == -1)


def test_the_address_towards_a_peer() -> None:
    assert source_address(("127.0.0.1", 5060)) == "127.0.0.1"
    with pytest.raises(OSError, match="not an IP address"):
        source_address(("localhost", 5060))


def _options(shell: Shell, here: UdpListener, remote: tuple[str, int], *, body: bytes = b"") -> None:
    addresses = "<sip:alice@example.com>", "<sip:bob@example.com>"
    shell.endpoint.send(
        "OPTIONS", "sip:bob@example.com", Flow("udp", here.address, remote), from_=addresses[0], to=addresses[1],
        body=body, now=time.monotonic(),
    )  # fmt: skip
    shell.pump.flush()
