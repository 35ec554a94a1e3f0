"""What TLS asks of files, and what a certificate is read as."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from siprec.errors import ConfigurationError
from siprec.net.tls import client_context, server_context, subject
from tests.support.certificates import Authority, Certified


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Certified:
    return authority.issue("ours")


def test_what_is_spoken(authority: Authority, ours: Certified) -> None:
    for context in (server_context(ours.certificate, ours.key), client_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.verify_mode is ssl.CERT_NONE
    assert server_context(ours.certificate, ours.key, ca=authority.certificate).verify_mode is ssl.CERT_REQUIRED
    assert client_context(ours.certificate, ours.key, ca=authority.certificate).verify_mode is ssl.CERT_REQUIRED


def problem(certificate: Path, key: Path, ca: Path | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        server_context(certificate, key, ca=ca)
    (sentence,) = caught.value.problems
    return sentence


def test_each_problem_names_its_setting(tmp_path: Path, authority: Authority, ours: Certified) -> None:
    other = authority.issue("other")
    missing, nonsense = tmp_path / "none.pem", tmp_path / "nonsense.pem"
    nonsense.write_text("nothing of use\n")
    assert problem(missing, ours.key) == f"SIP_TLS_CERT: {missing} cannot be read (No such file or directory)"
    assert problem(ours.certificate, missing) == f"SIP_TLS_KEY: {missing} cannot be read (No such file or directory)"
    assert problem(tmp_path, ours.key) == f"SIP_TLS_CERT: {tmp_path} cannot be read (Is a directory)"
    mismatch = f"SIP_TLS_KEY: {other.key} is not the key of the certificate in SIP_TLS_CERT"
    assert problem(ours.certificate, other.key) == mismatch
    assert problem(nonsense, ours.key).startswith(f"SIP_TLS_CERT, SIP_TLS_KEY: {nonsense} and {ours.key} are no PEM")
    assert problem(ours.certificate, ours.key, missing).startswith(f"SIP_TLS_CA: {missing} cannot be read")
    assert problem(ours.certificate, ours.key, nonsense).startswith(f"SIP_TLS_CA: {nonsense} holds no PEM certificate")


NAME = {"subject": ((("organizationName", "Example"),), (("commonName", "pbx"),))}


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        (None, None),
        ({}, None),
        (NAME, "pbx"),
        ({"subject": ((("organizationName", "Example"),),)}, "organizationName=Example"),
        (NAME | {"subjectAltName": (("DNS", "PBX.example.com"), ("DNS", "b"))}, "pbx.example.com"),
        (
            NAME | {"subjectAltName": (("DNS", "a"), ("URI", "https://a"), ("URI", "sip:example.com"))},
            "sip:example.com",
        ),
        (NAME | {"subjectAltName": (("IP Address", "127.0.0.1"),)}, "pbx"),
    ],
)
def test_who_a_certificate_is_for(certificate: dict[str, Any] | None, expected: str | None) -> None:
    assert subject(certificate) == expected
