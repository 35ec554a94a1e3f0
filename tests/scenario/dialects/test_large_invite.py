"""An INVITE of several fragments over UDP, through a real socket."""

import asyncio
import socket
from pathlib import Path

from siprec.net.udp import UdpListener
from siprec.sip.message import Response, parse
from tests.support.replay import PATIENCE, recording_server


async def test_it_arrives_whole(tmp_path: Path) -> None:
    async with recording_server(tmp_path) as server:
        data = server.src("trait-10-large").load("good")
        assert len(data) > 4000
        listener = UdpListener("127.0.0.1", 0, pump=server.pump, allow=lambda _: True, refused=lambda *_: None)
        server.detach()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("127.0.0.20", 0))
                sender.setblocking(False)
                data = data.replace(b"127.0.0.20:5060;branch", b"127.0.0.20:%d;branch" % sender.getsockname()[1])
                await asyncio.get_running_loop().sock_sendto(sender, data, listener.address)
                statuses: list[int] = []
                while not statuses or statuses[-1] < 200:
                    answer = asyncio.get_running_loop().sock_recv(sender, 65_535)
                    response = parse(await asyncio.wait_for(answer, PATIENCE))
                    assert isinstance(response, Response)
                    statuses.append(response.status)
                assert statuses == [100, 200]
        finally:
            listener.close()
