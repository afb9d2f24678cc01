"""Real processes: killed, sharing a queue, ending, forking."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .rig import ROOT, SESSION, Client, Server, program, web

CAPTURING = """
import sys
from pisyncd.client.blocking import TelemetryClient
path, socket, session, count, flush = sys.argv[1:6]
client = TelemetryClient(path=path, socket=socket, session_id=session, flush_count=int(flush), exit_s=30)
client.initialize()
for n in range(int(count)):
    print(client.capture_event("QUESTION_VIEWED", {"position": n}), flush=True)
"""


def _lines(process: subprocess.Popen[str], count: int | None = None) -> list[str]:
    assert process.stdout is not None
    return [line.strip() for line in itertools.islice(process.stdout, count)]


def _ended(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and not err, err
    return out.split()


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_an_event_survives_the_kill_of_its_application(
    server: Server, client: Client, tmp_path: Path, count: int
) -> None:
    process = program(CAPTURING, str(tmp_path / "queue.db"), str(server.path), SESSION, "100000", "10")
    captured = _lines(process, count)
    process.kill()
    process.wait()
    captured += _lines(process)
    server.start()
    recorder = client()
    assert recorder.sync()["ok"]
    # One more may be on disk that the dead process had no time to tell of.
    assert server.ids[: len(captured)] == captured and len(server.ids) <= len(captured) + 1
    assert [event["seq"] for event in server.events] == list(range(1, len(server.ids) + 1))
    status = recorder.get_status()
    assert status["captured"] == status["sent"] == len(server.ids)


def test_a_killed_sender_leaves_its_turn_to_the_next(server: Server, client: Client, tmp_path: Path) -> None:
    came, go_on = threading.Event(), threading.Event()

    def held(asked: object) -> web.Response | None:
        came.set()
        assert go_on.wait(60)
        return None

    server.answering = held
    server.start()
    process = program(CAPTURING, str(tmp_path / "queue.db"), str(server.path), SESSION, "3", "1")
    captured = _lines(process, 3)
    assert came.wait(60)
    process.kill()
    process.wait()
    go_on.set()
    server.answering = lambda asked: None
    recorder = client()
    assert recorder.sync()["ok"] and set(server.ids) == set(captured)
    assert recorder.get_status()["pending"] == 0


def test_processes_share_a_queue_and_send_each_event_once(server: Server, tmp_path: Path) -> None:
    server.start()
    arguments = (str(tmp_path / "queue.db"), str(server.path), SESSION, "150", "10")
    processes = [program(CAPTURING, *arguments) for _ in range(3)]
    captured = [event_id for process in processes for event_id in _ended(process)]
    assert len(captured) == 450
    assert sorted(server.ids) == sorted(captured)
    assert sorted(event["seq"] for event in server.events) == list(range(1, 451))


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise SystemExit"])
def test_the_end_of_a_program_sends_what_waits(server: Server, tmp_path: Path, end: str) -> None:
    server.start()
    process = program(CAPTURING + end, str(tmp_path / "queue.db"), str(server.path), SESSION, "3", "1000")
    captured = _ended(process)
    assert server.ids == captured and len(captured) == 3


def test_the_end_of_a_program_waits_for_nobody_who_says_nothing(server: Server, client: Client, tmp_path: Path) -> None:
    go_on = threading.Event()

    def held(asked: object) -> web.Response | None:
        go_on.wait(60)
        return None

    server.answering = held
    server.start()
    code = CAPTURING.replace("exit_s=30", "exit_s=0.2")
    captured = _ended(program(code, str(tmp_path / "queue.db"), str(server.path), SESSION, "3", "1000"))
    server.answering = lambda asked: None
    go_on.set()
    assert client().sync()["ok"] and set(server.ids) == set(captured)


def test_an_event_captured_at_the_very_end_is_kept(server: Server, client: Client, tmp_path: Path) -> None:
    code = """
import atexit, sys
atexit.register(lambda: print(client.capture_event("page_turned")))
from pisyncd.client.blocking import TelemetryClient
client = TelemetryClient(path=sys.argv[1], socket=sys.argv[2])
"""
    captured = _ended(program(code, str(tmp_path / "queue.db"), str(server.path)))
    server.start()
    assert client().sync()["ok"] and server.ids == captured


FORKING = """
import os, sys, threading
from pisyncd.client.blocking import TelemetryClient
client = TelemetryClient(path=sys.argv[1], socket=sys.argv[2], session_id=sys.argv[3], flush_count=5, exit_s=30)
stop = threading.Event()
ids = []
def capture():
    while not stop.is_set():
        ids.append(client.capture_event("QUESTION_VIEWED", {"position": 1}))
