"""What every call works with: settings as plain values, and the parts that all calls share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from pyee import EventEmitter

from siprec.archive.folder import day_of
from siprec.cluster.base import Cluster, SingleNode
from siprec.media.capture import Capture
from siprec.media.source import SourcePolicy
from siprec.metadata.minimise import FIELDS
from siprec.recorder.finish import FinishOptions
from siprec.recorder.intake import Ports
from siprec.recorder.negotiation import IpAddress
from siprec.recorder.pool import RenderPool
from siprec.session.keyring import Keyring
from siprec.sip.endpoint import Endpoint
from siprec.sip.events import RequestReceived
from siprec.sip.message import Request
from siprec.store.base import SessionStore


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that decide how a call is recorded; plain values, see siprec.config for their meaning.

    `former`: the name under which this node's STATE_DIR was used before, if that was another.
    """

    root: Path
    node: str
    former: str | None = None
    strict: bool = False
    external: tuple[IpAddress, ...] = ()
    rtp_source: SourcePolicy = SourcePolicy.ADDRESS
    segment_seconds: float = 0
    rtp_timeout: float = 60.0
    session_timeout: float = 30.0
    metadata_keep: frozenset[str] = FIELDS
    finish: FinishOptions = field(default_factory=FinishOptions)

    def folder(self, session_id: str) -> Path:
        """Where the recording of a session lies. Raises ArchiveError for an id that is none of ours."""
        return self.root / f"{day_of(session_id)}/{session_id}"


@dataclass(frozen=True, slots=True)
class Facilities:
    """What every call works with; one set for the server. `boot` names this life of the process, `keyring` seals
    SRTP keys. `insecure`: identities whose SRTP keys came without TLS; each is warned of once.
    """

    policy: Policy
    endpoint: Endpoint
    capture: Capture
    ports: Ports
    store: SessionStore
    pool: RenderPool
    files: Executor
    entropy: Callable[[int], bytes]
    keyring: Keyring
    flush: Callable[[], None]
    observers: EventEmitter
    boot: str = ""
    cluster: Cluster = field(default_factory=SingleNode)
    insecure: set[str] = field(default_factory=set)


def contact(event: RequestReceived, external: tuple[IpAddress, ...] = ()) -> str:
    """Our Contact in the answer to a request, saying that we are an SRS (RFC 7866 section 6.2).

    Its address is the one of `external` (EXTERNAL_IP) of the same family, else the one the request hit.
    """
    host, port = event.flow.local
    version = 6 if ":" in host else 4
    host = next((str(each) for each in external if each.version == version), host)
    host = f"[{host}]" if version == 6 else host
    if event.flow.transport == "tls" and _is_sips(event.request):
        return f"<sips:{host}:{port}>;+sip.srs"
    transport = "" if event.flow.transport == "udp" else f";transport={event.flow.transport}"
    return f"<sip:{host}:{port}{transport}>;+sip.srs"


def _is_sips(request: Request) -> bool:
    """Whether the Contact of an answer has to be a SIPS URI (RFC 3261 section 12.1.1)."""
    route = request.headers.values("Record-Route")[:1] or request.headers.values("Contact")[:1]
    return request.uri.lower().startswith("sips:") or any("<sips:" in each.lower() for each in route)
