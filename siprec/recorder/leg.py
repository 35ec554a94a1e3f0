"""One leg of a session: the dialog that carries it for a while, with its SDP state, ports, capture and part folder.

Most sessions have one leg. Another begins when the SRC comes again after a failure (Replaces, or a fresh INVITE for
the same call), or when another process or node carries the session on: then the new leg has a higher fence, writes a
part of its own, and the old one is let go once the new one stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from siprec import clock
from siprec.archive.folder import RecordingFolder
from siprec.archive.manifest import Manifest, RefusedEntry
from siprec.media.capture import CaptureResult
from siprec.media.part import Outage, Part
from siprec.recorder.dossier import Dossier, timestamp
from siprec.recorder.facilities import Facilities, contact
from siprec.recorder.intake import Intake
from siprec.recorder.negotiation import Negotiation
from siprec.recorder.refresh import Refresh, TimerDue
from siprec.session import headers
from siprec.session.admission import RecordingSource
from siprec.session.model import CallData, DialogInfo
from siprec.sip.dialog import Dialog
from siprec.sip.events import Flow, RequestReceived

T = TypeVar("T")
HeaderList = tuple[tuple[str, str], ...]


class Leg:
    """`fence` numbers its part; `wake` is told when the session timer wants something."""

    def __init__(
        self,
        facilities: Facilities,
        data: CallData,
        *,
        source: RecordingSource,
        remote: str,
        fence: int,
        wake: Callable[[TimerDue], None],
        takes_over: bool = False,
    ) -> None:
        self._use = facilities
        self._data = data
        self._source = source
        self._notes: list[dict[str, Any]] = []
        self._dossier: Dossier | None = None
        self._intake: Intake | None = None
        self.fence = fence
        self.opened_at = clock.monotonic()
        self.info: DialogInfo | None = None
        self.refresh = Refresh(wake)
        self.negotiation = Negotiation(
            data,
            ports=facilities.ports,
            external=facilities.policy.external,
            source=remote,
            entropy=facilities.entropy,
            fresh=takes_over,
        )

    # ------------------------------------------------------------------ folder and capture

    async def open(self, folder: RecordingFolder | Manifest, *, started_ns: int) -> None:
        """Make this leg's part, in `folder` or in a new one for a new session. Raises OSError, ArchiveError."""
        policy, data = self._use.policy, self._data
        if isinstance(folder, Manifest):
            make = partial(Dossier.create, policy.root, folder, fence=self.fence, node=policy.node)
        else:
            make = partial(Dossier.carry_on, folder, fence=self.fence, node=policy.node)
        self._dossier = await self.on_disk(make)
        part = Part(data.session_id, policy.node, self.fence, started_ns=started_ns)
        part.clock = list(self._use.capture.clock_steps())
        self._intake = Intake(
            self._use.capture.open(self._dossier.part.path, segment_seconds=policy.segment_seconds),
            part=part,
            ports=self._use.ports,
            policy=policy.rtp_source,
            networks=self._source.networks,
            now=clock.monotonic,
        )

    @property
    def opened(self) -> bool:
        return self._intake is not None

    @property
    def dossier(self) -> Dossier:
        assert self._dossier is not None, "the folder is made before anything is written to it"
        return self._dossier

    @property
    def intake(self) -> Intake:
        assert self._intake is not None, "the capture is opened together with the folder"
        return self._intake

    @property
    def part(self) -> Part:
        return self.intake.part

    @property
    def refused(self) -> list[RefusedEntry]:
        """Packets that were not written; complete once the leg is finished."""
        return self._intake.refused if self._intake else []

    @property
    def sent(self) -> dict[int, int]:
        """Packets the SRC says it has sent, by channel; complete once the leg is finished."""
        return self._intake.sent if self._intake else {}

    async def finish(self, at_ns: int) -> CaptureResult | None:
        """Close the capture, write part.json for good, give everything back."""
        self.refresh.stop()
        self.negotiation.withdraw()
        if self._intake is None:
            return None
        result = await self._intake.finish(at_ns)
        self.part.clock = list(self._use.capture.clock_steps())
        await self.on_disk(self.dossier.write_part, self.part)
        await self.write_notes()
        return result

    async def discard(self) -> None:
        """Close the capture and remove the part: nothing was answered, so there is nothing to hear in it."""
        if self._intake is not None:
            await self._intake.finish(clock.wall_ns())
        self.negotiation.withdraw()
        if self._dossier is not None:
            await self.on_disk(self._dossier.discard)

    def last_packet_ns(self) -> int:
        """When the last packet of any stream came, 0 before the first."""
        return self._intake.last_packet_ns() if self._intake else 0

    def interrupted_since(self, since_ns: int) -> None:
        """Packets missing between then and this leg's first are due to the failure that it came after."""
        self.part.outages.append(Outage(since_ns, clock.wall_ns(), "interrupted"))

    # ------------------------------------------------------------------ files

    async def save(self, manifest: Manifest) -> None:
        """Bring recording.json, part.json and the events up to date. Raises OSError, NotOwner."""
        await self.on_disk(self.dossier.write, manifest, self.part)
        await self.write_notes()

    def note(self, event: str, **details: Any) -> None:
        """Remember a line for events.jsonl: written with the next save, at the latest once the event is handled."""
        self._notes.append({"at": timestamp(clock.wall_ns()), "event": event, **details})

    async def write_notes(self) -> None:
        """Write the events that are remembered. Raises OSError."""
        if self._notes and self._dossier is not None:
            notes, self._notes = self._notes, []
            await self.on_disk(self._dossier.part.append_events, notes)

    async def on_disk(self, job: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """`job` in a files thread: a slow disk delays this call, not the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._use.files, partial(job, *args, **kwargs))

    # ------------------------------------------------------------------ signalling

    def contact(self, flow: Flow) -> str:
        """Our Contact in this leg's dialog."""
        return contact(flow, self._use.policy.external)

    def respond(
        self, event: RequestReceived, status: int, *, extra: HeaderList = (), body: str = "", reliable: bool = False
    ) -> Dialog | None:
        """Answer a request; None when it is over already. A body is SDP."""
        if body:
            extra = (*extra, ("Content-Type", "application/sdp"))
        dialog = self._use.endpoint.respond(
            event.transaction,
            status,
            headers=extra,
            body=body.encode(),
            contact=self.contact(event.flow),
            reliable=reliable,
            now=clock.monotonic(),
        )
        self._use.flush()
        return dialog

    def identify(self, event: RequestReceived) -> bool:
        """Note the dialog that a 2xx to `event` will confirm; False when the INVITE is over."""
        dialog = self._use.endpoint.dialog_of(event.transaction, contact=self.contact(event.flow))
        if dialog is None:
            return False
        self.info = DialogInfo(dialog, self._source.name)
        for name, value in headers.external_ids(event.request).items():
            self._data.external_ids.setdefault(name, value)
        return True
