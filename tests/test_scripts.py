"""The scripts that a person types: what they make, what they refuse, and what they say then."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "scripts" / "sample_tree"
QUICK_SAMPLE = ["--video-mb", "2", "--sessions", "4", "--learners", "6", "--images", "2"]


def _run(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 240, "check": False, **more}
    return subprocess.run([str(word) for word in words], **settings)  # type: ignore[call-overload,no-any-return]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- setup ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A checkout's worth of what scripts/setup reads, without a .venv."""
    place = tmp_path / "a checkout"
    (place / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", place / "scripts")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, place)
    return place


def _fake_python(place: Path, *failing: str) -> Path:
    """A Python that cannot do what is named, as on a fresh Debian."""
    script = place / "python3"
    cases = "\n".join(f'  *"{words}"*) exit 1 ;;' for words in failing)
    script.write_text(f'#!/bin/bash\ncase "$*" in\n{cases}\nesac\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


def test_setup_does_nothing_twice() -> None:
    again = _run(ROOT / "scripts/setup")
    assert again.returncode == 0, again.stderr
    assert "installing" not in again.stderr


def test_setup_says_what_a_debian_without_venv_needs(elsewhere: Path) -> None:
    python = _fake_python(elsewhere, "import ensurepip", "-m pip", "-m virtualenv")
    done = _run(elsewhere / "scripts/setup", env={**os.environ, "PISYNC_PYTHON": str(python)})
    assert done.returncode == 1
    assert "sudo apt-get install python3-venv" in done.stderr
    assert not (elsewhere / ".venv").exists()


def test_setup_refuses_an_old_python(elsewhere: Path) -> None:
    python = _fake_python(elsewhere, "sys.version_info")
    done = _run(elsewhere / "scripts/setup", env={**os.environ, "PISYNC_PYTHON": str(python)})
    assert done.returncode == 1
    assert "3.11 or newer" in done.stderr


def test_setup_explains_itself() -> None:
    done = _run(ROOT / "scripts/setup", "--help")
    assert done.returncode == 0
    assert "--renew-lock" in done.stdout


@pytest.mark.parametrize("script", ["setup", "test", "check", "demo"])
def test_shell_scripts_parse(script: str) -> None:
    assert _run("bash", "-n", ROOT / "scripts" / script).returncode == 0
    assert os.access(ROOT / "scripts" / script, os.X_OK)


# --- sample_tree ------------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert _run(sys.executable, SAMPLE, tmp_path / name, "--seed", seed, *QUICK_SAMPLE).returncode == 0
    first = _contents(tmp_path / "a")
    assert first == _contents(tmp_path / "b")
    assert first != _contents(tmp_path / "c")


def test_the_sample_is_what_it_seems(tmp_path: Path) -> None:
    _run(sys.executable, SAMPLE, tmp_path / "tree", *QUICK_SAMPLE)
    tree = _contents(tmp_path / "tree")
    statements = [
        json.loads(line) for name, data in tree.items() if name.endswith(".jsonl") for line in data.splitlines()
    ]
    assert {"actor", "verb", "object", "timestamp"} <= statements[0].keys()
    picture = tree["pictures/drawing-00.png"]
    at = picture.index(b"IDAT")
    length = int.from_bytes(picture[at - 4 : at], "big")
    assert len(zlib.decompress(picture[at + 4 : at + 4 + length])) == 200 * (1 + 3 * 320)
    assert len(tree["video/lesson-01.mp4"]) == 2 << 20
    assert b"" in tree.values()


def test_the_sample_leaves_a_folder_with_files_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = _run(sys.executable, SAMPLE, tmp_path)
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert _contents(tmp_path) == {"mine": b"mine"}


def test_the_writer_ends_with_whole_rows(tmp_path: Path) -> None:
    _run(sys.executable, SAMPLE, tmp_path / "tree", *QUICK_SAMPLE)
    database = tmp_path / "tree/database/learning.db"
    command = [sys.executable, str(SAMPLE), "--keep-writing", str(database), "--every", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        while _rows(database) < 5010:
            threading.Event().wait(0.02)
        writer.send_signal(signal.SIGTERM)
        said, _ = writer.communicate(timeout=30)
    assert writer.returncode == 0
    assert f"{_rows(database) - 5000} rows added" in said


def _rows(database: Path) -> int:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        count: int = connection.execute("SELECT count(*) FROM answer").fetchone()[0]
    finally:
        connection.close()
    return count


# --- demo -------------------------------------------------------------------------------------------------------------


def _bar(width: int, **now: object) -> str:
    """What the demonstration's progress module draws; it is run where its siblings are found."""
    program = (
        "import sys, json, progress\n"
        "print(progress.line(progress.Progress(**json.loads(sys.argv[1])), int(sys.argv[2])))"
    )
    state = {"files": 3, "bytes": 1000, "owed_files": 1, "owed_bytes": 1, "rate_bps": 5e5, "now": "a.jsonl", **now}
    done = _run(sys.executable, "-c", program, json.dumps(state), width, cwd=ROOT / "scripts/demonstration")
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def test_the_bar_says_100_percent_only_at_the_end() -> None:
    assert _bar(120) == "[####################]  99% 2/3 files 999 B/1.0 KB 500 KB/s a.jsonl"
    assert _bar(120, owed_files=0, owed_bytes=0, now="").startswith("[####################] 100% 3/3 files")


@pytest.mark.parametrize("width", [20, 39, 60, 79])
def test_the_bar_fits_its_line(width: int) -> None:
    assert len(_bar(width, now="x" * 28)) <= width


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/no/such/folder"], "cannot watch /no/such/folder: No such file or directory"),
        ([__file__], "is not a folder"),
        (["--port", "0"], "a port is a number from 1 to 65535"),
        ([str(ROOT / ".demo")], "keeps its own data"),
    ],
)
def test_demo_refuses_what_it_cannot_show(words: list[str], said: str) -> None:
    (ROOT / ".demo").mkdir(exist_ok=True)
    done = _run(ROOT / "scripts/demo", *words, "--once")
    assert done.returncode == 2
    assert said in done.stderr


@pytest.fixture
def odd_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder as people have them, some of it on purpose hard to send."""
    folder = tmp_path / "Ordner mit [Klammern] & 'Zitat'"
    _run(sys.executable, SAMPLE, folder, *QUICK_SAMPLE)
    raw = os.fsencode(folder)
    for name in (b"not utf-8 \xff\xfe", b"new\nline", b"x" * 255, b" leading space", b"100% #?&.txt", b".hidden"):
        with open(os.path.join(raw, name), "wb") as file:
            file.write(name * 3)
    (folder / "link to nowhere").symlink_to("nowhere")
    (folder / "link to etc").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    (folder / "empty folder").mkdir()
    yield folder


def test_demo_delivers_an_odd_folder_and_leaves_it_as_it_was(odd_folder: Path) -> None:
    before = _listing(odd_folder)
    done = _run(ROOT / "scripts/demo", odd_folder, "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DELIVERED" in done.stdout
    assert "0 wrong" in done.stdout
    assert _listing(odd_folder) == before


def test_demo_fails_when_a_file_cannot_be_delivered(tmp_path: Path) -> None:
    (tmp_path / "open.txt").write_text("open")
    (tmp_path / "closed.txt").write_text("closed")
    (tmp_path / "closed.txt").chmod(0)
    # Root reads everything unless the right to do so is taken away.
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = _run(*powerless, ROOT / "scripts/demo", tmp_path, "--once")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT DELIVERED: 1 files or folders cannot be read" in done.stdout
    assert "closed.txt: source-unreadable" in done.stdout


def _listing(folder: Path) -> dict[bytes, tuple[int, int, int]]:
    found = {}
    for base, folders, files in os.walk(os.fsencode(folder)):
        for name in [*folders, *files]:
            seen = os.lstat(path := os.path.join(base, name))
            found[path] = (seen.st_mode, seen.st_size, seen.st_mtime_ns)
    return found


def test_demo_says_so_when_its_port_is_taken(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = _run(ROOT / "scripts/demo", tmp_path, "--once", "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert "is in use" in done.stderr


def test_demo_stops_everything_on_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    command = [str(ROOT / "scripts/demo"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        said = []
        for line in demo.stdout:
            said.append(line)
            if "everything is delivered" in line:
                break
        assert _children(demo.pid), "".join(said)
        children = _children(demo.pid)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 0, errors
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()]
