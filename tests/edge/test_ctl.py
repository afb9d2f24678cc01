"""pisyncctl as a person and as a script use it: a real process against a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pisyncd.ctl import commands, render
from pisyncd.gateway.ports import LinkView, RootView, TransferView
from pisyncd.outbox.books import Cycle

from .gateway_rig import Rig, gateway

COMMANDS = [
    "status",
    "queue",
    "why",
    "history",
    "failures",
    "retry",
    "sync",
    "records",
    "pause",
    "resume",
    "probe",
    "watch",
]
COMPLETION = Path(__file__).resolve().parents[2] / "config/pisyncctl.bash"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a run came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as made:
        yield made


async def ctl(target: Rig | Path, *arguments: str | bytes, cwd: Path | None = None) -> Said:
    """Runs pisyncctl."""
    path = target.socket if isinstance(target, Rig) else target
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pisyncd.ctl",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PISYNC_SOCKET": str(path), "COLUMNS": "80"},
        cwd=cwd,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Said(code=process.returncode, out=out.decode(), err=err.decode())


async def crowd(rig: Rig) -> None:
    """A device with something of everything, and with names that want to break the screen."""
    await rig.offer(b"big/" + b"long-directory-name/" * 8 + b"film.mp4", b"x" * 5000)
    moving = await rig.begin(b"big/" + b"long-directory-name/" * 8 + b"film.mp4")
    rig.memory.moving = [TransferView(id=moving, offset=1000, length=5000, rate_bps=123456.0)]
    await rig.offer(b"evil\x1b[2Jname\n.json")
    await rig.offer(b"caf\xe9.txt", priority=9)
    await rig.offer(b"refused.json")
    await rig.refuse(b"refused.json")
    await rig.offer(b"postponed.json")
    await rig.postpone(b"postponed.json", 7200)
    rig.memory.link_now = LinkView(
        state="limited",
        reason="the cloud did not answer within 10 s, and this explanation goes on for a while",
        hint="check DNS",
        backoff_s=600.0,
        backoff_reason="503 from the cloud",
        goodput_bps=100_000.0,
        probed_ago_s=0.0,
        proven_ago_s=4000.0,
    )
    rig.memory.root_views = [
        RootView(name="learning", path=str(rig.root), state="polling", detail="inotify limit", settling=3)
    ]
    for number in range(3):
        await rig.outbox.cycles.record(
            Cycle(
                outcome="partial",
                attempted=3,
                files_synced=number,
                errors=1,
                bytes_sent=10_000_000,
                speed_mbps=1.234,
                duration_ms=2500,
                error_code="cloud-busy",
            ),
            None,
        )


@pytest.mark.parametrize("command", ["status", "queue", "history", "failures", "watch"])
async def test_every_view_fits_80_columns_and_cannot_move_the_cursor(rig: Rig, command: str) -> None:
    await crowd(rig)
    said = await ctl(rig, command, *(["--count", "1"] if command == "watch" else []))
    assert said.err == ""
    assert said.out.strip()
    for line in said.out.splitlines():
        assert len(line) <= 80, line
        assert line.isprintable(), line


async def test_one_glance_says_state_debt_fault_and_remedy(rig: Rig) -> None:
    await crowd(rig)
    said = await ctl(rig, "status")
    assert said.code == 1
    first, second = said.out.splitlines()[:2]
    assert first == "pibox-0042  NEEDS ATTENTION"
    assert "the cloud does not answer" in second
    for words in (
        "pisyncctl failures",
        "sysctl",
        "check DNS",
        "20 %",
        "waiting",
        "inotify limit",
        "next try in 10 min",
    ):
        assert words in said.out


async def test_without_a_command_it_is_status(rig: Rig) -> None:
    said = await ctl(rig)
    assert (said.code, said.out.splitlines()[0]) == (0, "pibox-0042  OK")


async def test_exit_codes_of_status(rig: Rig) -> None:
    assert (await ctl(rig, "status")).code == 0
    await rig.offer(b"a")
    assert (await ctl(rig, "status")).code == 0
    rig.memory.is_paused = True
    assert (await ctl(rig, "status")).code == 75
    rig.memory.is_paused = False
    rig.memory.link_now = LinkView(state="none", reason="no interface")
    assert (await ctl(rig, "status")).code == 75
    rig.memory.link_now = LinkView(state="portal", reason="a stranger", portal_url="http://login.example/")
    said = await ctl(rig, "status")
    assert said.code == 1
    assert "http://login.example/" in said.out


async def test_json_is_the_daemons_answer_wherever_the_switch_stands(rig: Rig) -> None:
    await crowd(rig)
    for arguments in (("--json", "status"), ("status", "--json")):
        assert (await ctl(rig, *arguments)).json["device_id"] == "pibox-0042"
    assert (await ctl(rig, "queue", "--limit", "1", "--json")).json["files"][0]["state"] == "uploading"
    assert len((await ctl(rig, "history", "--json")).json["cycles"]) == 3
    assert (await ctl(rig, "failures", "--json")).json["total"] == 1
    assert (await ctl(rig, "why", "refused.json", "--json")).json["code"] == "failed"
    for command in ("retry", "sync", "pause", "resume"):
        assert (await ctl(rig, command, "--json")).json["done"]
    assert (await ctl(rig, "probe", "--json")).json["state"] == "limited"
    assert (await ctl(rig, "watch", "--count", "1", "--json")).json["verdict"] == "attention"


async def test_queue_says_what_is_first_and_where_more_is(rig: Rig) -> None:
    empty = await ctl(rig, "queue")
    assert (empty.code, "nothing" in empty.out) == (0, True)
    await rig.offer(b"second", priority=1)
    await rig.offer(b"first", priority=9)
    said = await ctl(rig, "queue", "--limit", "1")
    assert said.code == 75
    assert "learning/first" in said.out
    assert "--skip 1" in said.out
    assert "learning/second" in (await ctl(rig, "queue", "--skip", "1")).out


async def test_why_from_where_the_technician_stands(rig: Rig) -> None:
    await rig.offer(b"math/log.jsonl")
    said = await ctl(rig, "why", "log.jsonl", cwd=rig.root / "math")
    assert (said.code, "waits to be sent" in said.out) == (75, True)
    said = await ctl(rig, "why", "math/log.jsonl")
    assert "learning/math/log.jsonl waits" in said.out
    await rig.finish(b"math/log.jsonl")
    said = await ctl(rig, "why", str(rig.root / "math/log.jsonl"))
    assert (said.code, "is complete" in said.out) == (0, True)
    said = await ctl(rig, "why", "/etc/passwd")
    assert (said.code, "no watched root" in " ".join(said.out.split())) == (1, True)


async def test_names_that_are_not_utf8_can_be_asked_for_and_retried(rig: Rig) -> None:
    await rig.offer(b"caf\xe9.txt")
    await rig.refuse(b"caf\xe9.txt")
    said = await ctl(rig, "why", b"caf\xe9.txt", cwd=rig.root)
    assert (said.code, "caf\\xe9.txt is not sent" in said.out) == (1, True)
    said = await ctl(rig, "retry", os.fsencode(rig.root) + b"/caf\xe9.txt")
    assert (said.code, said.out) == (0, "1 file offered again\n")


async def test_failures_and_retry(rig: Rig) -> None:
    assert (await ctl(rig, "failures")).code == 0
    number = await rig.offer(b"bad")
    await rig.refuse(b"bad")
    said = await ctl(rig, "failures")
    assert said.code == 1
    assert "path-invalid" in said.out
    assert "Loss ledger" in said.out
    assert (await ctl(rig, "retry", str(number))).out == "1 file offered again\n"
    said = await ctl(rig, "retry", "4711")
    assert (said.code, said.out) == (1, "")
    assert "there is no file 4711" in said.err
    assert (await ctl(rig, "retry", "4711", "--json")).json["code"] == "file-unknown"


async def test_requests(rig: Rig) -> None:
    assert (await ctl(rig, "pause")).out == "sending is paused\n"
    assert rig.memory.is_paused
    assert (await ctl(rig, "resume")).code == 0
    assert not rig.memory.is_paused
    assert (await ctl(rig, "sync")).code == 0
    assert (await ctl(rig, "probe")).code == 0
    rig.memory.link_now = LinkView(state="none", reason="no interface", probed_ago_s=0.0)
    assert (await ctl(rig, "probe")).code == 75
    assert rig.memory.asked == ["sync", "probe", "probe"]


async def test_sync_can_wait_for_the_end_of_the_cycle(rig: Rig) -> None:
    waiting = asyncio.create_task(ctl(rig, "sync", "--wait", "60", "--json"))
    while "sync" not in rig.memory.asked:
        await asyncio.sleep(0)
    cycle = Cycle(
        outcome="success",
        attempted=0,
        files_synced=0,
        errors=0,
        bytes_sent=0,
        speed_mbps=None,
        duration_ms=1,
        error_code=None,
    )
    await rig.outbox.cycles.record(cycle, None)
    said = await waiting
    assert (said.code, said.json["cycles"][0]["outcome"]) == (0, "success")


async def test_a_daemon_that_does_not_run_is_69_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "pisyncd.sock"
    said = await ctl(path, "status")
    assert (said.code, said.out) == (69, "")
    assert "systemctl" in said.err
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    said = await ctl(path, "queue", "--json")
    assert (said.code, said.json["code"]) == (69, "not-running")
    assert (await ctl(path, "watch", "--count", "2", "--interval", "0.1")).code == 69


async def test_something_else_on_the_socket_is_69(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 smtp ready\r\n")
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        assert (await ctl(path, "status")).code == 69


async def test_a_daemon_that_fails_is_70(rig: Rig) -> None:
    await rig.outbox.db.reader.close()
    said = await ctl(rig, "queue")
    assert said.code == 70
    assert "journalctl" in said.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["why"], ["queue", "--limit", "x"], ["--socket"], ["watch", "-x"]])
async def test_a_wrong_command_line_is_2(tmp_path: Path, arguments: list[str]) -> None:
    said = await ctl(tmp_path / "none", *arguments)
    assert said.code == 2
    assert "usage: pisyncctl" in said.err


async def test_a_value_that_the_daemon_refuses_is_1(rig: Rig) -> None:
    said = await ctl(rig, "queue", "--limit", "0")
    assert said.code == 1
    assert "whole number from 1 to 500" in said.err


async def test_a_reader_that_had_enough_is_no_fault(rig: Rig) -> None:
    for number in range(300):
        await rig.offer(b"%d" % number)
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m pisyncd.ctl queue --limit 300 --json | head -1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PISYNC_SOCKET": str(rig.socket)},
    )
    out, err = await process.communicate()
    assert (out, err) == (b"{\n", b"")


@pytest.mark.parametrize(
    ("output", "code", "complaint"),
    [
        (">&-", 0, b""),
        (">&- 2>&-", 0, b""),
        ("> /dev/full", 1, b"pisyncctl: the answer cannot be written: No space left on device\n"),
        ("--json > /dev/full", 1, b"pisyncctl: the answer cannot be written: No space left on device\n"),
    ],
)
async def test_output_that_cannot_be_written_is_no_traceback(
    rig: Rig, output: str, code: int, complaint: bytes
) -> None:
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m pisyncd.ctl queue {output}",
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PISYNC_SOCKET": str(rig.socket)},
    )
    _, err = await process.communicate()
    assert (process.returncode, err) == (code, complaint)


@pytest.mark.parametrize("with_rich", [True, False])
async def test_watch_draws_on_a_terminal_and_gives_it_back(rig: Rig, with_rich: bool) -> None:
    if with_rich:
        pytest.importorskip("rich")
    await crowd(rig)
    leader, follower = pty.openpty()
    blocked = "" if with_rich else "import sys; sys.modules['rich'] = None; "
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        blocked + "import sys; from pisyncd.ctl import main; sys.exit(main(['watch', '--count', '1']))",
        stdout=follower,
        env={**os.environ, "PISYNC_SOCKET": str(rig.socket), "TERM": "xterm", "COLUMNS": "80", "LINES": "40"},
    )
    os.close(follower)
    drawn = await asyncio.to_thread(_read_all, leader)
    assert await process.wait() == 0
    assert "NEEDS ATTENTION" in drawn
    assert "\x1b[?1049h" in drawn
    assert "\x1b[?1049l" in drawn


def _read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode("utf-8", "replace")


async def test_it_starts_without_the_daemons_libraries() -> None:
    program = (
        "import sys, pisyncd.ctl; "
        "heavy = {'aiohttp', 'asyncio', 'msgspec', 'structlog', 'yaml', 'rich', 'sqlite3', 'logging'}; "
        "print(sorted(set(sys.modules) & heavy))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["--help"])
    text = capsys.readouterr().out
    for word in (*COMMANDS, "69", "70", "75"):
        assert f" {word} " in text


async def test_bash_completes_every_command(rig: Rig) -> None:
    script = f"""
        source {COMPLETION}
        COMP_WORDS=(pisyncctl ""); COMP_CWORD=1; _pisyncctl; printf '%s\\n' "${{COMPREPLY[@]}}"
        echo --
        COMP_WORDS=(pisyncctl re); COMP_CWORD=1; _pisyncctl; printf '%s\\n' "${{COMPREPLY[@]}}"
        echo --
        COMP_WORDS=(pisyncctl queue --); COMP_CWORD=2; _pisyncctl; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    process = await asyncio.create_subprocess_exec("bash", "-c", script, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    everything, some, options = (set(part.split()) for part in out.decode().split("--\n", 2))
    assert set(COMMANDS) <= everything
    assert some == {"retry", "records", "resume"}
    assert {"--json", "--socket", "--limit", "--skip"} <= options


@pytest.mark.parametrize(
    ("share", "expected"), [(0, "[........]"), (0.5, "[####....]"), (1, "[########]"), (7, "[########]")]
)
def test_a_bar_stays_in_its_frame(share: float, expected: str) -> None:
    assert render.bar(share, 10) == expected


def test_text_from_a_disk_cannot_speak_to_the_terminal() -> None:
    assert render.plain("a\x1b[2J\n\u202e\ud800b") == "a\\x1b[2J\\n\\u202e\\ud800b"


async def test_when_records_were_fetched_is_told_as_other_times_are(rig: Rig) -> None:
    answer = (await ctl(rig, "status", "--json")).json
    answer["records"].update(count=3, pulled_at="2026-03-02T08:00:04.120Z")
    assert "Records   3, 0 waiting, fetched 2026-03-02 08:00:04" in render.status(answer, 80)


async def test_a_transfer_shows_its_pace_while_online(rig: Rig) -> None:
    await rig.offer(b"film.mp4", b"x" * 5000)
    rig.memory.moving = [TransferView(id=await rig.begin(b"film.mp4"), offset=1000, length=5000, rate_bps=100.0)]
    said = await ctl(rig, "status")
    assert "20 %  1.0 KB of 5.0 KB, 100 B/s, 40 s left" in said.out
