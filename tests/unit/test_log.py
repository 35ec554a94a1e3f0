import io
import json

import pytest

from siprec import log


@pytest.fixture
def lines() -> io.StringIO:
    out = io.StringIO()
    log.configure("info", "json", out)
    return out


def test_each_line_is_one_json_object(lines: io.StringIO) -> None:
    log.get(session="1").info("call offered", source="192.0.2.1")
    (line,) = lines.getvalue().splitlines()
    found = json.loads(line)
    assert (found["event"], found["session"], found["level"]) == ("call offered", "1", "info")
    assert found["ts"].endswith("Z")


def test_text_from_the_network_cannot_forge_a_line_or_reach_the_terminal(lines: io.StringIO) -> None:
    log.get().warning("refused", reason='x\n{"event":"forged"}\r\x1b[31m\x00\u202e')
    (line,) = lines.getvalue().splitlines()
    reason = json.loads(line)["reason"]
    assert reason.isprintable()
    assert "\\n" in reason


@pytest.mark.parametrize(
    ("length", "kept"), [(log.FIELD_LIMIT, log.FIELD_LIMIT), (log.FIELD_LIMIT + 1, log.FIELD_LIMIT)]
)
def test_a_field_is_capped(lines: io.StringIO, length: int, kept: int) -> None:
    log.get().info("x", field="a" * length)
    field = json.loads(lines.getvalue())["field"]
    assert len(field) == kept
    assert field.endswith("…") == (length > log.FIELD_LIMIT)


def test_a_lower_level_is_left_out(lines: io.StringIO) -> None:
    log.get().debug("nothing")
    assert lines.getvalue() == ""


def test_the_console_shows_events_for_people() -> None:
    out = io.StringIO()
    log.configure("debug", "console", out)
    log.get(session="1").debug("call offered")
    assert "call offered" in out.getvalue()
    assert "session" in out.getvalue()


def test_a_full_disk_under_the_log_is_survived() -> None:
    full = open("/dev/full", "w")  # noqa: SIM115  closing it fails as well
    log.configure("info", "json", full)
    log.get().info("call offered", text="x" * 100_000)
    with pytest.raises(OSError, match="space"):
        full.close()


def test_a_list_is_tamed_and_capped_as_a_whole(lines: io.StringIO) -> None:
    log.get().info("call recording", people=[f"Participant {number:03d}\x1b[31m\n" for number in range(200)])
    (line,) = lines.getvalue().splitlines()
    people = json.loads(line)["people"]
    assert people[0] == "Participant 000\\x1b[31m\\n"
    assert people[-1] == f"… {200 - len(people) + 1} more"
    assert len(json.dumps(people)) < 2 * log.FIELD_LIMIT


@pytest.mark.parametrize(
    ("items", "kept"),
    [
        ([], []),
        ([1, 2.5], [1, 2.5]),
        (("a",), ["a"]),
        ([None], ["None"]),
        (["a" * (log.FIELD_LIMIT - 9), "b"], ["a" * (log.FIELD_LIMIT - 9), "b"]),
        (["a" * (log.FIELD_LIMIT - 8), "b"], ["a" * (log.FIELD_LIMIT - 8), "… 1 more"]),
        (["a" * (log.FIELD_LIMIT + 1), "b"], ["a" * (log.FIELD_LIMIT - 1) + "…", "… 1 more"]),
    ],
)
def test_a_list_at_its_limit_and_past_it(lines: io.StringIO, items: list[object], kept: list[object]) -> None:
    log.get().info("x", field=items)
    assert json.loads(lines.getvalue())["field"] == kept


def test_an_exception_on_the_console_cannot_forge_a_line_or_reach_the_terminal() -> None:
    out = io.StringIO()
    log.configure("info", "console", out)
    try:
        raise ValueError("x\n12:00:00.000 [info] forged\r\x1b[31m" + "y" * 1000)
    except ValueError:
        log.get().error("call failed", exc_info=True)
    first, *rest = out.getvalue().splitlines()
    assert "call failed" in first
    assert any("ValueError: x" in line for line in rest)
    assert all(line.startswith("    ") and line.isprintable() and len(line) < log.FIELD_LIMIT * 2 for line in rest)
