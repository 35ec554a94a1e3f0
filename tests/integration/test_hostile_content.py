"""Bombs, forged log lines and nasty names, sent over the wire in calls that are then recorded or refused."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest

from tests.load.mutations import SDP, Messages
from tests.support.counting import resident_kib
from tests.support.server import Server, serving

GROWTH_KIB = 32 * 1024

XML = '<?xml version="1.0"?>'
NAMESPACE = 'xmlns="urn:ietf:params:xml:ns:recording:1"'
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


def wrapped(inner: str) -> str:
    return f"{XML}<recording {NAMESPACE}>{inner}</recording>"


def documents(canary: int) -> dict[str, str]:
    """Metadata that is refused, and the call recorded nevertheless; `canary` is a port nobody may connect to."""
    there = f"http://127.0.0.1:{canary}/"
    return {
        "laughs": f'{XML}<!DOCTYPE r [<!ENTITY l0 "ha">{LAUGHS}]><recording {NAMESPACE}>&l9;</recording>',
        "external entity": f'{XML}<!DOCTYPE r [<!ENTITY x SYSTEM "{there}">]><recording {NAMESPACE}>&x;</recording>',
        "external subset": f'{XML}<!DOCTYPE recording SYSTEM "{there}"><recording {NAMESPACE}/>',
        "file": f'{XML}<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><recording {NAMESPACE}>&x;</recording>',
        "deep": wrapped("<a>" * 5_000 + "</a>" * 5_000),
        "many": wrapped("<a/>" * 12_000),
        "attributes": wrapped("<a" + "".join(f" a{n}=''" for n in range(4_000)) + "/>"),
        "long name": wrapped(f"<{'a' * 50_000}/>"),
        "not closed": f"{XML}<recording {NAMESPACE}>" + "<a>" * 900,
    }


def offers() -> dict[str, str]:
    """Session descriptions past their limits."""
    return {
        "lines": SDP + "a=x\r\n" * 8_000,
        "media": SDP + "m=audio 9 RTP/AVP 0\r\n" * 2_000,
        "formats": SDP.replace("0 8", " ".join(map(str, range(128))) * 90),
        "numbers": SDP.replace("40000", "9" * 5_000),
        "rtpmaps": SDP + "".join(f"a=rtpmap:{n % 128} X{n}/8000/{n}\r\n" for n in range(900)),
    }


def bodies() -> dict[str, str]:
    """Multipart structures past their limits; the boundary is b."""
    return {
        "parts": "--b\r\n\r\nx\r\n" * 5_000 + "--b--",
        "delimiters": "--bb\r\n" * 9_000,
        "nested": "".join(
            f"--b{n or ''}\r\nContent-Type: multipart/mixed;boundary=b{n + 1}\r\n\r\n" for n in range(500)
        ),
        "headers": "--b\r\n" + "X: y\r\n" * 9_000 + "\r\nx\r\n--b--",
        "nothing": "",
    }


def heads() -> dict[str, str]:
    """Header fields past their limits."""
    return {
        "count": "X: 1\r\n" * 10_000,
        "line": f"X: {'x' * 60_000}\r\n",
        "vias": "Via: SIP/2.0/UDP a\r\n" * 2_000,
        "via list": f"Via: {', '.join(['SIP/2.0/UDP a'] * 3_000)}\r\n",
        "folds": "X: a\r\n" + " \r\n" * 18_000,
        "quotes": "Contact: " + '"\\' * 29_000 + "\r\n",
        "routes": "Record-Route: " + "<sip:a;lr>," * 5_000 + "\r\n",
        "lengths": "Content-Length: 1\r\n" * 3,
        "encoding": "Content-Encoding: gzip\r\n",
        "require": f"Require: {', '.join(f'x{n}' for n in range(9_000))}\r\n",
    }


class Src:
    """A UDP socket of the loopback that makes calls by hand."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.sock.connect(("127.0.0.1", server.port))
        self.sock.settimeout(10.0)
        self.messages = Messages(1, transport="udp", port=self.sock.getsockname()[1])
        self._count = 0

    def invite(self, *, content: str, body: str, call_id: str = "") -> str:
        """The final response; an accepted call is ended at once."""
        self._count += 1
        name = f"content-{self._count}"
        asked = self.messages.request("INVITE", call_id=call_id or name, branch=name, content=content, body=body)
        self.sock.send(asked.encode())
        text = self.final()
        if text.startswith("SIP/2.0 200"):
            for data in self.messages.farewell(text):
                self.sock.send(data)
            assert self.final().startswith("SIP/2.0 200")
        return text

    def call(self, document: str, *, call_id: str = "", offer: str = SDP) -> str:
        """A call with this metadata."""
        body = (
            f"--b\r\nContent-Type: application/sdp\r\n\r\n{offer}\r\n--b\r\n"
            f"Content-Type: application/rs-metadata+xml\r\n\r\n{document}\r\n--b--\r\n"
        )
        return self.invite(content=MULTIPART, body=body, call_id=call_id)

    def final(self) -> str:
        while (text := self.sock.recv(65_535).decode("utf-8", "replace")).startswith("SIP/2.0 1"):
            pass
        return text


