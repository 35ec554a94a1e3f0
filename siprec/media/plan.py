"""Which sockets the drain reads, in which order, and how what they gave is cut into a piece for each file."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from siprec.media.file import CaptureFile
from siprec.media.receive import Laid, Sockets
from siprec.media.streams import Stream
from siprec.media.writer import Data, Pieces, about, pieces_of

MAX_SHARES = 256
"""Groups of sockets whose files are remembered; each has hundreds of sockets but for those of a flood."""


class _Share(NamedTuple):
    """The files to which some sockets of a plan belong, and where among those the sockets of each file begin."""

    files: list[CaptureFile]
    descriptors: NDArray[np.int32]
    segments: bool
    edges: NDArray[np.int64]


class Plan:
    """Which sockets to read in a tick, in which order: those of one session side by side, so that its records
    come out side by side too."""

    def __init__(self, parts: Iterable[tuple[CaptureFile, list[Stream]]], *, rtp: bool = True, rtcp: bool = False):
        self.files: list[CaptureFile] = []
        objects: list[socket.socket] = []
        kinds: list[int] = []
        entries: list[int] = []
        starts: list[int] = []
        for file, streams in parts:
            starts.append(len(kinds))
            self.files.append(file)
            for stream in streams:
                if rtp:
                    objects.append(stream.pair.rtp)
                    kinds.append(2 * stream.index)
                if rtcp:
                    objects.append(stream.pair.rtcp)
                    kinds.append(2 * stream.index + 1)
            entries += [file.entry] * (len(kinds) - len(entries))
        self.sockets = Sockets(objects, kinds, entries)
        self._descriptors, self._segments = about(self.files)
        self._starts = np.array([*starts, len(kinds)], np.int64)
        self._shares: dict[tuple[int, int], _Share] = {}

    def share(self, begin: int, count: int) -> _Share:
        """Of so many sockets from `begin` on; mostly they are the same as last time."""
        found = self._shares.get((begin, count))
        if found is None:
            first = int(np.searchsorted(self._starts, begin, "right")) - 1
            last = int(np.searchsorted(self._starts, begin + count, "left"))
            edges = np.clip(self._starts[first : last + 1] - begin, 0, count)
            found = _Share(self.files[first:last], self._descriptors[first:last], self._segments, edges)
            if len(self._shares) < MAX_SHARES:
                self._shares[begin, count] = found
        return found

    def pieces(self, begin: int, ready: Sequence[Laid]) -> Pieces:
        """All records cut into one piece for each session that is among them, in the order of its sockets."""
        share = self.share(begin, len(ready[0].ends) - 1)
        if len(ready) == 1:
            return Pieces(share.files, share.descriptors, share.segments, ready[0].data, ready[0].ends[share.edges])
        columns = [(each.data, each.ends.tolist()) for each in ready]
        found = (_between(columns, a, b) for a, b in pairwise(share.edges.tolist()))
        return pieces_of(list(zip(share.files, found, strict=True)))._replace(copied=ready)


def _between(columns: Sequence[tuple[memoryview, list[int]]], first: int, last: int) -> Data:
    """The records of the sockets from `first` to before `last`; those of one socket are all in one column."""
    used = [(data, ends) for data, ends in columns if ends[last] > ends[first]]
    if len(used) == 1:
        data, ends = used[0]
        return data[ends[first] : ends[last]]
    places = range(first, last)
    return b"".join(data[ends[each] : ends[each + 1]] for each in places for data, ends in used)
