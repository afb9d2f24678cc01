"""scripts/install-pi into a staging root, and the unit it installs."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pisyncd import config

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/install-pi"
UNIT = ROOT / "systemd/pisyncd.service"
EXPOSURE_MAX = 2.0


def install(*arguments: str, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(script), *arguments], capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that nobody edits meanwhile; its script."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pisyncd", "cloud", "config", "systemd"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "vendor"))
    for name in ("pyproject.toml", "requirements.lock", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "scripts").mkdir()
    shutil.copy(SCRIPT, copy / "scripts/install-pi")
    return copy / "scripts/install-pi"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Iterator[Path]:
    """A root into which the program was installed once."""
    root = tmp_path_factory.mktemp("stage")
    said = install("--root", str(root), "--cloud", "https://cloud.example.org", "--watch", "/srv/it's", script=checkout)
    assert said.returncode == 0, said.stderr
    assert "installing the program" in said.stdout
    yield root
    shutil.rmtree(root, ignore_errors=True)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file outside of the venv, with mode and content."""
    found = {}
    for path in sorted(root.rglob("*")):
        if "venv" not in str(path) and path.is_file() and not path.is_symlink():
            found[str(path.relative_to(root))] = (mode(path), path.read_bytes())
    return found


def test_everything_is_where_the_fhs_and_systemd_expect_it(stage: Path) -> None:
    assert set(files(stage)) == {
        "etc/pisyncd/pisyncd.yaml",
        "etc/pisyncd/token",
        "etc/sysctl.d/60-pisync.conf",
        "etc/systemd/system/pisyncd.service",
        "etc/sysusers.d/pisync.conf",
        "opt/pisync/share/README.md",
        "opt/pisync/share/pisyncd.example.yaml",
        "usr/local/share/bash-completion/completions/pisyncctl",
    } | ({"etc/systemd/system/pisyncd.service.d/10-systemd-254.conf"} if systemd_version() >= 254 else set())
    assert mode(stage / "etc/pisyncd/token") == 0o600
    assert (stage / "usr/local/bin/pisyncctl").readlink() == Path("/opt/pisync/venv/bin/pisyncctl")


