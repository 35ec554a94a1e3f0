"""INVITEs that are answered and never acknowledged.

`python -m tests.load.half_open PORT COUNT` sends COUNT of them from one socket, each as soon as those before have a
final response (at most `WINDOW` wait), and prints statuses, how many 503 had a Retry-After, the highest number of 200s
at any time, and how long the last final response took to come. Retransmissions and the server's BYEs are counted; BYEs
get no answer either.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.load.spray import request

WINDOW = 32
"""INVITEs on their way: with a few kilobytes each they fit into every receive buffer."""
PATIENCE = 10.0


@dataclass(slots=True)
class Outcome:
    """By Call-ID: the first final status of each INVITE."""

    statuses: dict[str, int] = field(default_factory=dict)
    retry_after: int = 0
    repeated: int = 0
    byes: int = 0
    seconds: float = 0.0

    def told(self) -> dict[str, object]:
        counts = Counter(self.statuses.values())
        return {"statuses": {str(status): count for status, count in sorted(counts.items())},
                "retry_after": self.retry_after, "repeated": self.repeated, "byes": self.byes,
                "seconds": round(self.seconds, 3)}  # fmt: skip


def flood(port: int, count: int, *, prefix: str = "half-open") -> Outcome:
    """COUNT INVITEs; returns when each has its final response. Raises TimeoutError when the server falls silent."""
    outcome, begun = Outcome(), time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.connect(("127.0.0.1", port))
        sock.settimeout(PATIENCE)
        sent = 0
        while len(outcome.statuses) < count:
            while sent < count and sent - len(outcome.statuses) < WINDOW:
                sock.send(_invite(sent, prefix))
                sent += 1
            _take(sock.recv(65_535).decode("utf-8", "replace"), outcome)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _invite(number: int, prefix: str) -> bytes:
    asked = request("INVITE", number).replace(b"foreign-", f"{prefix}-".encode())
    return asked.replace(b"192.0.2.1", b"127.0.0.1").replace(b"z9hG4bK", f"z9hG4bK{prefix}".encode())


def _take(text: str, outcome: Outcome) -> None:
    if text.startswith("BYE "):
        outcome.byes += 1
    status = re.match(r"SIP/2\.0 ([2-6][0-9][0-9])", text)
    call_id = re.search(r"^Call-ID: (.*?)\r$", text, re.MULTILINE)
    if status is None or call_id is None:
        return
    if call_id[1] in outcome.statuses:
        outcome.repeated += 1
        return
    outcome.statuses[call_id[1]] = int(status[1])
    if status[1] == "503":
        outcome.retry_after += "\r\nRetry-After: " in text


if __name__ == "__main__":
    print(json.dumps(flood(int(sys.argv[1]), int(sys.argv[2])).told()))
