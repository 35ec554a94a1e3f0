"""TLS for SIP: what we are willing to speak, and who a peer proved to be (RFC 5630, RFC 5922, RFC 7866 section 12)."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siprec.errors import ConfigurationError


def server_context(certificate: Path, key: Path, *, ca: Path | None = None) -> ssl.SSLContext:
    """For connections to us: TLS 1.2 or later, no compression, no renegotiation; with `ca` the peer must prove itself.

    Raises ConfigurationError naming the setting whose file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    _load(context, certificate, key)
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, ca)
    return context


def client_context(
    certificate: Path | None = None, key: Path | None = None, *, ca: Path | None = None
) -> ssl.SSLContext:
    """For connections of ours: with `ca` only to peers that it certifies, else to any, as they may connect to us.

    The name in a peer's certificate is not compared: the address comes from its Contact, which names it by number.
    Raises ConfigurationError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE if ca is None else ssl.CERT_REQUIRED
    _restrict(context)
    if certificate is not None and key is not None:
        _load(context, certificate, key)
    if ca is not None:
        _trust(context, ca)
    return context


def subject(certificate: Mapping[str, Any] | None) -> str | None:
    """Who a verified certificate (as `SSLSocket.getpeercert` gives it) is for, None without one.

    The first SIP URI of its subjectAltName, else the first DNS name (RFC 5922 section 7.1), else its common name.
    """
    if not certificate:
        return None
    names: list[tuple[str, str]] = list(certificate.get("subjectAltName", ()))
    uris = [value for kind, value in names if kind == "URI" and value.lower().startswith(("sip:", "sips:"))]
    hosts = [value.lower() for kind, value in names if kind == "DNS"]
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    common = [value for kind, value in pairs if kind == "commonName"]
    whole = ",".join(f"{kind}={value}" for kind, value in pairs)
    return next(iter((*uris, *hosts, *common)), whole or None)


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _readable("SIP_TLS_CERT", certificate)
    _readable("SIP_TLS_KEY", key)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # never ask at a terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"SIP_TLS_KEY: {key} is not the key of the certificate in SIP_TLS_CERT"
        else:
            problem = (
                f"SIP_TLS_CERT, SIP_TLS_KEY: {certificate} and {key} are no PEM certificate with its unencrypted key "
                f"({error.reason or error.__class__.__name__})"
            )
        raise ConfigurationError([problem]) from None


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    _readable("SIP_TLS_CA", ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        reason = error.reason or error.__class__.__name__
        raise ConfigurationError([f"SIP_TLS_CA: {ca} holds no PEM certificate ({reason})"]) from None


def _readable(setting: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigurationError([f"{setting}: {path} cannot be read ({error.strerror})"]) from None