def test_the_installed_program_runs_and_takes_the_first_configuration(stage: Path) -> None:
    loaded = config.load(stage / "etc/pisyncd/pisyncd.yaml", {})
    assert (loaded.cloud.url, loaded.watch[0].path) == ("https://cloud.example.org", Path("/srv/it's"))
    python = stage / "opt/pisync/venv/bin/python"
    said = subprocess.run(
        [python, "-m", "pisyncd", "check-config", "--config", stage / "etc/pisyncd/pisyncd.yaml"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert said.returncode == 78
    assert "no token for the cloud" in said.stderr
    listed = subprocess.run(
        [python, "-c", "import pisyncd, sys; print(pisyncd.__file__)"], capture_output=True, text=True, cwd="/"
    )
    assert str(stage) in listed.stdout


def test_the_scripts_name_the_place_where_they_will_run(stage: Path) -> None:
    first = (stage / "opt/pisync/venv/bin/pisyncd").read_text().splitlines()[0]
    assert re.fullmatch(r"#!/opt/pisync/venv-[0-9a-f]{16}/bin/python[0-9.]*", first)


def test_the_device_carries_nothing_of_the_clouds_libraries(stage: Path) -> None:
    said = subprocess.run(
        [stage / "opt/pisync/venv/bin/python", "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True
    )
    names = {line.partition("==")[0].lower() for line in said.stdout.splitlines()}
    assert "aiohttp" in names
    assert not names & {"asyncpg", "jinja2", "rich", "pytest"}


def test_again_changes_nothing_and_keeps_what_a_person_wrote(stage: Path, checkout: Path) -> None:
    (stage / "etc/pisyncd/pisyncd.yaml").write_text("cloud: {url: https://mine.example.org}\nwatch: [{path: /srv/a}]\n")
    (stage / "etc/pisyncd/token").write_text("mine\n")
    (stage / "etc/pisyncd/token").chmod(0o644)
    before = files(stage)
    said = install("--root", str(stage), "--cloud", "https://other.example.org", "--watch", "/srv/b", script=checkout)
    assert said.returncode == 0, said.stderr
    assert "is up to date" in said.stdout
    assert "kept /etc/pisyncd/pisyncd.yaml" in said.stdout
    assert "wrote" not in said.stdout
    before["etc/pisyncd/token"] = (0o600, b"mine\n")
    assert files(stage) == before


def test_a_half_installed_program_is_made_anew_and_an_old_one_goes(stage: Path, checkout: Path) -> None:
    venv = (stage / "opt/pisync/venv").resolve()
    (venv / "complete").unlink()
    old = stage / "opt/pisync/venv-0123456789abcdef"
    old.mkdir()
    said = install("--root", str(stage), script=checkout)
    assert said.returncode == 0, said.stderr
    assert (venv / "complete").exists()
    assert not old.exists()


def test_a_token_is_copied_for_root_alone(stage: Path, tmp_path: Path, checkout: Path) -> None:
    (tmp_path / "token").write_text("fresh\n")
    said = install("--root", str(stage), "--token", str(tmp_path / "token"), script=checkout)
    assert said.returncode == 0, said.stderr
    token = stage / "etc/pisyncd/token"
    assert (token.read_text(), mode(token)) == ("fresh\n", 0o600)
    assert "fresh" not in said.stdout + said.stderr


def test_uninstall_keeps_configuration_and_data_and_purge_does_not(stage: Path) -> None:
    (stage / "var/lib/pisyncd").mkdir(parents=True)
    (stage / "var/lib/pisyncd/outbox.db").write_text("owed")
    (stage / "opt/pisync/share/notes.txt").write_text("somebody's own")
    said = install("--root", str(stage), "--uninstall")
    assert said.returncode == 0, said.stderr
    assert set(files(stage)) == {
        "etc/pisyncd/pisyncd.yaml",
        "etc/pisyncd/token",
        "opt/pisync/share/notes.txt",
        "var/lib/pisyncd/outbox.db",
    }
    assert not list((stage / "opt/pisync").glob("venv*"))
    assert install("--root", str(stage), "--uninstall", "--purge").returncode == 0
    assert set(files(stage)) == {"opt/pisync/share/notes.txt"}
    assert install("--root", str(stage), "--uninstall").returncode == 0


def test_a_failed_installation_leaves_the_old_program_alone(tmp_path: Path) -> None:
    program = tmp_path / "root/opt/pisync"
    (program / "venv-0123456789abcdef").mkdir(parents=True)
    (program / "venv").symlink_to("venv-0123456789abcdef")
    (tmp_path / "wheels").mkdir()
    said = install("--root", str(tmp_path / "root"), "--wheels", str(tmp_path / "wheels"))
    assert said.returncode == 1
    assert "installing failed" in said.stderr
    assert (program / "venv").readlink() == Path("venv-0123456789abcdef")
    assert (program / "venv-0123456789abcdef").is_dir()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "scripts/install-pi"),
        (["--fly"], 2, "--fly is not an option"),
        (["--root"], 2, "needs a value"),
        (["--prefix", "relative"], 2, "absolute path"),
        (["--purge"], 2, "belongs to --uninstall"),
        (["--root", "/tmp/x", "--token", "/nothing/there"], 1, "not there"),
        (["--root", "/tmp/x", "--watch", "relative"], 1, "absolute path"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_changes(arguments: list[str], code: int, words: str) -> None:
    said = install(*arguments)
    assert said.returncode == code
    assert words in said.stdout + said.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_root_it_says_so() -> None:
    said = subprocess.run(["setpriv", "--reuid=65534", "bash", SCRIPT], capture_output=True, text=True, cwd="/")
    assert said.returncode in (1, 126)
    if said.returncode == 1:
        assert "run it with sudo" in said.stderr


def systemd_version() -> int:
    if shutil.which("systemctl") is None:
        return 0
    said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True).stdout
    found = re.match(r"systemd (\d+)", said)
    return int(found[1]) if found else 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_sandbox_scores_two_or_better() -> None:
    said = subprocess.run(["systemd-analyze", "security", "--offline=yes", str(UNIT)], capture_output=True, text=True)
    found = re.search(r"Overall exposure level for pisyncd.service: ([0-9.]+)", said.stdout)
    assert found is not None, said.stderr
    assert float(found[1]) <= EXPOSURE_MAX
    assert said.stderr == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    program = tmp_path / "pisyncd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "pisyncd.service"
    unit.write_text(UNIT.read_text().replace("/opt/pisync/venv/bin/pisyncd", str(program)))
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert [line for line in said.stderr.splitlines() if "pisyncd.service" in line] == []


def directives(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_says_what_the_daemon_relies_on() -> None:
    unit = directives(UNIT)
    assert unit["Type"] == ["notify"]
    assert unit["WatchdogSec"] == ["60"]
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["LoadCredential"] == ["pisync-token:/etc/pisyncd/token"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == ["CAP_DAC_READ_SEARCH"]
    assert {"StateDirectory", "RuntimeDirectory", "ConfigurationDirectory", "MemoryMax"} <= set(unit)
    assert "network" not in " ".join(unit.get("After", []) + unit.get("Wants", []) + unit.get("Requires", []))
    drain_max = next(field for field in config_fields("stop") if field.name == "drain_s").meta.le
    assert drain_max is not None
    assert float(unit["TimeoutStopSec"][0]) > drain_max
    newer = directives(ROOT / "systemd/systemd-254.conf")
    assert (newer["Type"], newer["ExecReload"]) == (["notify-reload"], [""])


def config_fields(section: str) -> list[config.fields.Field]:
    found = next(field for field in config.fields.of(config.Config) if field.name == section)
    kind = config.fields.section_of(found)
    assert kind is not None
    return list(config.fields.of(kind))
