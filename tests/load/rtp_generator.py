"""`rtp_generator.c` in Python, for machines without a C compiler: the same arguments, packets and answer."""

from __future__ import annotations

import socket
import sys
import time
from itertools import pairwise

from siprec.rtp import packets
from tests.load.machine import raise_descriptor_limit

RATE = 50
TICKS = 160
PCMA = 8
SILENCE = b"\xd5" * (TICKS - 4)


def opened(address: str, first_port: int, streams: int, source_port: int) -> list[socket.socket]:
    made = []
    for index in range(streams):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind((address, source_port + index))
        sender.connect((address, first_port + 2 * index))
        made.append(sender)
    return made


def main(address: str, first_port: int, streams: int, seconds: float, source_port: int, burst_us: int) -> None:
    raise_descriptor_limit()
    senders = opened(address, first_port, streams, source_port)
    bursts = 1_000_000 // RATE // burst_us
    edges = [streams * burst // bursts for burst in range(bursts + 1)]
    sent, due = 0, time.monotonic()
    for number in range(int(seconds * RATE)):
        payload = number.to_bytes(4, "big") + SILENCE
        for begin, end in pairwise(edges):
            for index in range(begin, end):
                packet = packets.build(
                    PCMA, number & 0xFFFF, timestamp=TICKS * number, ssrc=0x5000 + index, payload=payload
                )
                sent += senders[index].send(packet) == len(packet)
            due += burst_us / 1e6
            time.sleep(max(0.0, due - time.monotonic()))
    print(sent, round((time.monotonic() - due) * 1000, 1))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
