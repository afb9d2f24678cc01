"""A device lets itself in: by a code that a technician types, or by the key on a prepared card and a person's yes."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeDevice
from rig import judge, trees
from rig.cloud import Cloud
from rig.device import Device
from rig.process import BIN
from rig.wait import until


def enroll(device: Device, *more: str) -> tuple[int, dict[str, Any]]:
    """(exit code, what it said) of `pisyncctl enroll`."""
    command = [str(BIN / "pisyncctl"), "enroll", "--json", "--config", str(device.config), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    told = done.stdout.strip() or done.stderr.strip()
    return done.returncode, json.loads(told) if told.startswith("{") else {"text": told}


def stranger(device: Device, name: str) -> Device:
    """The same device, with a name that the cloud has never heard of and without a token."""
    device.device_id = name
    device._token_file.unlink()
    device.write_config()
    return device


def test_a_code_lets_a_device_in_once(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = stranger(make_device(shared_cloud), "by-code-1")
    code = shared_cloud._secret("code")
    assert enroll(device, "--code", "AAAA-AAAA-AAAA")[0] == 1
    exit_code, told = enroll(device, "--code", code)
    assert (exit_code, told.get("state")) == (0, "accepted"), told
    assert sorted(path.name for path in device.root.glob("token*")) == ["token"]
    assert (device.root / "token").stat().st_mode & 0o777 == 0o600
    trees.write(judge.learning(device), {b"notes.txt": b"first"})
    assert device.once() == 0
    assert b"learning/notes.txt" in shared_cloud.files("by-code-1")
    other = stranger(make_device(shared_cloud), "by-code-2")
    exit_code, told = enroll(other, "--code", code)
    assert (exit_code, told["code"]) == (1, "code-refused")


def test_an_answer_that_was_lost_is_asked_for_again(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = stranger(make_device(shared_cloud), "by-code-lost")
    code = shared_cloud._secret("code")
    assert enroll(device, "--code", code)[0] == 0
    # As after a cut between the cloud's answer and the rename.
    (device.root / "token").rename(device.root / "token.new")
    assert enroll(device, "--code", code)[0] == 0
    assert (device.root / "token").exists()


def test_a_prepared_card_captures_waits_and_goes_on(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud, settings={"settle": {"debounce_s": 0.1}, "probe": {"interval_s": 1}})
    key = shared_cloud._secret("fleet-key", "create", "cards")
    (device.root / "fleet-key").write_text(key + "\n")
    device.settings["cloud"] = {"fleet_key_file": str(device.root / "fleet-key")}
    stranger(device, "card-1")
    device.start()
    trees.write(judge.learning(device), {b"notes.txt": b"first"})
    until("the card waits", lambda: "waits until somebody" in " ".join(device.status()["advice"]))
    until("the file is captured", lambda: device.status()["queue"]["files"]["count"] == 1)
    operator = shared_cloud.key("accepting", "operator")
    assert shared_cloud.ask("POST", "/api/devices/card-1/accept", key=operator).status == 200
    device.kill()
    device.start()
    until("the file arrives", lambda: b"learning/notes.txt" in shared_cloud.files("card-1"))
    until("nothing is wrong any more", lambda: not device.status()["advice"])
    assert device.stop() == 0


@contextmanager
def portal() -> Iterator[str]:
    """A page that answers everything with 200."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>log in</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_what_goes_wrong_says_what_to_do(shared_cloud: Cloud, make_device: MakeDevice, tmp_path: Path) -> None:
    device = stranger(make_device(shared_cloud), "nowhere-1")
    assert enroll(device)[0] == 2
    assert enroll(device, "--code", "x", "--fleet-key-file", "/nowhere")[0] == 2
    exit_code, told = enroll(device, "--fleet-key-file", str(tmp_path / "gone"))
    assert (exit_code, told["code"]) == (78, "fleet-key-missing")
    device.url = "http://127.0.0.1:9"
    device.write_config()
    exit_code, told = enroll(device, "--code", "AAAA-AAAA-AAAA")
    assert (exit_code, bool(told["hint"])) == (75, True)
    with portal() as url:
        device.url = url
        device.write_config()
        exit_code, told = enroll(device, "--code", "AAAA-AAAA-AAAA")
    assert (exit_code, told["code"]) == (75, "portal")
    assert (device.root / "token.new").exists(), "the token is kept for the next time"
    exit_code, told = enroll(device, "--code", "AAAA", "--token-file", "/proc/nowhere/token")
    assert (exit_code, told["code"]) == (1, "token-file-unwritable")


@pytest.mark.parametrize("torn", [b"", b"\xff\xff"])
def test_a_torn_attempt_begins_anew(shared_cloud: Cloud, make_device: MakeDevice, torn: bytes) -> None:
    device = stranger(make_device(shared_cloud), f"torn-{len(torn)}")
    (device.root / "token.new").write_bytes(torn)
    assert enroll(device, "--code", shared_cloud._secret("code"))[0] == 0
    assert (device.root / "token").read_text().startswith("pisync_device_")
