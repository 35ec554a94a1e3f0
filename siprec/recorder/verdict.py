"""The verdict on a recording: one word, and a sentence that says why and what to change.

The first that holds, in this order: truncated, no-rtp, one-way, silent, gaps, ok.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from siprec.archive.manifest import ChannelEntry, Manifest, RefusedEntry

LOST_RATIO = 0.005
"""More than this share of packets lost is heard, and makes the verdict `gaps`."""

GAP_SECONDS = 0.2
"""One gap this long swallows a syllable."""

SHORT_RATIO = 0.005
"""More than this share of what came is missing in the file, and more than GAP_SECONDS of it: that makes the verdict
`gaps`. The worst of clocks, which is 0.1 % fast, stays below."""

SILENT_SECONDS = 2.0
"""Of a channel before the end of the call, while its packets are refused. Without those, silence is the SRC's own."""

REFUSED_PACKETS = 10
"""So many refused are GAP_SECONDS of audio."""

_SOURCE_REASONS = frozenset({"address", "port", "ssrc"})
"""Refusals of what may be a stream's audio, from another place than was expected."""

_INTENDED = frozenset({"hold", "paused", "closed"})
"""Causes of silence that the call itself wanted."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Of the audio captured on a channel, `seconds` of `captured` are not in the file, and why."""

    channel: int
    seconds: float
    captured: float
    cause: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the manifest does not tell: which channels were meant to send, which carried only silence, and of these
    which were `mute` because nothing in them could be decoded; the codecs that were `undecodable` anywhere; which
    streams (channel and label) of those that had one channel after each other were `unheard`; what was `left_out` of
    the audio though it was captured; how much came that is not in the file; since when (seconds from the start of the
    file) the channels that were meant to send to the end have been `quiet`, those that were for SILENT_SECONDS; why the
    answer was `refused` that would have made the first streams, of a call that never had any."""

    expected: frozenset[int]
    silent: frozenset[int]
    truncated: str | None = None
    mute: frozenset[int] = frozenset()
    undecodable: Sequence[str] = ()
    unheard: Sequence[tuple[int, str]] = ()
    left_out: Sequence[str] = ()
    shortfalls: Sequence[Shortfall] = ()
    quiet: Mapping[int, float] = field(default_factory=dict)
    refused: str | None = None


def judge(manifest: Manifest, evidence: Evidence) -> tuple[str, str]:
    """Verdict and reason for a rendered recording."""
    for rule in (_truncated, _no_rtp, _one_way, _silent, _gaps):
        found = rule(manifest, evidence)
        if found:
            return found
    packets = sum(each.packets for each in manifest.channels)
    lost = sum(each.lost for each in manifest.channels)
    return "ok", f"{_count(len(manifest.channels), 'channel')}, {packets} packets, {lost} lost{_undecodable(evidence)}"


def _truncated(_: Manifest, evidence: Evidence) -> tuple[str, str] | None:
    return ("truncated", evidence.truncated) if evidence.truncated else None


def _no_rtp(manifest: Manifest, evidence: Evidence) -> tuple[str, str] | None:
    if any(each.packets for each in manifest.channels):
        return None
    if evidence.refused:
        return "no-rtp", f"there was never a stream: the answer to our offer was refused ({evidence.refused})"
    if not evidence.expected:
        return "no-rtp", "every stream was inactive or on hold for the whole call, so no RTP was due"
    missing = [each for each in manifest.channels if each.index in evidence.expected]
    return "no-rtp", "; ".join(_missing(manifest, each) for each in missing)


def _one_way(manifest: Manifest, evidence: Evidence) -> tuple[str, str] | None:
    missing = [each for each in manifest.channels if each.index in evidence.expected and not each.packets]
    reasons = [_missing(manifest, each) for each in missing]
    reasons += [
        f"channel {each.index}: 0 packets of the stream labelled {label}, one of several that had the channel"
        for each in manifest.channels
        for channel, label in evidence.unheard
        if channel == each.index and each.packets
    ]
    return ("one-way", "; ".join(reasons)) if reasons else None


def _silent(manifest: Manifest, evidence: Evidence) -> tuple[str, str] | None:
    mute = [each for each in manifest.channels if each.packets and each.index in evidence.mute]
    if mute:
        who = ", ".join(_who(each) for each in mute)
        return "silent", f"{who}: nothing could be decoded{_undecodable(evidence)}"
    if any(each.packets and each.index not in evidence.silent for each in manifest.channels):
        return None
    return "silent", "RTP arrived on every channel, but all of it is silence: check what the SRC forks"


def _gaps(manifest: Manifest, evidence: Evidence) -> tuple[str, str] | None:
    reasons = list(evidence.left_out)
    for channel in manifest.channels:
        share = channel.lost / max(1, channel.packets + channel.lost)
        if share > LOST_RATIO:
            reasons.append(f"{_who(channel)}: {channel.lost} packets lost ({share:.1%})")
        reasons += _moved_away(manifest, evidence, channel)
        reasons += [
            f"{_who(channel)}: {each.seconds:.1f} s of {each.captured:.1f} s of audio cannot be heard: {each.cause}"
            for each in evidence.shortfalls
            if each.channel == channel.index
            and each.seconds > GAP_SECONDS
            and each.seconds > SHORT_RATIO * each.captured
        ]
    long = [each for each in manifest.gaps if each.length >= GAP_SECONDS and each.cause not in _INTENDED]
    if long:
        worst = max(long, key=lambda gap: gap.length)
        reasons.append(
            f"{_count(len(long), 'gap')} of {GAP_SECONDS * 1000:.0f} ms or more, the longest {worst.length:.2f} s "
            f"at {worst.start:.2f} s ({worst.cause})"
        )
    return ("gaps", "; ".join(reasons) + _undecodable(evidence)) if reasons else None


def _moved_away(manifest: Manifest, evidence: Evidence, channel: ChannelEntry) -> list[str]:
    """Of a channel that fell silent for good, where its packets may have come from instead."""
    since = evidence.quiet.get(channel.index)
    came = [each for each in manifest.refused if each.channel == channel.index and each.reason in _SOURCE_REASONS]
    refused = sum(each.packets for each in came)
    if since is None or not channel.packets or refused <= max(REFUSED_PACKETS, LOST_RATIO * channel.packets):
        return []
    worst = max(came, key=lambda each: each.packets)
    return [
        f"{_who(channel)}: silent since {since:.2f} s; {worst.packets} came from {worst.source}, refused by RTP_SOURCE "
        f"({worst.reason}): have the SRC announce in SDP where it sends from"
    ]


def _missing(manifest: Manifest, channel: ChannelEntry) -> str:
    """Why a channel has no audio, as far as the refusals tell, and the setting that would let it in."""
    came = [each for each in manifest.refused if each.channel == channel.index]
    refused = [each for each in came if each.reason != "paused"]
    expected = f" from {channel.remote}" if channel.remote else ""
    if not came:
        return (
            f"{_who(channel)}: 0 packets{expected}; none arrived at all: check that the SRC can reach our address "
            "(EXTERNAL_IP) and port range (RTP_PORT_MIN to RTP_PORT_MAX)"
        )
    if not refused:
        return f"{_who(channel)}: 0 packets{expected} but for {sum(each.packets for each in came)} while it was paused"
    worst = max(refused, key=lambda each: each.packets)
    return f"{_who(channel)}: 0 packets{expected}; {worst.packets} came from {worst.source}, {_hint(worst)}"


def _hint(refused: RefusedEntry) -> str:
    if refused.reason in {"source", "address", "port", "locked"}:
        return f"refused by RTP_SOURCE ({refused.reason}): set RTP_SOURCE=latch if that is the SRC behind NAT"
    return f"refused ({refused.reason})"


def _undecodable(evidence: Evidence) -> str:
    if not evidence.undecodable:
        return ""
    return (
        f"; {', '.join(evidence.undecodable)} cannot be decoded here: while the capture is kept (CAPTURE_KEEP), "
        "`siprec render` makes it audible once there is a decoder"
    )


def _who(channel: ChannelEntry) -> str:
    return f"channel {channel.index}" + (f" ({channel.participant})" if channel.participant else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
