"""The daemon's command line: what it says and with which exit code it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pisyncd import cli
from pisyncd.core.errors import AlreadyRunning, ConfigError, SchemaTooNew

GOOD = """\
device_id: pibox-1
cloud:
  url: http://127.0.0.1:9
  token_file: {directory}/token
state_dir: {directory}/state
runtime_dir: {directory}/run
watch:
  - path: {directory}/learning
"""


def pisyncd(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pisyncd", *arguments], capture_output=True, text=True, env=environ or {}, timeout=60
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "learning").mkdir()
    (tmp_path / "token").write_text("secret-token")
    (tmp_path / "token").chmod(0o600)
    path = tmp_path / "pisyncd.yaml"
    path.write_text(GOOD.format(directory=tmp_path))
    return path


def test_check_config_says_what_will_happen(config: Path) -> None:
    said = pisyncd("check-config", "--config", str(config))
    assert (said.returncode, said.stderr) == (0, "")
    assert "all is right" in said.stdout
    assert "device pibox-1 sends to http://127.0.0.1:9" in said.stdout
    assert "secret-token" not in said.stdout


def test_check_config_warns_of_what_is_unwise(config: Path) -> None:
    (config.parent / "token").chmod(0o644)
    said = pisyncd("check-config", "--config", str(config))
    assert said.returncode == 0
    assert "warning: " in said.stderr
    assert "chmod 0600" in said.stderr


@pytest.mark.parametrize("command", ["run", "once", "check-config"])
def test_a_wrong_configuration_is_78_with_file_line_key_and_what_is_allowed(config: Path, command: str) -> None:
    with config.open("a") as file:
        file.write("sync:\n  interval_s: 5\n  retriesmax: 3\n")
    said = pisyncd(command, "--config", str(config))
    assert (said.returncode, said.stdout) == (78, "")
    assert f"{config}:10: sync.interval_s: `5` is not allowed; allowed: a number from 60 to 3600" in said.stderr
    assert f"{config}:11: sync.retriesmax: is not a setting; did you mean `retries_max`?" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("command", ["run", "once", "check-config"])
def test_a_missing_token_is_78_and_says_how_to_get_one(config: Path, command: str) -> None:
    (config.parent / "token").unlink()
    said = pisyncd(command, "--config", str(config))
    assert said.returncode == 78
    assert "pisync-cloud enroll pibox-1" in said.stderr
    assert "all is right" not in said.stdout


@pytest.mark.parametrize("command", ["run", "once", "check-config"])
def test_authorities_that_are_none_are_78(config: Path, command: str) -> None:
    (config.parent / "ca.pem").write_text("no certificate")
    text = config.read_text().replace("url: http:", f"ca_file: {config.parent}/ca.pem\n  url: https:")
    config.write_text(text)
    said = pisyncd(command, "--config", str(config))
    assert said.returncode == 78
    assert "cloud.ca_file" in said.stderr
    assert "Traceback" not in said.stderr
    assert "all is right" not in said.stdout


def test_a_bad_variable_is_78(config: Path) -> None:
    said = pisyncd("check-config", "--config", str(config), environ={"SYNC_BATCH_SIZE": "1000"})
    assert said.returncode == 78
    assert "environment: SYNC_BATCH_SIZE" in said.stderr


def test_a_missing_file_is_78(tmp_path: Path) -> None:
    said = pisyncd("run", "--config", str(tmp_path / "none.yaml"))
    assert said.returncode == 78
    assert "none.yaml: cannot be read: no such file or directory" in said.stderr


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run", "--konfig", "x"], ["once", "extra"]])
def test_a_wrong_command_line_is_2(arguments: list[str]) -> None:
    said = pisyncd(*arguments)
    assert said.returncode == 2
    assert "usage: pisyncd" in said.stderr


def test_help_and_version_need_nothing() -> None:
    said = pisyncd("--help")
    assert said.returncode == 0
    for word in ("run", "once", "check-config", "75", "78"):
        assert word in said.stdout
    assert pisyncd("--version").stdout.startswith("pisyncd ")


def test_an_expected_end_inside_a_group_keeps_its_exit_code() -> None:
    ends = ExceptionGroup("activities", [ExceptionGroup("one", [SchemaTooNew()])])
    found = cli.fatal_in(ends)
    assert found is not None
    assert (found.exit_code, found.code) == (78, "schema-too-new")
    assert cli.fatal_in(AlreadyRunning()) is not None
    assert cli.fatal_in(ExceptionGroup("both", [ConfigError(), ValueError()])) is None
    assert cli.fatal_in(ValueError()) is None
