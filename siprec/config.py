"""Settings from the environment (12-factor): process environment, `X_FILE` for secrets, then `.env`.

Every variable is a field of `Settings`, with its default and a sentence of help; the README's table and
`.env.example` are tested against this file. `read` reports all mistakes at once, each naming its variable.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from siprec.errors import ConfigurationError
from siprec.metadata.minimise import FIELDS

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

SECRETS = ("REDIS_URL", "HTTP_TOKEN")
"""Variables whose value may also come from the file named by `<NAME>_FILE` (container secrets)."""

PRIVATE_NETWORKS = "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,fc00::/7,fe80::/10"

MAX_MEDIA_WORKERS = 64
"""Each needs 40 MiB before its first stream; the ports of one address are used up by fewer."""

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNIT_BYTES = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base ** (power + 1)
    for suffix, base in (("ib", 1024), ("b", 1000))
    for power, prefix in enumerate("kmgt")
}


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of SIP_ALLOW: a named SRC and its networks. An unnamed entry is its own name."""

    name: str
    networks: tuple[IpNetwork, ...]


def parse_duration(value: Any) -> Any:
    """`30s`, `5m`, `250ms`, `1h` or plain seconds, as seconds."""
    return _quantity(value, _UNIT_SECONDS, "a duration such as 30s, 5m, 250ms or plain seconds")


def parse_size(value: Any) -> Any:
    """`512MiB`, `1GiB`, `10MB` or plain bytes, as bytes."""
    number = _quantity(value, _UNIT_BYTES, "a size such as 512MiB, 1GiB or plain bytes")
    return int(number) if isinstance(number, float) else number


def parse_rate(value: Any) -> Any:
    """`2000/s` or a plain number, per second."""
    return value.strip().removesuffix("/s") if isinstance(value, str) else value


def parse_sources(value: Any) -> Any:
    """`cidr,...` or `name=cidr|cidr,...` as `Source` entries."""
    return tuple(_source(entry) for entry in _split(value)) if isinstance(value, str) else value


def parse_fields(value: Any) -> Any:
    """`names,aors` as a set, `none` as the empty one. Raises ValueError naming what is no field."""
    if not isinstance(value, str):
        return value
    named = frozenset(_split(value)) - {"none"}
    if unknown := named - FIELDS:
        raise ValueError(f"{', '.join(sorted(unknown))}: not among {', '.join(sorted(FIELDS))}")
    return named


def parse_addresses(value: Any) -> Any:
    """`192.0.2.1` or `192.0.2.1,2001:db8::1` as IP addresses."""
    if not isinstance(value, str):
        return value
    return tuple(ipaddress.ip_address(each.strip("[]")) for each in _split(value))


def _quantity(value: Any, units: Mapping[str, float], wanted: str) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]{0,3})\s*", value)
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"is not {wanted}")
    return float(match[1]) * unit


def _split(value: str) -> list[str]:
    return [each for each in (part.strip() for part in value.split(",")) if each]


def _source(entry: str) -> Source:
    name, equals, networks = entry.partition("=")
    if not equals:
        name, networks = entry, entry
    return Source(name.strip(), tuple(ipaddress.ip_network(each.strip(), strict=False) for each in networks.split("|")))


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("needs one entry at least")
    return value


def _one_per_family(value: tuple[IpAddress, ...]) -> tuple[IpAddress, ...]:
    if len({each.version for each in value}) < len(value):
        raise ValueError("two addresses of one family: give one for IPv4 and one for IPv6 at most")
    return value


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Rate = Annotated[float, BeforeValidator(parse_rate), Field(gt=0)]
Sources = Annotated[tuple[Source, ...], BeforeValidator(parse_sources), AfterValidator(_not_empty)]
Fields = Annotated[frozenset[str], BeforeValidator(parse_fields)]
Addresses = Annotated[tuple[IpAddress, ...], BeforeValidator(parse_addresses)]
OnePerFamily = Annotated[Addresses, AfterValidator(_one_per_family)]
SomeAddresses = Annotated[Addresses, AfterValidator(_not_empty)]
Port = Annotated[int, Field(ge=0, le=65535)]


def _setting(default: str | int | bool | Path | None, help_text: str) -> Any:
    """A field with its default as a person would write it in `.env`."""
    return Field(default=default, description=help_text)


