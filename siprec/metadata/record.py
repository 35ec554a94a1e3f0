"""The merged state as plain data, for a store, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from siprec.metadata.model import (
    Contribution,
    Extension,
    Group,
    GroupState,
    Interval,
    NameID,
    Participant,
    ParticipantState,
    Reason,
    RSMetadata,
    Session,
    SessionState,
    Stream,
    StreamState,
)

_Raw = dict[str, Any]


def dump(state: RSMetadata) -> dict[str, Any]:
    """`state` as dicts, lists, texts, numbers and None: what JSON can hold."""
    return asdict(state)


def load(raw: dict[str, Any]) -> RSMetadata:
    """The inverse of `dump`, also after JSON made lists of tuples.

    Raises KeyError, TypeError or ValueError when `raw` is not of that shape: a store holds only what `dump` made.
    """
    return RSMetadata(
        recording_id=raw["recording_id"],
        complete=raw["complete"],
        groups={key: _group(each) for key, each in raw["groups"].items()},
        sessions={key: _session(each) for key, each in raw["sessions"].items()},
        participants={key: _participant(each) for key, each in raw["participants"].items()},
        streams={key: _stream(each) for key, each in raw["streams"].items()},
        extensions=_extensions(raw),
        faults=list(raw["faults"]),
    )


def _group(raw: _Raw) -> GroupState:
    group = Group(**{**raw["group"], "extensions": _extensions(raw["group"])})
    return GroupState(group, Interval(**raw["span"]))


def _session(raw: _Raw) -> SessionState:
    inner: _Raw = raw["session"]
    lifted = {
        "sip_session_ids": tuple(inner["sip_session_ids"]),
        "reasons": tuple(Reason(**each) for each in inner["reasons"]),
        "extensions": _extensions(inner),
    }
    return SessionState(Session(**{**inner, **lifted}), Interval(**raw["span"]), _intervals(raw["recorded"]))


def _stream(raw: _Raw) -> StreamState:
    stream = Stream(**{**raw["stream"], "extensions": _extensions(raw["stream"])})
    return StreamState(stream, Interval(**raw["span"]))


def _participant(raw: _Raw) -> ParticipantState:
    inner: _Raw = raw["participant"]
    names = tuple(NameID(**each) for each in inner["name_ids"])
    return ParticipantState(
        Participant(**{**inner, "name_ids": names, "extensions": _extensions(inner)}),
        Interval(**raw["span"]),
        {key: _intervals(each) for key, each in raw["sessions"].items()},
        {key: tuple((name, value) for name, value in each) for key, each in raw["params"].items()},
        _contributions(raw["sends"]),
        _contributions(raw["recvs"]),
    )


def _extensions(raw: _Raw) -> tuple[Extension, ...]:
    return tuple(
        Extension(**{**each, "values": tuple((path, text) for path, text in each["values"])})
        for each in raw["extensions"]
    )


def _intervals(raw: list[_Raw]) -> list[Interval]:
    return [Interval(**each) for each in raw]


def _contributions(raw: list[_Raw]) -> list[Contribution]:
    return [Contribution(each["stream_id"], Interval(**each["span"])) for each in raw]
