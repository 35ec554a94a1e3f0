"""SIP over TLS: a real server, our own client, certificates made on the spot."""

from __future__ import annotations

import signal
import ssl
import subprocess
from pathlib import Path

import pytest

from siprec.client.options import CallOptions, CallResult
from siprec.client.src import RecordingClient
from siprec.net.tls import client_context
from tests.support.certificates import Authority, Certified
from tests.support.server import COMMAND, Server, serving


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Certified:
    return authority.issue("recorder", alternatives="IP:127.0.0.1")


def settings(ours: Certified, authority: Authority | None = None) -> dict[str, str]:
    made = {"SIP_TLS_PORT": "0", "SIP_TLS_CERT": str(ours.certificate), "SIP_TLS_KEY": str(ours.key)}
    return made | ({"SIP_TLS_CA": str(authority.certificate)} if authority else {})


def secure_uri(server: Server) -> str:
    return str(server.wait_for("listening", where=lambda line: line["transport"] == "tls")["sip"])


async def call(target: str, context: ssl.SSLContext | None = None, **wanted: object) -> CallResult:
    chosen = CallOptions(**{"target": target, "transport": "tls", "duration": 0.5, "timeout": 4.0, **wanted})  # type: ignore[arg-type]
    async with RecordingClient.towards(target, transport="tls", tls=context) as client:
        return await client.call(chosen)


async def test_a_whole_call_over_tls(tmp_path: Path, ours: Certified, authority: Authority) -> None:
    with serving(tmp_path, **settings(ours)) as server:
        result = await call(secure_uri(server), client_context(ca=authority.certificate))
        assert (result.status, result.bye_status, result.ended_by) == (200, 200, "us")
        server.wait_for("recording ready")
        (folder,) = server.recordings()
        (dialog,) = folder.read().dialogs
        assert (dialog["transport"], folder.read().verdict) == ("tls", "ok")
        assert not dialog["identity"].startswith("tls:")  # nobody proved anything


async def test_who_proves_itself_is_its_certificates_name(
    tmp_path: Path, ours: Certified, authority: Authority
) -> None:
    sbc = authority.issue("sbc", alternatives="DNS:sbc.example.com,URI:sip:trunk.example.com")
    context = client_context(sbc.certificate, sbc.key, ca=authority.certificate)
    with serving(tmp_path, **settings(ours, authority)) as server:
        result = await call(secure_uri(server), context)
        assert (result.status, result.bye_status) == (200, 200)
        server.wait_for("recording ready")
        (folder,) = server.recordings()
        assert folder.read().dialogs[0]["identity"] == "tls:sip:trunk.example.com"


async def test_who_does_not_is_turned_away(tmp_path: Path, ours: Certified, authority: Authority) -> None:
    stranger = Authority(tmp_path / "other", "Other CA").issue("stranger")
    late = authority.issue("late", days=-1)
    with serving(tmp_path, **settings(ours, authority)) as server:
        target = secure_uri(server)
        for shown in (None, stranger, late):
            context = client_context(shown.certificate, shown.key) if shown else client_context()
            result = await call(target, context)
            assert (result.status, result.problem is not None) == (0, True)
        assert server.recordings() == []
        good = authority.issue("good")
        assert (await call(target, client_context(good.certificate, good.key))).status == 200


async def test_a_client_that_wants_another_ca_does_not_call(
    tmp_path: Path, ours: Certified, authority: Authority
) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    with serving(tmp_path, **settings(ours)) as server:
        assert (await call(secure_uri(server), client_context(ca=other.certificate))).status == 0


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_are_not_spoken(tmp_path: Path, ours: Certified) -> None:
    old = client_context()
    old.set_ciphers("ALL:@SECLEVEL=0")  # else it would not even ask
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with serving(tmp_path, **settings(ours)) as server:
        assert (await call(secure_uri(server), old)).status == 0


def test_the_listener_outlives_its_worker(tmp_path: Path, ours: Certified) -> None:
    with serving(tmp_path, **settings(ours)) as server:
        before = secure_uri(server)
        server.wait_for("ready to record")
        server.kill_worker()
        assert secure_uri(server) == before


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, ours: Certified) -> None:
    environ = {**settings(ours), "SIP_TLS_KEY": str(tmp_path / "none.pem"), "LOG_FORMAT": "json"}
    environ |= {"SIP_PORT": "0", "SIP_HOST": "127.0.0.1", "RECORDING_DIR": str(tmp_path / "recordings")}
    done = subprocess.run(
        [*COMMAND, "serve"], env={"PATH": "/usr/bin:/bin", **environ}, cwd=tmp_path, capture_output=True, timeout=30
    )
    assert done.returncode == 78
    assert b"SIP_TLS_KEY" in done.stdout + done.stderr


async def test_a_certificate_that_cannot_be_read_replaces_no_worker(
    tmp_path: Path, ours: Certified, authority: Authority
) -> None:
    """It may be half copied when the signal comes."""
    live = Certified(tmp_path / "live.pem", tmp_path / "live.key")
    live.certificate.write_bytes(ours.certificate.read_bytes())
    live.key.write_bytes(ours.key.read_bytes())
    with serving(tmp_path, **settings(live)) as server:
        target = secure_uri(server)
        server.wait_for("ready to record")
        live.certificate.write_bytes(ours.certificate.read_bytes()[:100])
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("worker not replaced: the new one would not start")
        assert (await call(target, client_context(ca=authority.certificate))).status == 200
        server.log[:] = [each for each in server.log if "SIP_TLS_CERT" not in each.get("text", "")]