class Settings(BaseModel):
    """All settings, validated. Paths are absolute; durations are seconds; sizes are bytes."""

    model_config = ConfigDict(validate_default=True, frozen=True)

    SIP_HOST: SomeAddresses = _setting("0.0.0.0", "addresses to listen on, UDP and TCP")  # noqa: S104  a server listens
    SIP_PORT: Port = _setting(5060, "SIP port, UDP and TCP")
    SIP_TLS_PORT: Port = _setting(5061, "SIP over TLS, when a certificate is given")
    SIP_TLS_CERT: Path | None = _setting(None, "certificate chain (PEM); turns TLS on")
    SIP_TLS_KEY: Path | None = _setting(None, "private key (PEM)")
    SIP_TLS_CA: Path | None = _setting(
        None, "CA of the SRCs' certificates (PEM); turns mutual TLS on, and the certificate's name is the identity"
    )
    SIP_ALLOW: Sources = _setting(PRIVATE_NETWORKS, "SRCs that are heard: `cidr,...` or `name=cidr|cidr,...`")
    SIP_RATE: Rate = _setting("2000/s", "new dialogs per source and second, burst twice that")
    SIPREC_MODE: Literal["lenient", "strict"] = _setting("lenient", "how closely an SRC must keep to the RFCs")
    RECORD_PLAIN_CALLS: bool = _setting(False, "record INVITEs that are no recording session")
    EXTERNAL_IP: OnePerFamily = _setting("", "address put in SDP and Contact, one per family")
    RTP_BIND_IP: Addresses = _setting("", "addresses of the RTP sockets; SIP_HOST when unset")
    RTP_PORT_MIN: Port = _setting(10000, "first RTP port")
    RTP_PORT_MAX: Port = _setting(29999, "last RTP or RTCP port")
    RTP_SOURCE: Literal["address", "strict", "latch"] = _setting("address", "which senders of RTP are accepted")
    RTP_RECEIVE: Literal["auto", "native", "batch", "single"] = _setting(
        "auto",
        "how sockets are emptied: by the C extension, hundreds of packets a call, or one; auto takes the fastest",
    )
    RTP_BACKLOG: Size = _setting("512MiB", "memory for packets that a slow disk cannot take yet")
    RTP_TIMEOUT: Duration = _setting("60s", "silence on all streams after which the SRC is probed")
    MAX_SESSIONS: Annotated[int, Field(ge=1)] | None = _setting(None, "live sessions; above it 503")
    MEDIA_WORKERS: Annotated[int, Field(ge=0, le=MAX_MEDIA_WORKERS)] = _setting(
        0, "processes that capture, beside the one that speaks SIP; 0: that one captures too"
    )
    RECORDING_DIR: Path = _setting(Path("recordings"), "where recordings go")
    STATE_DIR: Path | None = _setting(None, "local journal; RECORDING_DIR/.state when unset")
    DISK_RESERVE: Size = _setting("1GiB", "free space below which new calls get 503")
    AUDIO_FORMAT: Literal["wav", "wav-native", "flac", "opus"] = _setting("wav", "format of the audio file")
    SHUTDOWN_TIMEOUT: Duration = _setting("8s", "how long a stop renders before it leaves the rest")
    CAPTURE_KEEP: Literal["always", "issues", "never"] = _setting("issues", "keep the capture after rendering")
    ENABLE_REDUNDANCY: bool = _setting(True, "keep session state beyond the process")
    REDUNDANCY_STORAGE_TYPE: Literal["memory", "sqlite", "redis", "noop"] = _setting(
        "sqlite", "where session state is kept"
    )
    SESSION_TIMEOUT: Duration = _setting("30s", "how long an interrupted session waits for its SRC")
    SESSION_CHECK_INTERVAL: Annotated[Duration, Field(gt=0)] = _setting("10s", "how often sessions are checked")
    REPLACES_UNKNOWN: Literal["accept", "reject"] = _setting(
        "accept", "Replaces that names a session the store cannot be asked for"
    )
    METADATA_KEEP: Fields = _setting(
        ",".join(sorted(FIELDS)), "what of the metadata may be recorded; `none`: ids, times and labels alone"
    )
    SEGMENT_SECONDS: Duration = _setting(0, "length of a capture file; 0 is one per part")
    REDIS_URL: SecretStr | None = _setting(None, "shared store: redis://, rediss://, redis+sentinel://")
    NODE_ID: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,31}$")] | None = _setting(
        None, "stable name of this node; made once in STATE_DIR/node_id"
    )
    HTTP_HOST: IpAddress = _setting("127.0.0.1", "address of API and page (not built yet)")
    HTTP_PORT: Port = _setting(8080, "port of API and page (not built yet)")
    HTTP_TOKEN: SecretStr | None = _setting(None, "token of API and page (not built yet)")
    LOG_LEVEL: Literal["debug", "info", "warning", "error"] = _setting("info", "least level that is logged")
    LOG_FORMAT: Literal["console", "json"] | None = _setting(None, "console or json; console on a terminal when unset")

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if problems := [*self._ports(), *self._tls(), *self._redis()]:
            raise ValueError("\n".join(problems))
        return self

    def _ports(self) -> Iterator[str]:
        low = self.RTP_PORT_MIN + self.RTP_PORT_MIN % 2
        if low < 1024:
            yield "RTP_PORT_MIN must be 1024 or more"
        if low + 1 > self.RTP_PORT_MAX:
            yield "RTP_PORT_MAX must leave room for one even and one odd port above RTP_PORT_MIN"

    def _tls(self) -> Iterator[str]:
        if (self.SIP_TLS_CERT is None) != (self.SIP_TLS_KEY is None):
            yield "SIP_TLS_CERT and SIP_TLS_KEY must be set together"
        if self.SIP_TLS_CA is not None and self.SIP_TLS_CERT is None:
            yield "SIP_TLS_CA needs SIP_TLS_CERT and SIP_TLS_KEY"

    def _redis(self) -> Iterator[str]:
        if self.ENABLE_REDUNDANCY and self.REDUNDANCY_STORAGE_TYPE == "redis" and self.REDIS_URL is None:
            yield "REDUNDANCY_STORAGE_TYPE=redis needs REDIS_URL"

    @property
    def recording_dir(self) -> Path:
        return self.RECORDING_DIR.absolute()

    @property
    def state_dir(self) -> Path:
        return (self.STATE_DIR or self.RECORDING_DIR / ".state").absolute()

    @property
    def rtp_addresses(self) -> tuple[IpAddress, ...]:
        return self.RTP_BIND_IP or self.SIP_HOST

    @property
    def rtp_addresses_by_family(self) -> dict[int, list[IpAddress]]:
        """Where media may be received, by IP version: a call's on the address that it came to, or else on the first.
        Behind an EXTERNAL_IP it is the first always, since that leads to one address only.
        """
        found: dict[int, list[IpAddress]] = {}
        external = {each.version for each in self.EXTERNAL_IP}
        for each in self.rtp_addresses:
            if each.version not in found or each.version not in external:
                found.setdefault(each.version, []).append(each)
        return found


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings with their origin (`default`, `environment`, `.env`, a secret's file) and what to warn of."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...]


def read(environ: Mapping[str, str] | None = None, dotenv: Path | None = None) -> Configuration:
    """Settings from `environ` (the process environment when None) and `dotenv` (`./.env` when None).

    Raises ConfigurationError naming every wrong variable.
    """
    environ = os.environ if environ is None else environ
    path = dotenv or Path(".env")
    problems: list[str] = []
    from_file = _read_file(path, problems)
    problems += [f"{path.name}: {hint}" for hint in _misspelt(from_file)]
    warnings = [f"environment: {hint}" for hint in _misspelt(environ)]
    values, origins = _gather(environ, from_file, path.name, problems)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(problems + _mistakes(values, error)) from None
    if problems:
        raise ConfigurationError(problems)
    return Configuration(settings, origins, tuple(warnings + _not_built(settings, origins)))


def shown(settings: Settings) -> dict[str, str]:
    """Each variable with its effective value as a person would write it; secrets are starred, paths absolute."""
    effective = settings.model_dump() | {"RECORDING_DIR": settings.recording_dir, "STATE_DIR": settings.state_dir}
    return {name: _NOTATIONS.get(name, _written)(value) for name, value in effective.items()}


def _size(value: int) -> str:
    """In the largest unit of which there is a whole number."""
    for power in (4, 3, 2, 1):
        for base, suffix in ((1024, "iB"), (1000, "B")):
            if value and value % base**power == 0:
                return f"{value // base**power}{'KMGT'[power - 1]}{suffix}"
    return str(value)


def _duration(value: float) -> str:
    """In the largest unit of which there is a whole number; what has parts of a millisecond, in seconds."""
    milliseconds = round(value * 1000)
    if not math.isclose(milliseconds, value * 1000):
        return f"{value:g}s"
    for unit in ("d", "h", "m", "s", "ms"):
        step = round(_UNIT_SECONDS[unit] * 1000)
        if milliseconds and milliseconds % step == 0:
            return f"{milliseconds // step}{unit}"
    return "0"


def _rate(value: float) -> str:
    return f"{value:g}/s"


def _written(value: Any) -> str:
    match value:
        case None | ():
            return ""
        case bool():
            return str(value).lower()
        case SecretStr():
            return "***"
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(_written(each) for each in value)
        case frozenset():
            return ",".join(sorted(value)) or "none"
        case {"name": name, "networks": networks}:
            listed = "|".join(map(str, networks))
            return name if listed in {name, f"{name}/32", f"{name}/128"} else f"{name}={listed}"
        case _:
            return str(value)


_NOTATIONS: dict[str, Callable[[Any], str]] = {
    name: {parse_size: _size, parse_duration: _duration, parse_rate: _rate}[each.func]
    for name, field in Settings.model_fields.items()
    for each in field.metadata
    if isinstance(each, BeforeValidator) and each.func in {parse_size, parse_duration, parse_rate}
}


def _gather(
    environ: Mapping[str, str], from_file: Mapping[str, str], file_name: str, problems: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for name in Settings.model_fields:
        for mapping, origin in ((environ, "environment"), (from_file, file_name)):
            secret_file = mapping.get(f"{name}_FILE") if name in SECRETS else None
            if name in mapping and secret_file:
                problems.append(f"{name} and {name}_FILE are both set: keep one")
            if mapping.get(name, "") != "" or secret_file:
                values[name] = mapping.get(name) or _read_secret(f"{name}_FILE", secret_file or "", problems)
                origins[name] = f"file {secret_file}" if secret_file else origin
                break
        else:
            origins[name] = "default"
    return values, origins


def _read_file(path: Path, problems: list[str]) -> dict[str, str]:
    try:
        return {name: value or "" for name, value in dotenv_values(path).items()} if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.name}: cannot be read ({error.__class__.__name__})")
        return {}


def _read_secret(name: str, path: str, problems: list[str]) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{name}: {path} cannot be read ({error.__class__.__name__})")
        return ""


def _misspelt(mapping: Mapping[str, str]) -> list[str]:
    known = set(Settings.model_fields) | {f"{name}_FILE" for name in SECRETS}
    hints = []
    for name in sorted(set(mapping) - known):
        # Container platforms inject names such as REDIS_PORT=tcp://10.0.0.1:6379: not a person's slip.
        if name.upper().endswith("_PROXY") or re.match(r"[a-z]+://", mapping[name]):
            continue
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.87)
        if close:
            hints.append(f"{name} is not a setting: did you mean {close[0]}?")
    return hints


