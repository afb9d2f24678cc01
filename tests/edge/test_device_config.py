"""The device's configuration: what is read, what is refused, and with which words."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

from pisyncd import config
from pisyncd.config import environment, example, fields, identity, schema, strict_yaml
from pisyncd.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SMALLEST = """\
cloud:
  url: https://cloud.example.org
  token_file: /etc/pisyncd/token
watch:
  - path: /srv/learning
    exclude: ["*.tmp", "cache/**"]
    priority: 5
"""
MACHINE_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root directory with a machine-id and no serial number."""
    root = tmp_path / "machine"
    (root / "etc").mkdir(parents=True)
    (root / "etc/machine-id").write_text(MACHINE_ID + "\n")
    return root


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> config.Config:
    path = tmp_path / "pisyncd.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return config.load(path, environ or {})


def problems(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(config.InvalidConfig) as caught:
        load(tmp_path, text, environ)
    assert caught.value.exit_code == 78
    assert caught.value.hint
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_the_smallest_configuration_gives_every_default(tmp_path: Path) -> None:
    loaded = load(tmp_path, SMALLEST)
    (root,) = loaded.watch
    assert (root.name, root.path, root.exclude, root.priority) == (
        "learning",
        Path("/srv/learning"),
        ("*.tmp", "cache/**"),
        5,
    )
    assert loaded.state_dir == Path("/var/lib/pisyncd")
    assert loaded.socket == Path("/run/pisyncd/pisyncd.sock")
    assert (loaded.settle, loaded.transfer, loaded.sync) == (schema.Settle(), schema.Transfer(), schema.Sync())
    assert (loaded.settle.debounce_s, loaded.settle.force_s, loaded.settle.rescan_s) == (10, 60, 3600)
    assert (loaded.transfer.chunk_target_s, loaded.transfer.stall_s) == (15, 60)
    assert (loaded.backoff.base_s, loaded.backoff.cap_s, loaded.backoff.item_cap_s) == (5, 1800, 86400)


def test_every_problem_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
cloud:
  url: ftp://cloud.example.org
  token: abc
  conect_timeout_s: 5
watch:
  - path: /srv/learning
    exclude: "*.tmp"
    priority: 11
  - path: relative
settle:
  debounce_s: 12:30:00
sync:
  interval_s: 010
  scheduled: no
  interval_s: 300
"""
    assert problems(tmp_path, text, {"MAX_RETRIES": "11"}) == [
        'environment: MAX_RETRIES: "11" is not allowed; allowed: a whole number from 1 to 10 '
        "(it sets sync.retries_max)",
        "pisyncd.yaml:2: cloud.url: is not a web address; allowed: https://host[:port][/path], or http://",
        "pisyncd.yaml:3: cloud.token: a secret must not stand here; put it into a file of its own and name that in "
        "cloud.token_file",
        "pisyncd.yaml:4: cloud.conect_timeout_s: is not a setting; did you mean `connect_timeout_s`?",
        'pisyncd.yaml:7: watch[0].exclude: "*.tmp" is not allowed; allowed: a list of globs, such as '
        '["*.tmp", "cache/**"]',
        "pisyncd.yaml:8: watch[0].priority: `11` is not allowed; allowed: a whole number from 1 to 10",
        'pisyncd.yaml:9: watch[1].path: "relative" is not allowed; allowed: an absolute path',
        'pisyncd.yaml:11: settle.debounce_s: "12:30:00" is not allowed; allowed: a number from 0 to 3600',
        'pisyncd.yaml:13: sync.interval_s: "010" is not allowed; allowed: a number from 60 to 3600',
        'pisyncd.yaml:14: sync.scheduled: "no" is not allowed; allowed: true or false',
        "pisyncd.yaml:15: the key `interval_s` stands here twice (first in line 13); remove one",
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("true", True),
        ("false", False),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        (".inf", ".inf"),
        ("1e3", "1e3"),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_a_scalar_means_what_a_person_sees(written: str, meant: object) -> None:
    value = strict_yaml.scalar(written)
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cloud: &a\n  url: https://x\nwatch: *a\n", "aliases"),
        ("cloud: !!map\n  url: https://x\n", "tags are not allowed"),
        ("cloud: [1, 2\n", "not valid YAML"),
        ("cloud:\n\turl: x\n", "not valid YAML"),
        ("a: \x01\n", "control character"),
        ("---\na: 1\n---\nb: 1\n", "second document"),
        ("? [a]\n: 1\n", "a key must be a plain word"),
        ("[" * 50 + "]" * 50, "nested too deeply"),
        ('a: "\\ud800"\n', "lone surrogate"),
        ('"\\udc80": 1\n', "lone surrogate"),
        ("- a\n", "must be a section"),
        ("", "cloud: is missing"),
        ("# nothing\n", "watch: is missing"),
        (SMALLEST.replace("https://cloud.example.org", "https://user:pass@cloud.example.org"), "user or password"),
        (SMALLEST.replace("https://cloud.example.org", "https://cloud.example.org:99999"), "cloud.url"),
        (SMALLEST.replace("https://cloud.example.org", "https://[::1"), "cloud.url"),
        (SMALLEST.replace("https://cloud.example.org", "https://cloud.example.org/?a=b"), "query"),
        (SMALLEST + "device_id: ../../etc\n", "device_id"),
        (SMALLEST + "watch: []\n", "stands here twice"),
        (SMALLEST + "transfer:\n  chunk_bytes_min: 9000000\n", "must not be larger than"),
        (SMALLEST + "sync: 5\n", "must be a section"),
        (SMALLEST + "records:\n  types: [profile, 'a/b']\n", '"a/b" is not the type of a record'),
        (SMALLEST + "records:\n  wait_s: 901\n", "from 0 to 900"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(problems(tmp_path, text))


def test_a_number_is_text_where_text_is_asked_for(tmp_path: Path) -> None:
    text = (
        "device_id: 007\ncloud: {url: https://x}\nwatch:\n  - path: /srv/a\n    name: 20.10\n    exclude: [1e3, 2024]\n"
    )
    loaded = load(tmp_path, text)
    assert (loaded.device_id, loaded.watch[0].name, loaded.watch[0].exclude) == ("007", "20.10", ("1e3", "2024"))
    assert load(tmp_path, text.replace("007", "10000000")).device_id == "10000000"


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "cloud: \udcff\n") == ["pisyncd.yaml:1: is not UTF-8; save the file as UTF-8"]
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "nothing.yaml", {})
    with pytest.raises(ConfigError, match="is a directory"):
        config.load(tmp_path, {})
    with pytest.raises(ConfigError, match="larger than"):
        config.load(Path("/dev/zero"), {})


def test_an_empty_section_is_its_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, SMALLEST + "sync:\n# interval_s: 300\n").sync == schema.Sync()


@pytest.mark.parametrize(
    ("watch", "expected"),
    [
        (["/srv/a", "/srv/a/b"], "overlap"),
        (["/srv/a/b", "/srv/a"], "overlap"),
        (["/srv/a", "/srv/a/"], "is watched already"),
        (["/srv/a/x", "/srv/b/x"], "names watch[0] too"),
        (["/"], "watch[0].name: is missing"),
    ],
)
def test_roots_that_do_not_fit_together_are_refused(tmp_path: Path, watch: list[str], expected: str) -> None:
    text = "cloud: {url: https://x}\nwatch:\n" + "".join(f"  - path: {path}\n" for path in watch)
    (problem,) = problems(tmp_path, text)
    assert expected in problem


@pytest.mark.parametrize("name", ["a/b", "..", "x" * 256])
def test_a_root_name_is_one_component(tmp_path: Path, name: str) -> None:
    text = f"cloud: {{url: https://x}}\nwatch:\n  - path: /srv/a\n    name: {name}\n"
    assert "watch[0].name" in problems(tmp_path, text)[0]


@pytest.mark.parametrize("glob", ["", "../x", "a//b", "./a", "[z-a].txt"])
def test_a_glob_that_never_matches_is_refused(tmp_path: Path, glob: str) -> None:
    text = f'cloud: {{url: https://x}}\nwatch:\n  - path: /srv/a\n    exclude: ["{glob}"]\n'
    assert "watch[0].exclude" in problems(tmp_path, text)[0]


def test_roots_beside_each_other_are_fine(tmp_path: Path) -> None:
    text = "cloud: {url: https://x/}\nwatch:\n  - path: /srv/a\n  - path: /srv/ab\n"
    loaded = load(tmp_path, text)
    assert [root.name for root in loaded.watch] == ["a", "ab"]
    assert loaded.cloud.url == "https://x"


def test_pisyncs_own_files_are_not_sent(tmp_path: Path) -> None:
    text = "cloud: {url: https://x}\nstate_dir: /srv/a/[own]/state\nwatch:\n  - path: /srv/a\n  - path: /srv/b\n"
    first, second = load(tmp_path, text).watch
    assert first.exclude == ("/[[]own[]]/state", "/[[]own[]]/state/**")
    assert second.exclude == ()


@pytest.mark.parametrize(
    ("name", "text", "reach", "value"),
    [
        ("SYNC_INTERVAL_MINUTES", "1", "sync.interval_s", 60.0),
        ("SYNC_INTERVAL_MINUTES", "60", "sync.interval_s", 3600.0),
        ("SYNC_BATCH_SIZE", "10", "messages.batch_items", 10),
        ("SYNC_BATCH_SIZE", "500", "messages.batch_items", 500),
        ("MAX_RETRIES", "10", "sync.retries_max", 10),
        ("RETRY_DELAY_MS", "1000", "sync.retry_delay_s", 1.0),
        ("RETRY_DELAY_MS", "30000", "sync.retry_delay_s", 30.0),
        ("MAX_QUEUE_SIZE", "1000", "messages.queue_max", 1000),
        ("BATCH_TIMEOUT", "30s", "messages.timeout_s", 30.0),
        ("ENABLE_SCHEDULED_SYNC", "false", "sync.scheduled", False),
        ("ENABLE_SCHEDULED_SYNC", "True", "sync.scheduled", True),
        ("VERBOSITY", "debug", "log.level", "debug"),
    ],
)
def test_the_environment_wins_over_the_file(tmp_path: Path, name: str, text: str, reach: str, value: object) -> None:
    section, setting = reach.split(".")
    loaded = load(tmp_path, SMALLEST + "sync:\n  interval_s: 120\n", {name: text})
    assert getattr(getattr(loaded, section), setting) == value
    if reach != "sync.interval_s":
        assert loaded.sync.interval_s == 120


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SYNC_INTERVAL_MINUTES", "0"),
        ("SYNC_INTERVAL_MINUTES", "61"),
        ("SYNC_INTERVAL_MINUTES", "5.5"),
        ("SYNC_BATCH_SIZE", "9"),
        ("SYNC_BATCH_SIZE", "501"),
        ("MAX_RETRIES", "0"),
        ("RETRY_DELAY_MS", "999"),
        ("RETRY_DELAY_MS", "30001"),
        ("MAX_QUEUE_SIZE", "-1"),
        ("MAX_QUEUE_SIZE", "٣٠٠"),
        ("ENABLE_SCHEDULED_SYNC", "maybe"),
        ("VERBOSITY", "loud"),
    ],
)
def test_a_bad_variable_is_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    (problem,) = problems(tmp_path, SMALLEST, {name: text})
    assert problem.startswith(f"environment: {name}: ")
    assert "allowed" in problem


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, SMALLEST, {"SYNC_INTERVAL_MINUTES": " "}).sync.interval_s == 300


def test_every_variable_names_a_setting() -> None:
    sections = {field.name: fields.section_of(field) for field in fields.of(schema.Config)}
    for variable in environment.VARIABLES:
        section = sections[variable.section]
        assert section is not None
        assert variable.setting in {field.name for field in fields.of(section)}
        assert variable.name in (environment.__doc__ or "")


def test_the_example_is_written_from_the_schema() -> None:
    assert (ROOT / "config/pisyncd.example.yaml").read_text() == example.text()


def test_the_example_is_valid_and_holds_the_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, example.text())
    everything = load(tmp_path, uncommented(example.text()))
    assert everything.device_id == "pibox-0042"
    assert everything.cloud.ca_file == Path("/etc/pisyncd/ca.pem")
    assert msgspec.structs.replace(everything, device_id=loaded.device_id, cloud=loaded.cloud) == loaded
    assert loaded.sync == schema.Sync()


def test_every_setting_has_help_and_stands_in_the_example() -> None:
    text = example.text()
    for field in fields.of(schema.Config):
        section = fields.section_of(field)
        for setting in fields.of(section) if section else [field]:
            if setting.name != "watch":
                assert setting.help, setting.name
                assert f"{setting.name}:" in text


def uncommented(text: str) -> str:
    """The example with every default made live, as its head says."""
    return re.sub(r"^( *)# ", r"\1", text, flags=re.MULTILINE)


def test_the_serial_number_names_the_device(machine: Path) -> None:
    (machine / "proc/device-tree").mkdir(parents=True)
    serial = machine / "proc/device-tree/serial-number"
    serial.write_bytes(b"10000000abcdef01\0")
    assert identity.default_device_id(machine) == "10000000abcdef01"
    serial.write_bytes(b"0000000000000000\0")
    assert identity.default_device_id(machine) == identity.app_specific(MACHINE_ID)
    serial.write_bytes(b"bad\n/serial")
    assert identity.default_device_id(machine) == identity.app_specific(MACHINE_ID)


def test_without_serial_number_and_machine_id_a_name_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "pisyncd.yaml"
    path.write_text(SMALLEST)
    with pytest.raises(ConfigError, match="name it"):
        config.load(path, {}, root=tmp_path)
    path.write_text(SMALLEST + "device_id: pibox-1\n")
    assert config.load(path, {}, root=tmp_path).device_id == "pibox-1"


@pytest.mark.skipif(shutil.which("systemd-id128") is None, reason="systemd is not installed")
def test_the_name_from_the_machine_id_is_systemds_own() -> None:
    answer = subprocess.run(
        ["systemd-id128", "machine-id", f"--app-specific={identity.APP_ID.hex}"], capture_output=True, text=True
    )
    if answer.returncode:
        pytest.skip("this machine has no machine-id")
    own = Path("/etc/machine-id").read_text().strip()
    assert identity.app_specific(own) == answer.stdout.strip()


def token_config(tmp_path: Path, token_file: Path) -> config.Config:
    return load(tmp_path, SMALLEST.replace("/etc/pisyncd/token", str(token_file)))


def test_the_token_comes_from_its_file_first_then_from_the_credential(tmp_path: Path) -> None:
    file, directory = tmp_path / "token", tmp_path / "credentials"
    directory.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(directory)}
    loaded = token_config(tmp_path, file)
    (directory / "pisync-token").write_text("from-credential\n")
    assert config.read_token(loaded, environ) == "from-credential"
    file.write_text(" from-file \n")
    assert config.read_token(loaded, environ) == "from-file"
    file.write_text("")
    assert config.read_token(loaded, environ) == "from-credential"


@pytest.mark.parametrize("content", ["two words", "tab\ttab", "ünicode", "x" * 5000])
def test_what_is_no_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigError) as caught:
        config.read_token(token_config(tmp_path, tmp_path / "token"), {})
    assert caught.value.code == "token-invalid"
    assert content not in str(caught.value)


def test_a_missing_token_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.read_token(token_config(tmp_path, tmp_path / "nothing"), {})
    assert caught.value.code == "token-missing"
    assert "pisync-cloud enroll" in caught.value.hint


def test_what_is_unwise_is_said(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    token.chmod(0o644)
    loaded = load(
        tmp_path, f"cloud:\n  url: http://far.example.org\n  token_file: {token}\nwatch: [{{path: {tmp_path}/no}}]\n"
    )
    told = config.advice(loaded, {})
    assert any(f"chmod 0600 {token}" in line for line in told)
    assert any("not encrypted" in line for line in told)
    assert any("it is waited for" in line for line in told)
    token.chmod(0o600)
    quiet = load(tmp_path, f"cloud:\n  url: http://127.0.0.1:1\n  token_file: {token}\nwatch: [{{path: {tmp_path}}}]\n")
    assert config.advice(quiet, {}) == ()


@pytest.mark.parametrize("seed", range(200))
def test_no_damage_to_the_file_ends_in_anything_but_problems(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    text = bytearray(chance.choice([example.text(), uncommented(example.text())]).encode())
    odd = [
        b"\xff",
        b"\0",
        b"\xed\xa0\x80",
        b".nan",
        b"1e400",
        b"9" * 30,
        b"<<: *x",
        b'"\\ud800"',
        b"!!python/name:os",
        b"{[,",
    ]
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(text))
        if chance.random() < 0.5:
            text[at:at] = chance.choice(odd)
        else:
            del text[at : at + chance.randint(1, 40)]
    path = tmp_path / "pisyncd.yaml"
    path.write_bytes(text)
    try:
        config.load(path, {})
    except config.InvalidConfig as error:
        assert error.problems
        assert str(error).encode()


def test_the_example_is_plain_yaml_for_other_tools() -> None:
    assert set(yaml.safe_load(example.text())) == {"cloud", "watch"}
    assert os.access(ROOT / "config/pisyncd.example.yaml", os.R_OK)
