"""SRTP keys at rest: sealed wherever a session is stored, in the clear only on the wire and in the capture.

A sealed key can be opened only by the node whose secret sealed it, so a journal or Redis never holds one in clear, and
a session that another node takes over gets new keys from the INVITE that brings it there.

Sealing is deterministic (the nonce is a keyed hash of the key itself, as in RFC 5297), so that equal keys stay equal:
a session refresh that repeats its key changes nothing. Keyed BLAKE2b (RFC 7693) is the only primitive.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable

SECRET_BYTES = 32
"""As much as the hash is strong."""

MAX_KEY_BYTES = 64
"""One block of the key stream; the longest master key and salt have 44 bytes."""

_NONCE = 16
_MARK = "sealed."
"""No base64 text contains the full stop."""

_CLEAR = re.compile(r"(?im)^(a=crypto:[^\r\n]*?inline:)([A-Za-z0-9+/=]+)")
_SEALED = re.compile(r"(?im)^(a=crypto:[^\r\n]*?inline:)(sealed\.[A-Za-z0-9+/=]+)")


class Keyring:
    """Seals and derives keys under `secret` (32 bytes), which is this node's own."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret of {SECRET_BYTES} bytes is needed")
        self._secret = secret

    def seal(self, key: str) -> str:
        """The text of a key as it may be stored. Raises ValueError for one of more than 64 bytes."""
        clear = base64.b64decode(key.rstrip("=") + "=" * (-len(key.rstrip("=")) % 4))
        if len(clear) > MAX_KEY_BYTES:
            raise ValueError("longer than any SRTP key")
        nonce = self._hash(b"nonce", clear, _NONCE)
        return _MARK + base64.b64encode(nonce + self._masked(nonce, clear)).decode()

    def unseal(self, sealed: str) -> str | None:
        """The inverse of `seal`; None for what this node has not sealed."""
        if not sealed.startswith(_MARK):
            return None
        try:
            raw = base64.b64decode(sealed[len(_MARK) :], validate=True)
        except binascii.Error:
            return None
        nonce, clear = raw[:_NONCE], self._masked(raw[:_NONCE], raw[_NONCE:])
        if len(clear) > MAX_KEY_BYTES or not hmac.compare_digest(nonce, self._hash(b"nonce", clear, _NONCE)):
            return None
        return base64.b64encode(clear).decode()

    def derive(self, *purpose: str, octets: int) -> str:
        """A key of our own as text, always the same for the same purpose."""
        return base64.b64encode(self._hash(b"derive", "\0".join(purpose).encode(), octets)).decode()

    def sealed(self, sdp: str) -> str:
        """A session description with all its keys sealed."""
        return _CLEAR.sub(lambda found: found[1] + self.seal(found[2]), sdp)

    def revealed(self, sdp: str) -> str:
        """The inverse of `sealed`: what goes on the wire. A key that cannot be unsealed stays as it is."""
        return _SEALED.sub(lambda found: found[1] + (self.unseal(found[2]) or found[2]), sdp)

    def _masked(self, nonce: bytes, data: bytes) -> bytes:
        stream = self._hash(b"stream", nonce, MAX_KEY_BYTES)
        return bytes(a ^ b for a, b in zip(data, stream, strict=False))

    def _hash(self, person: bytes, data: bytes, octets: int) -> bytes:
        return hashlib.blake2b(data, key=self._secret, person=person, digest_size=octets).digest()


def forgetful(entropy: Callable[[int], bytes]) -> Keyring:
    """A keyring for one life of a process."""
    return Keyring(entropy(SECRET_BYTES))
