"""A recorder for each scenario, with two identities."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.failover import ALLOW
from tests.support.replay import Server, recording_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with recording_server(tmp_path, SIP_ALLOW=ALLOW) as running:
        yield running
