from pathlib import Path

import pytest

from siprec import config
from siprec.errors import ConfigurationError

NO_FILE = Path("/nonexistent/.env")


def read(**environ: str) -> config.Configuration:
    return config.read(environ, NO_FILE)


def test_defaults_need_no_configuration() -> None:
    settings = read().settings
    assert settings.SIP_PORT == 5060
    assert settings.RTP_TIMEOUT == 60.0
    assert settings.RTP_BACKLOG == 512 * 2**20
    assert settings.recording_dir == Path.cwd() / "recordings"
    assert settings.state_dir == Path.cwd() / "recordings" / ".state"


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("5m", 300.0), ("250ms", 0.25), ("1h", 3600.0), ("7", 7.0), ("0.5", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds == read(RTP_TIMEOUT=text).settings.RTP_TIMEOUT


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 2**30), ("512MiB", 2**29), ("10MB", 10**7), ("4096", 4096), ("1kib", 1024)]
)
def test_sizes(text: str, size: int) -> None:
    assert size == read(DISK_RESERVE=text).settings.DISK_RESERVE


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(SIP_PORT="abc", RTP_TIMEOUT="5 parsecs", SIP_HOST="example.com", SIP_ALLOW="acme=nowhere", SIP_RATE="-1")
    named = {each.partition(":")[0] for each in caught.value.problems}
    assert named == {"SIP_PORT", "RTP_TIMEOUT", "SIP_HOST", "SIP_ALLOW", "SIP_RATE"}


def test_what_does_not_fit_together_is_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(RTP_PORT_MIN="80", SIP_TLS_CERT="/x", REDUNDANCY_STORAGE_TYPE="redis", SESSION_TIMEOUT="x")
    assert caught.value.problems == [
        "SESSION_TIMEOUT: is not a duration such as 30s, 5m, 250ms or plain seconds",
        "RTP_PORT_MIN must be 1024 or more",
        "SIP_TLS_CERT and SIP_TLS_KEY must be set together",
        "REDUNDANCY_STORAGE_TYPE=redis needs REDIS_URL",
    ]


@pytest.mark.parametrize("name", ["SIP_HOST", "SIP_ALLOW"])
def test_a_list_without_entries_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: needs one entry at least"):
        read(**{name: " , "})


def test_one_external_address_per_family() -> None:
    assert len(read(EXTERNAL_IP="192.0.2.1,2001:db8::1").settings.EXTERNAL_IP) == 2
    for wrong in ("192.0.2.1,192.0.2.2", "2001:db8::1,2001:db8::2,192.0.2.1"):
        with pytest.raises(ConfigurationError, match="EXTERNAL_IP: two addresses of one family"):
            read(EXTERNAL_IP=wrong)


@pytest.mark.parametrize(("low", "high"), [("1022", "2000"), ("20000", "20000"), ("20001", "20002")])
def test_a_port_range_without_room_is_refused(low: str, high: str) -> None:
    with pytest.raises(ConfigurationError, match="RTP_PORT"):
        read(RTP_PORT_MIN=low, RTP_PORT_MAX=high)


def test_one_pair_of_ports_is_enough() -> None:
    assert read(RTP_PORT_MIN="20000", RTP_PORT_MAX="20001").settings.RTP_PORT_MIN == 20000


def test_sources_may_be_named() -> None:
    acme, plain = read(SIP_ALLOW="acme=192.0.2.0/24|2001:db8::/32, 198.51.100.7").settings.SIP_ALLOW
    assert (acme.name, len(acme.networks)) == ("acme", 2)
    assert (plain.name, str(plain.networks[0])) == ("198.51.100.7", "198.51.100.7/32")


def test_a_misspelt_name_in_the_environment_warns() -> None:
    assert read(SIP_PROT="5070").warnings == ("environment: SIP_PROT is not a setting: did you mean SIP_PORT?",)


@pytest.mark.parametrize(
    ("name", "value"), [("HTTP_PROXY", "http://127.0.0.1"), ("REDIS_URLS", "tcp://192.0.2.1:6379")]
)
def test_what_platforms_inject_does_not_warn(name: str, value: str) -> None:
    assert read(**{name: value}).warnings == ()


def test_a_misspelt_name_in_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RECORDING_DIRR=/tmp/x\n")
    with pytest.raises(ConfigurationError, match="did you mean RECORDING_DIR"):
        config.read({}, tmp_path / ".env")


