"""What became of packets that carry their own number (`CallOptions(counter=True)`), told from the capture files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from siprec.archive.folder import RecordingFolder
from siprec.client.call import LiveCall
from siprec.media.pcap import PcapReader
from siprec.rtp import packets


def captured(folder: RecordingFolder) -> dict[int, Counter[int]]:
    """How often each number was written, by SSRC; needs CAPTURE_KEEP=always."""
    found: dict[int, Counter[int]] = {}
    for path in sorted(folder.path.glob("parts/*/capture-*.pcap")):
        for batch in PcapReader(path).batches():
            heads = packets.parse(batch.data, batch.offset, batch.length)
            for index in np.flatnonzero(heads.valid & (heads.payload_length >= 4)).tolist():
                at = int(heads.payload_offset[index])
                number = int.from_bytes(batch.data[at : at + 4].tobytes(), "big")
                found.setdefault(int(heads.ssrc[index]), Counter())[number] += 1
    return found


def assert_whole(folder: RecordingFolder, call: LiveCall) -> None:
    """Each packet that `call` sent is in the capture exactly once, and no other packet is."""
    expected = {stream.ssrc: Counter(range(stream.counts.sent)) for stream in call.streams if stream.counts.sent}
    found = captured(folder)
    assert set(found) == set(expected), "packets of other sources were written"
    for ssrc, sent in expected.items():
        missing, extra = sent - found[ssrc], found[ssrc] - sent
        assert not missing, f"{sum(missing.values())} packets lost, the first is {min(missing)}"
        assert not extra, f"{sum(extra.values())} packets written twice"


def folder_of(folders: list[RecordingFolder], call: LiveCall) -> RecordingFolder:
    """The recording of `call`."""
    assert call.dialog is not None
    (found,) = (each for each in folders if each.read().call_id == call.dialog.call_id)
    return found


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0])
