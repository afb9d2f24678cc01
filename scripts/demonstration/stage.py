"""The processes of the demonstration and the folder they live in."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
RUNS = ROOT / ".demo"
DEVICE_ID = "demo"
START_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
PORT_TRIES = 5
PR_SET_PDEATHSIG = 1
FOREIGN = (
    *("SYNC_", "PISYNC_", "MAX_RETRIES", "RETRY_DELAY_MS", "MAX_QUEUE_SIZE", "BATCH_TIMEOUT", "VERBOSITY"),
    *("ENABLE_SCHEDULED_SYNC", "NOTIFY_SOCKET", "WATCHDOG_", "CREDENTIALS_DIRECTORY", "PYTHON"),
    *("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"),
)


class Trouble(Exception):
    """The demonstration cannot go on; the message says why and what to do."""


def clean_environment() -> dict[str, str]:
    """Ours, without what would change the settings of the demonstration's own processes."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


def _follow_parent() -> None:
    """Ends the child when the demonstration dies without a chance to stop it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """One child with its log; it may be started again after its end."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the demonstration alone, which then stops the others in order.
            self._popen = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(),
                cwd="/",
                start_new_session=True,
                preexec_fn=_follow_parent,
            )

    @property
    def pid(self) -> int | None:
        return self._popen.pid if self._popen else None

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll() if self._popen else None

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def wait(self) -> int | None:
        """Waits for its own end; its exit code."""
        return self._popen.wait() if self._popen else None

    def signal(self, number: signal.Signals) -> None:
        if self._popen and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(number)

    def stop(self) -> int | None:
        """Asks it to end, then insists; its exit code."""
        if self._popen is None:
            return None
        self.signal(signal.SIGTERM)
        try:
            return self._popen.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int | None:
        self.signal(signal.SIGKILL)
        return self._popen.wait() if self._popen else None

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])
        return ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folders of one run. `runtime` is apart and short: a Unix socket's path has room for 107 bytes."""

    base: Path
    runtime: Path

    @property
    def socket(self) -> Path:
        return self.runtime / "pisyncd.sock"


@contextlib.contextmanager
def place(*, keep: bool) -> Iterator[Place]:
    """A fresh folder below .demo, removed at the end unless `keep`; removes what killed runs left behind."""
    try:
        RUNS.mkdir(exist_ok=True)
        _remove_left_overs()
        base = Path(tempfile.mkdtemp(prefix="run-", dir=RUNS))
    except OSError as error:
        raise Trouble(f"cannot make a folder in {RUNS}: {error.strerror}") from error
    runtime = Path(tempfile.mkdtemp(prefix="pisync-"))
    lock = (base / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    if keep:
        (base / "kept").touch()
    try:
        yield Place(base=base, runtime=runtime)
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
        if not keep:
            shutil.rmtree(base, ignore_errors=True)
        lock.close()


def _remove_left_overs() -> None:
    for old in RUNS.glob("run-*"):
        lock: TextIO
        with contextlib.suppress(OSError), (old / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (old / "kept").exists():
                shutil.rmtree(old, ignore_errors=True)


class Stage:
    """Cloud and device of one run."""

    def __init__(self, at: Place) -> None:
        self.at = at
        self.port = 0
        self.token = ""
        self.viewer_key = ""
        self._data = at.base / "cloud"
        self._config = at.base / "pisyncd.yaml"
        self.cloud = Process("pisync-cloud", [], at.base / "cloud.log")
        device = [str(BIN / "pisyncd"), "run", "--config", str(self._config)]
        self.device = Process("pisyncd", device, at.base / "pisyncd.log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_cloud(self, port: int | None) -> None:
        """Starts the service on `port`, or on a free one. Raises Trouble."""
        if port is not None and not _is_free(port):
            raise Trouble(f"port {port} is in use; name another with --port, or leave --port out to take a free one")
        for _ in range(PORT_TRIES):
            self.port = port or _free_port()
            self.cloud = Process("pisync-cloud", self._serve(), self.at.base / "cloud.log")
            self.cloud.start()
            if self._becomes_ready(self.cloud, self._cloud_answers):
                return
            # Another process may have taken the free port in between; a named port is the user's to choose.
            if port is not None or _is_free(self.port):
                break
        self.cloud.stop()
        raise Trouble(f"the cloud did not start:\n{self.cloud.tail()}")

    def _serve(self) -> list[str]:
        return [
            *(str(BIN / "pisync-cloud"), "serve", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--data", str(self._data), "--open-dashboard"),
        ]

    def _cloud_answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _becomes_ready(self, process: Process, look: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + START_WITHIN_S
        while process.running and time.monotonic() < deadline:
            if look():
                return process.running
            time.sleep(0.05)
        return False

    def enroll(self) -> None:
        """Gives the device its token and the demonstration a key to read with."""
        self.token = self._secret("enroll", DEVICE_ID)
        self.viewer_key = self._secret("key", "create", "demo", "--role", "viewer")

    def _secret(self, *words: str) -> str:
        command = [str(BIN / "pisync-cloud"), *words, "--data", str(self._data)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env=clean_environment(), cwd="/"
        )
        if done.returncode != 0 or not done.stdout.strip():
            raise Trouble(f"`pisync-cloud {' '.join(words)}` failed:\n{done.stdout}{done.stderr}")
        return done.stdout.strip().splitlines()[-1]

    def configure(self, *, watched: Path, name: str, url: str, exclude: list[str]) -> None:
        """Writes the device's configuration. JSON is YAML, with every odd character of a path escaped."""
        token_file = self.at.base / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(self.token)
        settings = {
            "device_id": DEVICE_ID,
            "state_dir": str(self.at.base / "device"),
            "runtime_dir": str(self.at.runtime),
            "cloud": {"url": url, "token_file": str(token_file)},
            "watch": [{"path": str(watched), "name": name, "exclude": exclude}],
            "settle": {"debounce_s": 0.5, "force_s": 5},
            "sync": {"interval_s": 60, "retry_delay_s": 1},
            "backoff": {"base_s": 0.5, "cap_s": 5},
            "probe": {"interval_s": 5},
        }
        self._config.write_text(json.dumps(settings, indent=2, ensure_ascii=False), "utf-8")

    def start_device(self) -> None:
        """Starts pisyncd and waits for its socket. Raises Trouble."""
        self.device.start()
        if not self._becomes_ready(self.device, lambda: self.ask("GET", "/status") is not None):
            self.device.stop()
            raise Trouble(f"pisyncd did not start:\n{self.device.tail()}")

    def ask(self, method: str, path: str) -> dict[str, Any] | None:
        """What the status socket answers, None while it does not."""
        connection = _UnixConnection(self.at.socket)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            whole = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return whole if answer.status < 400 and isinstance(whole, dict) else None

    def stop(self) -> bool:
        """Stops the device, then the cloud; whether both ended in good order."""
        try:
            codes = [process.stop() for process in (self.device, self.cloud)]
        except KeyboardInterrupt:
            codes = [process.kill() for process in (self.device, self.cloud)]
        return all(code in (0, None) for code in codes)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port that only waits out its last connections is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
