"""A recorder for each test that wants one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.replay import Server, recording_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with recording_server(tmp_path) as running:
        yield running
