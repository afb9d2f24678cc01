"""What README.md says is so: its tables follow the code, its files exist, its commands work as they stand."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from pisyncd.core import transfer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _section(title: str) -> str:
    """The text below a heading, up to the next heading of the same or a higher level."""
    found = re.search(rf"^(#+) {re.escape(title)}$", README, re.MULTILINE)
    assert found, f"README.md has no section {title!r}"
    rest = README[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def _rows(section: str) -> list[list[str]]:
    """The cells of every table row of a section, without heads."""
    lines = [line.strip().strip("|") for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    rules = [index for index, row in enumerate(cells) if all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    heads = {index - 1 for index in rules} | set(rules)
    return [row for index, row in enumerate(cells) if index not in heads]


def test_the_upload_states_are_those_of_the_code() -> None:
    told = {(row[0].strip("`"), row[1]): row[2].strip("`") for row in _rows(_section("Upload states"))}
    assert told == {(state, event): after for (state, event), after in transfer.TRANSITIONS.items()}


def test_the_invariants_name_files_and_tests_that_exist() -> None:
    rows = _rows(_section("Invariants"))
    assert len(rows) >= 11
    for what, held_by, proven_by in rows:
        for cell, needed in ((held_by, "held by"), (proven_by, "proven by")):
            named = re.findall(r"`([^`]+)`", cell)
            assert named, f"{what}: nothing is named under {needed}"
            for path in named:
                assert (ROOT / path).exists(), f"{what}: {path} does not exist"


def test_the_code_map_names_what_exists() -> None:
    block = re.search(r"```\n(.*?)```", _section("Code map"), re.DOTALL)
    assert block
    folders: list[tuple[int, Path]] = []
    for line in filter(str.strip, block[1].splitlines()):
        indent = len(line) - len(line.lstrip())
        names = line.strip().split("  ")[0].split()
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        base = folders[-1][1] if folders else ROOT
        for name in names:
            assert (base / name).exists(), f"{line.strip()!r}: {(base / name).relative_to(ROOT)} does not exist"
        if names[0].endswith("/"):
            folders.append((indent, base / names[0]))


def test_every_package_is_in_the_code_map() -> None:
    told = _section("Code map")
    for package in ("pisyncd", "cloud"):
        for init in (ROOT / package).glob("*/__init__.py"):
            assert f"{init.parent.name}/" in told, f"{package}/{init.parent.name}/ is not in the code map"


def test_links_lead_somewhere() -> None:
    for text in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (text.parent / target).exists(), f"{text.relative_to(ROOT)}: {target}"


def test_scripts_in_the_readme_exist() -> None:
    for name in set(re.findall(r"\bscripts/([\w-]+)", README)):
        assert (ROOT / "scripts" / name).exists(), f"scripts/{name}"


def _run(text: str) -> subprocess.CompletedProcess[str]:
    """The commands of a text, one after the other, in a shell that stops at the first that fails."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # What was started must not outlive a command that failed.
    script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + "\necho\n".join(blocks)
    environment = {**os.environ, "PORT": str(port)}
    return subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def by_curl() -> subprocess.CompletedProcess[str]:
    return _run(_section("The wire, by curl"))


def test_the_commands_of_the_wire_work(by_curl: subprocess.CompletedProcess[str]) -> None:
    assert by_curl.returncode == 0, by_curl.stdout + by_curl.stderr


@pytest.mark.parametrize(
    "said",
    [
        r"(?im)^Upload-Offset: 10\r?$",
        r"(?im)^Upload-State: published\r?$",
        r'"sync_status": ?"success"',
        r'"receivedThrough": ?\{"event": ?1\}',
        r'"changes": ?\[\{"type": ?"enrollment", ?"id": ?"e-1"',
    ],
)
def test_the_wire_answers_as_told(by_curl: subprocess.CompletedProcess[str], said: str) -> None:
    assert re.search(said, by_curl.stdout), by_curl.stdout


def test_the_proof_is_what_openssl_computes(by_curl: subprocess.CompletedProcess[str]) -> None:
    proof = re.search(r'"proof": ?"([0-9a-f]{64})"', by_curl.stdout)
    assert proof
    assert f"= {proof[1]}" in by_curl.stdout


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("records.md", [r'"code": ?"version-mismatch"', r'"resolved_by": ?"key:desk"', r"was kept over"]),
        (
            "webhooks.md",
            [r'"delivered": ?true', r'"received": ?true', r'"type": ?"profile.created"', r'"healthy": ?true'],
        ),
    ],
)
def test_the_commands_of_the_documents_work(page: str, said: list[str]) -> None:
    done = _run((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert done.returncode == 0, done.stdout + done.stderr
    for each in said:
        assert re.search(each, done.stdout), (each, done.stdout)