def _mistakes(values: Mapping[str, str], error: ValidationError) -> list[str]:
    """A sentence for each wrong setting of `values`, and for what does not fit together among the others."""
    found = [text for each in error.errors() for text in _sentences(each)]
    wrong = {str(part) for each in error.errors() for part in each["loc"][:1]}
    if wrong & _RANGE:
        wrong |= _RANGE  # the default of one says nothing against the other
    try:
        Settings.model_validate({name: value for name, value in values.items() if name not in wrong})
    except ValidationError as more:
        found += [text for each in more.errors() for text in _sentences(each) if text not in found]
    return found


_RANGE = frozenset({"RTP_PORT_MIN", "RTP_PORT_MAX"})


def _sentences(error: Any) -> list[str]:
    """A setting's mistake is one; what does not fit together is a line for each."""
    where = ".".join(str(part) for part in error["loc"][:1])
    text: str = error["msg"].removeprefix("Value error, ")
    return [f"{where}: {text}"] if where else text.splitlines()


_UNBUILT: Mapping[str, str] = {
    "HTTP_TOKEN": "the API and page are not built yet",
    "HTTP_HOST": "the API and page are not built yet",
    "HTTP_PORT": "the API and page are not built yet",
}


def _not_built(settings: Settings, origins: Mapping[str, str]) -> list[str]:
    warnings = [f"{name}: {text}" for name, text in _UNBUILT.items() if origins[name] != "default"]
    kind = settings.REDUNDANCY_STORAGE_TYPE
    if settings.REDIS_URL is not None and kind != "redis":
        warnings.append(f"REDIS_URL is set but REDUNDANCY_STORAGE_TYPE is {kind}: Redis is not used")
    return warnings


# ---------------------------------------------------------------------- for README.md and .env.example


def settings_table() -> str:
    """The settings as a Markdown table."""
    rows = [
        f"| `{name}` | {_default(field.default)} | {str(field.description).replace('|', chr(92) + '|')} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def example_file() -> str:
    """A `.env` with each setting at its default, commented out."""
    lines = ["# Copy to .env and uncomment what you change. `siprec check` shows what is in effect."]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else _written(field.default)
        lines += ["", f"# {field.description}", f"#{name}={default}"]
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value == PRIVATE_NETWORKS:
        return "loopback and private networks"
    return f"`{_written(value)}`" if value not in (None, "") else "unset"


if __name__ == "__main__":
    print(settings_table(), end="")
