"""SIP over TCP and TLS on the loopback."""

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from siprec.errors import ListenError
from siprec.net import tcp
from siprec.net.tcp import MAX_UNSENT_BYTES, TcpListener
from siprec.sip import framing
from siprec.sip.events import AckReceived, DialogEnded, RequestFailed, RequestReceived, ResponseReceived
from siprec.sip.flow import Flow, Transport
from siprec.sip.message import Response, parse
from tests.support.shell import Shell, until
from tests.unit.net.test_udp import options

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OPTIONS = options(5060).replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP").replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n")


@asynccontextmanager
async def listening(
    shell: Shell,
    *,
    allow: Callable[[str], bool] = lambda ip: True,
    max_connections: int = 10,
    tls: ssl.SSLContext | None = None,
    tls_client: ssl.SSLContext | None = None,
) -> AsyncIterator[TcpListener]:
    listener = TcpListener(
        "127.0.0.1",
        0,
        pump=shell.pump,
        allow=allow,
        refused=shell.note_refused,
        max_connections=max_connections,
        tls=tls,
        tls_client=tls_client,
    )
    try:
        yield listener
    finally:
        shell.pump.close()
        listener.close()
        await until(lambda: len(listener._connections) == 0)


@asynccontextmanager
async def connected(listener: TcpListener, source: str = "127.0.0.1") -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection(*listener.address, local_addr=(source, 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def response(reader: asyncio.StreamReader) -> Response:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    message = parse(head)
    assert isinstance(message, Response)
    return message


async def closed(reader: asyncio.StreamReader) -> bool:
    """Whether the other end closes without another word."""
    async with asyncio.timeout(10):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


def invite(shell: Shell, here: TcpListener, there: TcpListener, transport: Transport) -> None:
    shell.endpoint.invite(
        f"sip:bob@127.0.0.1:{there.address[1]};transport={transport}",
        Flow(transport, here.address, there.address),
        from_="<sip:alice@example.com>",
        to="<sip:bob@example.com>",
        contact=f"<sip:alice@127.0.0.1:{here.address[1]};transport={transport}>",
        body=b"x" * 3000,
        now=time.monotonic(),
    )
    shell.pump.flush()


async def a_call(alice: Shell, bob: Shell, here: TcpListener, there: TcpListener, transport: Transport) -> None:
    invite(alice, here, there, transport)
    assert (await bob.event(RequestReceived)).flow.connection > 0
    dialog = (await bob.event(AckReceived)).dialog
    bob.endpoint.request("BYE", dialog, now=time.monotonic())
    bob.pump.flush()
    assert (await alice.event(DialogEnded)).cause == "remote"
    await bob.event(DialogEnded)
    assert len(there) == 1, "all on one connection"
    assert (alice.defects, bob.defects) == ([], [])


async def test_a_call_over_one_connection() -> None:
    alice, bob = Shell(), Shell()
    async with listening(alice) as here, listening(bob) as there:
        await a_call(alice, bob, here, there, "tcp")


async def test_a_dialog_survives_its_connection() -> None:
    """The next request opens a new one, to the Contact."""
    alice, bob = Shell(), Shell()
    async with listening(alice) as here, listening(bob) as there:
        invite(alice, here, there, "tcp")
        dialog = (await bob.event(AckReceived)).dialog
        for connection in list(there._connections.values()):
            connection.abort()
        await until(lambda: len(there) == len(here) == 0)
        assert dialog.flow.connection == 0
        bob.endpoint.request("BYE", dialog, now=time.monotonic())
        bob.pump.flush()
        assert (await alice.event(DialogEnded)).cause == "remote"
        assert (await bob.event(DialogEnded)).cause == "local"


async def test_requests_that_wait_for_the_connection_share_it() -> None:
    alice, bob = Shell(), Shell()
    async with listening(alice) as here, listening(bob) as there:
        for _ in range(3):
            invite(alice, here, there, "tcp")
        for _ in range(3):
            await bob.event(AckReceived)
        assert len(there) == 1


async def test_a_connection_that_cannot_be_made_fails_the_request() -> None:
    alice, bob = Shell(), Shell()
    async with listening(alice) as here:
        async with listening(bob) as there:
            pass
        invite(alice, here, there, "tcp")
        assert (await alice.event(RequestFailed)).cause == "transport"
        assert len(here) == 0


async def test_a_connection_that_breaks_fails_what_waits_on_it() -> None:
    alice, bob = Shell(), Shell(status=None)
    async with listening(alice) as here, listening(bob) as there:
        invite(alice, here, there, "tcp")
        await bob.event(RequestReceived)
        await alice.event(ResponseReceived)  # the 100
        for connection in list(there._connections.values()):
            connection.abort()
        assert (await alice.event(RequestFailed)).cause == "transport"


async def test_keep_alives_are_answered_and_idleness_is_not_punished() -> None:
    bob = Shell()
    async with listening(bob) as there, connected(there) as (reader, writer):
        writer.write(b"\r\n\r\n")
        async with asyncio.timeout(10):
            assert await reader.readexactly(2) == b"\r\n"
        writer.write(OPTIONS[:100])
        await asyncio.sleep(0)
        writer.write(OPTIONS[100:])
        assert (await response(reader)).status == 200
        await until(lambda: there._unfinished == {})
        assert there._watchdog is None or there._unfinished == {}


async def test_several_messages_in_one_segment() -> None:
    bob = Shell()
    async with listening(bob) as there, connected(there) as (reader, writer):
        writer.write(OPTIONS + OPTIONS.replace(b"z9hG4bKx", b"z9hG4bKy"))
        assert [(await response(reader)).status for _ in range(2)] == [200, 200]


async def test_broken_framing_is_answered_and_closed() -> None:
    bob = Shell()
    async with listening(bob) as there, connected(there) as (reader, writer):
        writer.write(OPTIONS + OPTIONS.replace(b"z9hG4bKx", b"z9hG4bKy").replace(b"Length: 0", b"Length: x"))
        assert [(await response(reader)).status for _ in range(2)] == [200, 400]
        assert await closed(reader)


async def test_a_message_that_never_gets_complete_costs_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MESSAGE_SECONDS", 0.05)
    bob = Shell()
    async with listening(bob) as there, connected(there) as (reader, writer), connected(there) as (idle, patient):
        writer.write(OPTIONS[:-1])
        assert await closed(reader)
        patient.write(OPTIONS)
        assert (await response(idle)).status == 200, "who is idle stays"


async def test_the_unlisted_are_closed_before_a_byte_is_read() -> None:
    bob = Shell()
    async with listening(bob, allow=lambda ip: ip != "127.0.0.66") as there, connected(there, "127.0.0.66") as stream:
        assert await closed(stream[0])
        assert bob.refused.get_nowait() == ("127.0.0.66", "tcp")
        assert len(there) == 0


async def test_limits_in_all_and_per_source() -> None:
    bob = Shell()
    async with listening(bob, max_connections=4) as there, connected(there), connected(there):
        await until(lambda: len(there) == 2)
        async with connected(there) as third:
            assert await closed(third[0]), "half of all is what one source gets"
        async with connected(there, "127.0.0.2"), connected(there, "127.0.0.3"):
            await until(lambda: len(there) == 4)
            async with connected(there, "127.0.0.4") as fifth:
                assert await closed(fifth[0])
        await until(lambda: len(there) == 2)
        assert bob.refused.qsize() == 2


async def test_a_peer_that_does_not_read_is_cut_off() -> None:
    bob = Shell(status=None)
    async with listening(bob) as there, connected(there) as (_, writer):
        writer.write(OPTIONS)
        flow = (await bob.event(RequestReceived)).flow
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(64):
            there.send(flow, b"x" * MAX_UNSENT_BYTES)
        await until(lambda: len(there) == 0)


@pytest.mark.parametrize("over", [0, 1])
async def test_what_waits_for_a_connection_is_bounded(over: int) -> None:
    bob, alice = Shell(), Shell()
    async with listening(alice) as here, listening(bob) as there:
        flow = Flow("tcp", here.address, there.address)
        here.send(flow, OPTIONS)
        here.send(flow, b"\r\n" * ((MAX_UNSENT_BYTES - len(OPTIONS)) // 2) + b"\n" * (len(OPTIONS) % 2))
        here.send(flow, b"\n" * over)
        assert here.dropped == over
        await bob.event(RequestReceived)


async def test_out_of_descriptors_accepting_rests_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "REST_SECONDS", 0.01)
    bob = Shell()
    async with listening(bob) as there:
        there._rest()
        async with connected(there) as (reader, writer):
            writer.write(OPTIONS)
            assert (await response(reader)).status == 200


async def test_a_port_in_use_says_which_setting() -> None:
    bob = Shell()
    async with listening(bob) as there:
        for context, setting in ((None, "SIP_PORT"), (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "SIP_TLS_PORT")):
            with pytest.raises(ListenError, match=f"SIP_HOST, {setting}: .*Address already in use"):
                TcpListener(*there.address, pump=bob.pump, allow=bool, refused=bob.note_refused, tls=context)


async def test_a_name_is_never_connected_to() -> None:
    alice = Shell()
    async with listening(alice) as here:
        for remote in (("localhost", 5060), ("127.0.0.1", 0), ("127.0.0.1", 70000)):
            alice.endpoint.send(
                "OPTIONS",
                "sip:a@b",
                Flow("tcp", here.address, remote),
                from_="<sip:a@b>",
                to="<sip:a@b>",
                now=time.monotonic(),
            )
            alice.pump.flush()
            assert (await alice.event(RequestFailed)).cause == "transport"


# --- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=siprec", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key", "-out", "cert"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return both


def contexts(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate)
    client.load_verify_locations(certificate)
    return server, client


async def test_a_call_over_tls(certificate: Path) -> None:
    server, client = contexts(certificate)
    alice, bob = Shell(), Shell()
    async with (
        listening(alice, tls=server, tls_client=client) as here,
        listening(bob, tls=server, tls_client=client) as there,
    ):
        await a_call(alice, bob, here, there, "tls")


async def test_the_peers_certificate_is_known(certificate: Path) -> None:
    server, client = contexts(certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(certificate)
    client.load_cert_chain(certificate)
    alice, bob = Shell(), Shell()
    async with listening(alice, tls=server, tls_client=client) as here, listening(bob, tls=server) as there:
        invite(alice, here, there, "tls")
        shown = there.peer_certificate((await bob.event(RequestReceived)).flow)
        assert shown is not None
        assert shown["subject"] == ((("commonName", "siprec"),),)
        assert there.peer_certificate(Flow("tls", here.address, there.address, 999)) is None


async def test_without_trust_there_is_no_call(certificate: Path) -> None:
    server, _ = contexts(certificate)
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for client in (stranger, None):
        alice, bob = Shell(), Shell()
        async with listening(alice, tls=server, tls_client=client) as here, listening(bob, tls=server) as there:
            invite(alice, here, there, "tls")
            assert (await alice.event(RequestFailed)).cause == "transport"
            await until(lambda: len(there) == len(here) == 0)


async def test_a_handshake_that_never_ends_is_cut_off(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "HANDSHAKE_SECONDS", 0.05)
    server, _ = contexts(certificate)
    bob = Shell()
    async with listening(bob, tls=server) as there:
        with socket.create_connection(there.address):
            await until(lambda: len(there) == 1)
            await until(lambda: len(there) == 0)
