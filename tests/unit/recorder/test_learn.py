"""What unreadable metadata leaves behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from siprec.log import Logger
from siprec.metadata.merge import MAX_FAULTS
from siprec.metadata.minimise import FIELDS
from siprec.recorder.learn import learn
from siprec.recorder.leg import Leg
from siprec.session.bodies import Bodies
from siprec.sip.message import Headers, Request
from siprec.sip.multipart import parse_body
from tests.support.sessions import record


class Heard:
    """A leg and a logger: counts what is noted and what is logged."""

    def __init__(self) -> None:
        self.noted, self.warned = 0, 0
        self.leg = cast(
            Leg, SimpleNamespace(metadata_keep=frozenset(FIELDS), keep_body=lambda _: "metadata/1.xml", note=self._note)
        )
        self.log = cast(Logger, SimpleNamespace(warning=self._warn))

    def _note(self, *_: object, **__: object) -> None:
        self.noted += 1

    def _warn(self, *_: object, **__: object) -> None:
        self.warned += 1


def test_faults_are_held_and_logged_up_to_a_limit_and_all_are_noted() -> None:
    made, heard = record(1), Heard()
    request = Request("UPDATE", "sip:srs@192.0.2.1", Headers())
    (part,) = parse_body(Headers([("Content-Type", "application/rs-metadata+xml")]), b"<broken")
    body = Bodies(metadata=(part,))
    for _ in range(MAX_FAULTS):
        learn(made, heard.leg, request, body=body, log=heard.log)
    revision = made.metadata.revision
    assert (len(made.metadata.faults), heard.noted, heard.warned) == (MAX_FAULTS, MAX_FAULTS, MAX_FAULTS)
    learn(made, heard.leg, request, body=body, log=heard.log)
    assert (len(made.metadata.faults), heard.noted, heard.warned) == (MAX_FAULTS, MAX_FAULTS + 1, MAX_FAULTS)
    assert made.metadata.revision == revision