thread = threading.Thread(target=capture)
thread.start()
reading, writing = os.pipe()
children = []
for n in range(10):
    pid = os.fork()
    if pid == 0:
        mine = [client.capture_event("ANSWER_SELECTED", {"n": n}) for _ in range(10)]
        status = client.get_status()
        os.write(writing, (" ".join(mine) + " " + ("memory " if status["queue"] == ":memory:" else "")).encode())
        # Half of them send themselves, half are gone at once.
        if n % 2:
            client.sync(30)
        while client.get_status()["unwritten"]:
            pass
        os._exit(0)
    children.append(pid)
codes = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
thread.join()
os.close(writing)
told = b"".join(iter(lambda: os.read(reading, 65536), b"")).decode()
client.sync(60)
assert codes == [0] * 10, codes
print(" ".join(ids), told)
"""


def test_a_fork_keeps_every_event_of_both_sides(server: Server, tmp_path: Path) -> None:
    server.start()
    captured = _ended(program(FORKING, str(tmp_path / "queue.db"), str(server.path), SESSION))
    assert "memory" not in captured and "None" not in captured and len(captured) > 100
    # A child that was gone in the middle of a request leaves its events to be sent again.
    assert set(server.ids) == set(captured) and len(set(captured)) == len(captured)
    with sqlite3.connect(tmp_path / "queue.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT pending, captured - sent FROM totals").fetchone() == (0, 0)
    db.close()


def test_a_child_of_multiprocessing_captures_too(server: Server, client: Client, tmp_path: Path) -> None:
    code = """
import multiprocessing, sys
from pisyncd.client.blocking import TelemetryClient
client = TelemetryClient(path=sys.argv[1], socket=sys.argv[2])
def work(queue):
    queue.put(client.capture_event("page_turned"))
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    first, queue = client.capture_event("page_turned"), context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(first, queue.get())
    process.join()
"""
    captured = _ended(program(code, str(tmp_path / "queue.db"), str(server.path)))
    server.start()
    assert client().sync()["ok"] and server.ids == captured


def test_a_stopped_process_that_holds_the_turn_is_waited_for_no_longer_than_asked(
    server: Server, client: Client, tmp_path: Path
) -> None:
    came, go_on = threading.Event(), threading.Event()

    def held(asked: object) -> web.Response | None:
        came.set()
        go_on.wait(60)
        return None

    server.answering = held
    server.start()
    process = program(CAPTURING, str(tmp_path / "queue.db"), str(server.path), SESSION, "1", "1")
    captured = _lines(process, 1)
    assert came.wait(60)
    process.send_signal(signal.SIGSTOP)
    recorder = client(user_id=None)
    result = recorder.submit(timeout_s=0.2)
    assert result["error"] and result["error"]["code"] == "still-sending"
    process.kill()
    process.wait()
    go_on.set()
    assert recorder.sync()["ok"] and set(server.ids) == set(captured)


def test_it_needs_the_standard_library_alone() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import pisyncd.client, pisyncd.client.blocking
wanted = ("initialize", "capture_event", "capture_events", "sync", "submit", "get_status", "on", "create_session")
for module in (pisyncd.client, pisyncd.client.blocking):
    assert all(hasattr(module.TelemetryClient, name) for name in wanted)
    for name in ("start", "stop", "trigger_sync", "get_status", "get_health", "on"):
        assert hasattr(module.SyncClient, name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}} - {{"__main__"}}))
print(*sorted(name for name in sys.modules if name.startswith("pisyncd.") and "client" not in name))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    tops, others = done.stdout.split("\n")[:2]
    assert set(tops.split()) - sys.stdlib_module_names == {"pisyncd"} and not others


def test_the_queue_is_the_applications_own(tmp_path: Path) -> None:
    code = """
from pisyncd.client.blocking import TelemetryClient
client = TelemetryClient(application="../My reader", socket="/nowhere")
client.capture_event("page_turned")
print(client.get_status()["queue"])
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    path = Path(process.stdout.strip())
    assert path == tmp_path / "pisync" / "My-reader.db"
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