def test_the_environment_wins_over_the_file_and_origins_are_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SIP_PORT=5070\nLOG_LEVEL=debug\n")
    found = config.read({"SIP_PORT": "5080"}, tmp_path / ".env")
    assert (found.settings.SIP_PORT, found.origins["SIP_PORT"]) == (5080, "environment")
    assert (found.settings.LOG_LEVEL, found.origins["LOG_LEVEL"]) == ("debug", ".env")
    assert found.origins["SIP_HOST"] == "default"


def test_a_secret_may_come_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("hunter2\n")
    found = read(HTTP_TOKEN_FILE=str(secret))
    assert found.settings.HTTP_TOKEN is not None
    assert found.settings.HTTP_TOKEN.get_secret_value() == "hunter2"
    assert found.origins["HTTP_TOKEN"] == f"file {secret}"
    assert "hunter2" not in str(config.shown(found.settings)) + repr(found)


def test_a_secret_given_twice_or_unreadable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="HTTP_TOKEN and HTTP_TOKEN_FILE are both set"):
        read(HTTP_TOKEN="a", HTTP_TOKEN_FILE=str(tmp_path))
    with pytest.raises(ConfigurationError, match="HTTP_TOKEN_FILE: .* cannot be read"):
        read(HTTP_TOKEN_FILE=str(tmp_path / "missing"))


def test_what_is_not_built_yet_warns() -> None:
    assert any(each.startswith("HTTP_PORT") for each in read(HTTP_PORT="8081").warnings)
    assert any(each.startswith("HTTP_HOST") for each in read(HTTP_HOST="127.0.0.2").warnings)


def test_media_workers_have_a_limit() -> None:
    most = config.MAX_MEDIA_WORKERS
    assert most == read(MEDIA_WORKERS=str(most)).settings.MEDIA_WORKERS
    for wrong in (most + 1, -1):
        with pytest.raises(ConfigurationError, match="MEDIA_WORKERS"):
            read(MEDIA_WORKERS=str(wrong))


def test_redis_needs_its_address() -> None:
    with pytest.raises(ConfigurationError, match="needs REDIS_URL"):
        read(REDUNDANCY_STORAGE_TYPE="redis")


def test_shown_values_can_be_read_back() -> None:
    values = read(SIP_ALLOW="acme=192.0.2.0/24|2001:db8::/32,198.51.100.7", EXTERNAL_IP="192.0.2.1").settings
    assert read(**config.shown(values)).settings == values.model_copy(
        update={"RECORDING_DIR": values.recording_dir, "STATE_DIR": values.state_dir}
    )


@pytest.mark.parametrize("text", ["0", "1", "4097", "10MB", "512MiB", "1GiB", "3KiB", "1TB", "1536MiB"])
def test_sizes_are_shown_as_a_person_writes_them(text: str) -> None:
    assert config.shown(read(RTP_BACKLOG=text).settings)["RTP_BACKLOG"] == text


@pytest.mark.parametrize("text", ["0", "43ms", "1500ms", "0.0005s", "1s", "90s", "2m", "36h", "1d"])
def test_times_are_shown_as_a_person_writes_them(text: str) -> None:
    assert config.shown(read(RTP_TIMEOUT=text).settings)["RTP_TIMEOUT"] == text


def test_a_rate_is_shown_with_its_unit() -> None:
    assert config.shown(read(SIP_RATE="50").settings)["SIP_RATE"] == "50/s"


ROOT = Path(__file__).parents[2]


def test_the_readme_lists_every_setting_as_it_is() -> None:
    text = (ROOT / "README.md").read_text()
    table = text.partition("tested against it -->\n")[2].partition("<!-- /settings -->")[0]
    assert table == config.settings_table(), "python -m siprec.config prints the table"


def test_the_example_file_is_the_defaults() -> None:
    example = (ROOT / ".env.example").read_text()
    assert example == config.example_file()


def test_the_example_file_uncommented_changes_nothing(tmp_path: Path) -> None:
    lines = [
        line.removeprefix("#") for line in config.example_file().splitlines() if line.startswith("#") and "=" in line
    ]
    (tmp_path / ".env").write_text("\n".join(line for line in lines if not line.startswith(" ")))
    assert config.read({}, tmp_path / ".env").settings == read().settings


def test_metadata_fields_are_known_ones() -> None:
    assert {"names", "aors"} == read(METADATA_KEEP="names, aors").settings.METADATA_KEEP
    assert frozenset() == read(METADATA_KEEP="none").settings.METADATA_KEEP
    with pytest.raises(ConfigurationError, match="METADATA_KEEP.*faces"):
        read(METADATA_KEEP="names,faces")
