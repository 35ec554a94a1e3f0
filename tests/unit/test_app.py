"""What a server is called."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from siprec import log
from siprec.app import node_id
from siprec.config import Settings
from siprec.errors import ConfigurationError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(STATE_DIR=tmp_path)


def test_a_name_is_made_once(settings: Settings, tmp_path: Path) -> None:
    name = node_id(settings)
    assert NAME.fullmatch(name)
    assert node_id(settings) == name
    assert [each.name for each in tmp_path.iterdir()] == ["node_id"]


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
