"""SIPp with our scenarios, for all tests of this folder; without it they are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import sipp

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> sipp.Sipp:
    if sipp.BINARY is None:
        pytest.skip(sipp.MISSING)
    return sipp.Sipp(HERE / "scenarios", HERE / "pieces", tmp_path_factory.mktemp("sipp"))
