"""RFC 4028: table 2, 422, the two times."""

import pytest

from siprec.sip.message import Headers, Request, Response
from siprec.sip.session_timer import SessionTimer, accepted, minimum_of, negotiate


def request(expires: str | None, *, timer: bool = True) -> Request:
    headers = Headers([("Supported", "100rel, Timer" if timer else "")])
    if expires is not None:
        headers.add("x", expires)
    return Request("INVITE", "sip:bob@example.com", headers)


@pytest.mark.parametrize(
    ("timer", "wish", "refresher"),
    [
        (False, "1800", "uas"),
        (False, "1800;refresher=uas", "uas"),
        (True, "1800", "uac"),
        (True, "1800;refresher=uac", "uac"),
        (True, "1800 ; refresher=UAS", "uas"),
    ],
)
def test_table_2(timer: bool, wish: str, refresher: str) -> None:
    answer = negotiate(request(wish, timer=timer))
    assert answer.status == 200
    assert ("Session-Expires", f"1800;refresher={refresher}") in answer.headers
    assert (("Require", "timer") in answer.headers) == timer
    running = answer.timer(10.0)
    assert running == SessionTimer(1800, refresher == "uas", 10.0)


@pytest.mark.parametrize(("interval", "status"), [(89, 422), (90, 200), (0, 422)])
def test_an_interval_below_the_minimum_is_refused(interval: int, status: int) -> None:
    answer = negotiate(request(str(interval)))
    assert answer.status == status
    assert (("Min-SE", "90") in answer.headers) == (status == 422)
    assert (answer.timer(0.0) is None) == (status == 422)


def test_our_own_minimum_counts_and_is_never_below_90() -> None:
    assert negotiate(request("119"), minimum=120).headers == (("Min-SE", "120"),)
    assert negotiate(request("90"), minimum=10).status == 200
    assert negotiate(request("89"), minimum=10).headers == (("Min-SE", "90"),)


@pytest.mark.parametrize("wish", [None, "", "soon", "-1", "9" * 11, "¹"])
def test_without_a_readable_wish_there_is_no_timer(wish: str | None) -> None:
    assert negotiate(request(wish)) == (200, (), None, None)


def test_a_proxys_tiny_wish_is_not_granted_to_a_uac_that_knows_no_timer() -> None:
    assert negotiate(request("30", timer=False)) == (200, (), None, None)


def test_a_broken_refresher_counts_as_none() -> None:
    assert negotiate(request("1800;=")).refresher == "uac"


def test_refresh_at_half_and_bye_before_the_end() -> None:
    ours, theirs = SessionTimer(1800, True, 100.0), SessionTimer(90, False, 100.0)
    assert ours.refresh_at == 1000.0
    assert ours.bye_at == 1868.0
    assert theirs.refresh_at is None
    assert theirs.bye_at == 160.0


def test_a_refresh_of_ours_keeps_the_roles() -> None:
    assert SessionTimer(1800, True, 0.0).headers() == (("Session-Expires", "1800;refresher=uac"),)
    assert SessionTimer(1800, False, 0.0).headers() == (("Session-Expires", "1800;refresher=uas"),)


def test_what_a_2xx_grants_us() -> None:
    def response(value: str) -> Response:
        return Response(200, "OK", Headers([("Session-Expires", value)]))

    assert accepted(response("1800;refresher=uac"), now=1.0) == SessionTimer(1800, True, 1.0)
    assert accepted(response("1800;refresher=uas"), now=1.0) == SessionTimer(1800, False, 1.0)
    assert accepted(response("10;refresher=uas"), now=1.0) == SessionTimer(90, False, 1.0)
    assert accepted(response(""), now=1.0) is None


def test_the_minimum_of_a_422() -> None:
    assert minimum_of(Response(422, "", Headers([("Min-SE", "3600;x")]))) == 3600
    assert minimum_of(Response(422, "", Headers())) is None
