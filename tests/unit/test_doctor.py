"""What `siprec check` says of this machine."""

import os
import socket
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


def test_a_port_taken_by_udp_tcp_or_tls_is_told(tmp_path: Path) -> None:
    for kind, name in ((socket.SOCK_DGRAM, "udp"), (socket.SOCK_STREAM, "tcp")):
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                taken.listen()
            found = finding(f"({name})", SIP_PORT=str(taken.getsockname()[1]), RECORDING_DIR=str(tmp_path))
            assert found.level == "warning"
    assert finding("is free", RECORDING_DIR=str(tmp_path)).text.endswith("(udp, tcp)")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        tls = {"SIP_TLS_CERT": "/missing", "SIP_TLS_KEY": "/missing", "SIP_TLS_PORT": port}
        assert finding("SIP_TLS_PORT", RECORDING_DIR=str(tmp_path), **tls).level == "warning"


def test_what_serve_would_not_start_with_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere, root = str(tmp_path / "file" / "x"), str(tmp_path)
    assert finding("MAX_SESSIONS:", RECORDING_DIR=root, MAX_SESSIONS="1000000").configuration
    assert finding("/missing", RECORDING_DIR=root, SIP_TLS_CERT="/missing", SIP_TLS_KEY="/missing").configuration
    assert finding("RECORDING_DIR: ", RECORDING_DIR=nowhere, STATE_DIR=root).configuration
    assert finding("STATE_DIR: ", RECORDING_DIR=root, STATE_DIR=nowhere).configuration
    redis = {"REDUNDANCY_STORAGE_TYPE": "redis", "REDIS_URL": "http://nowhere"}
    assert finding("REDIS_URL:", RECORDING_DIR=root, **redis).configuration
    assert not finding("DISK_RESERVE", RECORDING_DIR=root, DISK_RESERVE="1000TiB").configuration


def test_what_sdp_will_name_is_told(tmp_path: Path) -> None:
    def told(**environ: str) -> str:
        return finding("SDP names for IPv4", RECORDING_DIR=str(tmp_path), **environ).text.partition(": ")[2]

    assert told() == "127.0.0.1 (SIP_HOST)"
    assert told(RTP_BIND_IP="127.0.0.50") == "127.0.0.50 (RTP_BIND_IP)"
    both = "127.0.0.1,127.0.0.50"
    assert told(SIP_HOST=both) == "of 127.0.0.1, 127.0.0.50 the one that a call comes to, else the first (SIP_HOST)"
    assert told(SIP_HOST=both, RTP_BIND_IP="127.0.0.50") == "127.0.0.50 (RTP_BIND_IP)"
    assert told(SIP_HOST="0.0.0.0") == "the address that a call comes to"
    assert told(RTP_BIND_IP="127.0.0.50", EXTERNAL_IP="198.51.100.5") == "198.51.100.5 (EXTERNAL_IP)"
