"""Certificates made on the spot, by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority that lives in a folder. `certificate` is its own."""

    def __init__(self, folder: Path, name: str = "Example CA") -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._run("req", "-x509", *_CURVE, "-days", "2", "-subj", f"/CN={name}", "-keyout", "ca.key", "-out", "ca.pem")

    def issue(self, name: str, *, alternatives: str = "", days: int = 2) -> Certified:
        """A certificate for `name`; `alternatives` is its subjectAltName. Negative `days`: expired so long ago."""
        self._run("req", *_CURVE, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternatives}\n" if alternatives else "basicConstraints=CA:FALSE\n")
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        self._run(
            "x509", "-req", *signer, "-in", f"{name}.csr", "-days", str(days), "-extfile", extensions.name,
            "-out", f"{name}.pem",
        )  # fmt: skip
        return Certified(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)
