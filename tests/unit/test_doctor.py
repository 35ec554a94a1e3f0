"""What `siprec check` says of this machine."""

import os
from pathlib import Path

from siprec import config, doctor


def finding(name: str, **environ: str) -> doctor.Finding:
    """The one about `name`."""
    settings = config.read({"SIP_HOST": "127.0.0.1", "SIP_PORT": "0", **environ}, Path("none")).settings
    (found,) = [each for each in doctor.examine(settings) if name in each.text]
    return found


def test_as_many_capturing_processes_as_cores_are_too_many(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    root = str(tmp_path)
    assert finding("MEDIA_WORKERS", RECORDING_DIR=root).level == "ok"
    if cores > 1:
        assert finding("MEDIA_WORKERS", RECORDING_DIR=root, MEDIA_WORKERS=str(cores - 1)).level == "ok"
    assert finding("MEDIA_WORKERS", RECORDING_DIR=root, MEDIA_WORKERS=str(cores)).level == "warning"