MULTIPART = "Require: siprec\r\nContent-Type: multipart/mixed;boundary=b\r\n"
PLAIN = "Require: siprec\r\nContent-Type: application/sdp\r\n"


def test_bombs_are_answered_and_leave_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server, ExitStack() as stack:
        canary = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        canary.setblocking(False)
        src = Src(server, stack)
        src.call(wrapped(""))
        before = resident_kib(server.worker)
        answers: dict[str, str] = {}
        bad = documents(canary.getsockname()[1])
        for name, text in _bombs(src, bad):
            answers[name] = text[8:11]
        for _ in range(len(bad) + 1):
            server.wait_for("recording ready")
        with pytest.raises(BlockingIOError):
            canary.accept()
        flagged = [each for each in server.recordings() if each.read().metadata_errors]
        after = resident_kib(server.worker)
    assert {answers[name] for name in bad} == {"200"}
    assert len(flagged) == len(bad)
    refused = {name: status for name, status in answers.items() if name not in bad and name not in ("rtpmaps",)}
    assert set(refused.values()) <= {"400", "413", "415", "420", "488", "513"}, refused
    assert after <= before + GROWTH_KIB


def _bombs(src: Src, bad: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield from ((name, src.call(document)) for name, document in bad.items())
    yield from ((name, src.invite(content=PLAIN, body=offer)) for name, offer in offers().items())
    yield from ((name, src.invite(content=MULTIPART, body=body or "x")) for name, body in bodies().items())
    yield from ((name, src.invite(content=PLAIN + head, body=SDP)) for name, head in heads().items())


NASTY = (
    "../../../../etc/passwd", "..\\..\\windows", "/etc/cron.d/x", "~root/.ssh", "$(touch x)", "`id`", "a;rm -rf .",
    "CON", "nul.txt", ".", "..", "-rf", "%2e%2e%2f", "a/b/c", "{0}{1}", "%s%n%x", "recording.json", "audio.wav",
    "x" * 4_000, "\u202etxt.exe", "\u2028line", "名前", "e\u0301", "\U0001f4a9", "<script>alert(1)</script>",
    "' OR 1=1 --", ".state", "|ls", "\x85next", "\xa0",
)  # fmt: skip
"""Names for everything that a peer may name."""
FORGED = '\u2028{"event": "forged"}\u0085\u001b[2J'
_KEPT = r"events\.jsonl|metadata(/\d{4}\.xml)?"
_PART = rf"parts(/\d{{6}}-[\w-]+(/(part\.json|capture-\d{{4}}\.pcap|{_KEPT}))?)?"
_FOLDER = rf"[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}(/(recording\.json|audio\.wav|{_KEPT}|{_PART}))?"
OURS = re.compile(rf"\d{{4}}(/\d\d(/\d\d(/{_FOLDER})?)?)?", re.ASCII)


def named(name: str) -> str:
    """A document in which all that has a name has this one."""
    quoted, text = quoteattr(name), escape(name)
    return wrapped(
        f"<group group_id={quoted}/><session session_id={quoted}><sipSessionID>{text}</sipSessionID>"
        f"<group-ref>{text}</group-ref></session><participant participant_id={quoted}>"
        f"<nameID aor={quoted}><name>{text}</name></nameID></participant>"
        f"<stream stream_id={quoted} session_id={quoted}><label>{text}</label></stream>"
        f"<participantstreamassoc participant_id={quoted}><send>{text}</send></participantstreamassoc>"
    )


def test_names_reach_no_path_and_no_log_line(tmp_path: Path) -> None:
    """Files have only names of ours; each log line is JSON of one event, without control characters, and short."""
    (tmp_path / "recordings").mkdir()
    settings = {
        "RECORDING_DIR": str(tmp_path / "recordings"),
        "STATE_DIR": str(tmp_path / "state"),
        "LOG_LEVEL": "debug",
    }
    with serving(tmp_path, **settings) as server, ExitStack() as stack:
        src = Src(server, stack)
        for name in NASTY:
            offer = SDP.replace("a=label:1", f"a=label:{name}")
            word = re.sub(r"\s", "_", name)
            src.call(named(name + FORGED.replace("\x1b", "")), call_id=f"{word}{FORGED}".replace(" ", ""), offer=offer)
        src.sock.send(b"INVITE sip:\x1b[2J SIP/2.0\r\nVia: SIP/2.0/UDP x\x1b\r\n\r\n")
        for _ in NASTY:
            server.wait_for("recording ready")
        lines = list(server.log)
    paths = [str(path.relative_to(tmp_path / "recordings")) for path in (tmp_path / "recordings").rglob("*")]
    assert not [path for path in paths if not OURS.fullmatch(path)]
    assert {path.name for path in tmp_path.iterdir()} == {"recordings", "state"}
    assert sum(path.endswith("recording.json") for path in paths) == len(NASTY)
    assert "forged" not in {line["event"] for line in lines}
    texts = [value for line in lines for value in line.values() if isinstance(value, str)]
    assert not [text for text in texts if not text.isprintable()]
    assert max(map(len, texts)) <= 256 * 10  # escapes are longer than what they stand for


def test_right_tags_from_another_source_do_nothing(tmp_path: Path) -> None:
    """SECURITY A3: who ends or changes a call must be the identity that made it."""
    with serving(tmp_path, SIP_ALLOW="first=127.0.0.1,second=127.0.0.2") as server, ExitStack() as stack:
        src = Src(server, stack)
        asked = src.messages.request("INVITE", call_id="mine", branch="mine", content=PLAIN, body=SDP)
        src.sock.send(asked.encode())
        text = src.final()
        ack, bye = src.messages.farewell(text)
        src.sock.send(ack)
        other = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        other.bind(("127.0.0.2", 0))
        other.settimeout(10.0)
        other.sendto(bye.replace(b"branch=z9hG4bK", b"branch=z9hG4bKother"), ("127.0.0.1", server.port))
        answer = other.recv(65_535)
        assert not answer.startswith(b"SIP/2.0 200")
        src.sock.send(bye)
        assert src.final().startswith("SIP/2.0 200")
        server.wait_for("recording ready")


@pytest.mark.parametrize("body", [SDP, ""], ids=["offer", "no offer"])
def test_a_from_that_is_no_uri_is_refused_and_breaks_nothing(tmp_path: Path, body: str) -> None:
    """Refused after the recording's folder was made: `serving` finds no `call failed` in the log."""
    with serving(tmp_path) as server, ExitStack() as stack:
        src = Src(server, stack)
        content = PLAIN if body else "Require: siprec\r\n"
        asked = src.messages.request("INVITE", call_id="c", branch="c", content=content, body=body)
        src.sock.send(asked.replace("<sip:src@example.com>", "<nonsense>").encode())
        assert src.final().startswith("SIP/2.0 400")
        assert server.stop() == 0
