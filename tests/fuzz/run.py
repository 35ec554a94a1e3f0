"""Runs one target for a while: with atheris (coverage-guided) where it is installed, else with seeded damage.

`python -m tests.fuzz.run SECONDS TARGET`: 0 when nothing was found; else the input is kept in the folder given by
FUZZ_FINDINGS (the working directory by default) and shown.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.support.mutation import PIECES, Mutator

MAX_INPUT_BYTES = 16_384
"""Long enough for every limit that is counted in lines or parts; the size limits have tests of their own."""
INSTRUMENTED = ["siprec.sip", "siprec.sdp", "siprec.metadata", "siprec.rtp", "siprec.media"]
ARRAYS = ["siprec.rtp.packets", "siprec.media.pcap"]
"""Not watched: atheris keeps 1 KiB of memory for good with each comparison of arrays."""
SLOW_SECONDS = 5
"""One input that takes longer is a finding too."""


def main(arguments: list[str]) -> int:
    seconds, target = int(arguments[0]), arguments[1]
    findings = Path(os.environ.get("FUZZ_FINDINGS", "."))
    if importlib.util.find_spec("atheris") is None:
        print(
            "atheris is not installed (pip install -e '.[fuzz]'): damaging the seeds without guidance", file=sys.stderr
        )
        return _damage(seconds, target, findings)
    return _guided(seconds, target, findings)


def _damage(seconds: int, target: str, findings: Path) -> int:
    seeds, check = _load(target)
    seed, deadline, runs = secrets.randbits(32), time.monotonic() + seconds, 0
    damage = Mutator(seed, others=seeds)
    while time.monotonic() < deadline:
        data = damage(seeds[runs % len(seeds)])
        runs += 1
        try:
            check(data)
        except Exception:
            path = findings / f"crash-{target}-{secrets.token_hex(4)}"
            path.write_bytes(data)
            print(f"{target}: seed {seed}, run {runs}, input in {path}", file=sys.stderr)
            raise
    print(f"{target}: {runs} runs, nothing found", file=sys.stderr)
    return 0


def _guided(seconds: int, target: str, findings: Path) -> int:
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED, exclude=ARRAYS):
        seeds, check = _load(target)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds):
            (corpus / str(number)).write_bytes(data)
        words = Path(folder) / "words"
        words.write_text("".join(f'"{_escaped(piece)}"\n' for piece in PIECES))
        options = [
            f"-max_total_time={seconds}", f"-max_len={MAX_INPUT_BYTES}", f"-timeout={SLOW_SECONDS}", f"-dict={words}",
            f"-artifact_prefix={findings}/{target}-", "-print_final_stats=1", "-verbosity=0", str(corpus),
        ]  # fmt: skip
        child = os.fork()  # libFuzzer ends its process by itself
        if child == 0:
            atheris.Setup(["fuzz", *options], check, enable_python_coverage=True)
            atheris.Fuzz()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _load(target: str):  # type: ignore[no-untyped-def]
    """Seeds and check of a target; imported late, so that what it imports can be instrumented."""
    seeds = importlib.import_module("tests.fuzz.seeds").seeds(target)
    return seeds, importlib.import_module("tests.fuzz.targets").TARGETS[target]


def _escaped(piece: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in piece)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
