"""CPU of rendering a 5-minute two-channel G.711 call to a WAV file, as one line of JSON.

Run as `python tests/load/bench_render.py [rounds]`. The capture lies in the file cache, as after a call.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from siprec.archive.audio import write_audio
from siprec.media.render import render
from tests.support.captures import SECOND, Channel, Folder, Sender, Sent, noise, payloads

MINUTES = 5
BATCH = 10  # packets of one stream that a drain each 200 ms finds


def call(folder: Path) -> Path:
    """A part with two streams, packets in the order a drain writes them."""
    count = MINUTES * 60 * 50
    sides: list[list[Sent]] = []
    for number in range(2):
        sender = Sender(ssrc=number + 1, port=10_000 + 2 * number)
        sides.append(sender.send(payloads(noise(count, seed=number))))
    packets = [each for at in range(0, count, BATCH) for side in sides for each in side[at : at + BATCH]]
    channels = [Channel(port=10_000), Channel(port=10_002)]
    return Folder(channels=channels, end=MINUTES * 60 * SECOND).write(folder / "part", packets)


def measure(part: Path, target: Path) -> float:
    """Seconds of CPU for one rendering, report included."""
    begun = time.process_time()
    rendering = render([part])
    write_audio(target, rendering.blocks(), rate=rendering.rate, channels=rendering.channels, format="wav")
    report = rendering.report
    spent = time.process_time() - begun
    assert not report.gaps, "nothing was lost"
    return spent


def main(rounds: int) -> None:
    """Prints the first (cold) and the least of `rounds`."""
    with tempfile.TemporaryDirectory() as folder:
        part = call(Path(folder))
        spent = [measure(part, Path(folder) / "audio.wav") * 1000 for _ in range(rounds)]
    print(
        json.dumps(
            {
                "bench": "render",
                "minutes": MINUTES,
                "channels": 2,
                "cpu_ms_first": round(spent[0], 1),
                "cpu_ms": round(min(spent), 1),
                "required_ms": 100,
                "aim_ms": 30,
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
