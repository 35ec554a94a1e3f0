"""What a server is called."""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest

from siprec import log
from siprec.app import ROOMS, lasting_memory, node_id, redo_left
from siprec.config import Settings
from siprec.errors import ConfigurationError
from siprec.fdstore import FdStore, Inbox
from siprec.media import pcap
from siprec.media.file import CaptureFile
from siprec.media.rooms import Rooms

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(STATE_DIR=tmp_path)


def test_a_name_is_made_once(settings: Settings, tmp_path: Path) -> None:
    name = node_id(settings)
    assert NAME.fullmatch(name)
    assert node_id(settings) == name
    assert [each.name for each in tmp_path.iterdir()] == ["node_id"]


def test_what_an_earlier_life_laid_and_did_not_write_is_written(tmp_path: Path) -> None:
    inbox = Inbox()
    first = FdStore(inbox.address)
    memory = lasting_memory(first)
    [(_, said, kept)] = inbox.messages()
    assert memory is not None
    assert said["FDNAME"] == ROOMS
    folder = tmp_path / "part"
    folder.mkdir()
    CaptureFile(folder)
    record = pcap.record(1, b"heard", source=("192.0.2.1", 5000), destination=("192.0.2.9", 6000))
    life = Rooms(memory=memory)
    room = life.take(np.array([life.enter(folder)], np.uint32))
    room.octets[: len(record)] = np.frombuffer(record, np.uint8)
    room.ends[1] = len(record)
    os.close(memory)

    second = FdStore(inbox.address, {ROOMS: kept})
    redo_left(second)
    assert (folder / "capture-0002.pcap").read_bytes() == pcap.write_header() + record
    [(_, said, _)] = inbox.messages()
    assert said["FDNAME"] == ROOMS
    assert "FDSTOREREMOVE" in said
    for each in (first, second, inbox):
        each.close()
    assert lasting_memory(FdStore()) is None


def test_a_server_starts_where_no_memory_can_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr("os.memfd_create", refuse)
    out = io.StringIO()
    log.configure("info", "json", out)
    inbox = Inbox()
    store = FdStore(inbox.address)
    assert lasting_memory(store) is None
    assert "no memory outlives this process" in out.getvalue()
    store.close()
    inbox.close()


@pytest.mark.parametrize("host", ["\u0661\u0662.example.com", "-.-", "a" * 64])
def test_no_host_s_name_makes_a_wrong_one(settings: Settings, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert NAME.fullmatch(node_id(settings))


def test_a_name_that_a_crash_took_is_made_anew_and_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "node_id").write_bytes(b"")
    out = io.StringIO()
    log.configure("info", "json", out)
    name = node_id(settings)
    assert (tmp_path / "node_id").read_text() == f"{name}\n"
    assert name in out.getvalue()


@pytest.mark.parametrize("held", [b"../x\n", b"a b", b"\xff\xfe", b"a" * 33, b"\0\0\0\0"])
def test_what_is_no_name_is_a_sentence(settings: Settings, tmp_path: Path, held: bytes) -> None:
    (tmp_path / "node_id").write_bytes(held)
    with pytest.raises(ConfigurationError, match="NODE_ID") as refused:
        node_id(settings)
    assert str(tmp_path / "node_id") in str(refused.value)
    assert str(refused.value).isprintable()
