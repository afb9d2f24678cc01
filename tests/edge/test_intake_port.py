"""The loopback port: which hosts, pages and applications may use it, and for what."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pisyncd.config import Intake
from pisyncd.core import wire
from pisyncd.core.errors import ConfigError
from pisyncd.gateway import tokens

from .gateway_rig import Rig, gateway
from .intake_rig import NAMED, App, event, new_id, waiting

PAGE = "http://learn.example.org"
TRACK = {"eventType": "opened"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def rig(tmp_path: Path, port: int) -> AsyncIterator[Rig]:
    """Pages only."""
    async with gateway(tmp_path, intake=Intake(port=port, origins=(PAGE, "http://localhost:3000"))) as made:
        yield made


@pytest.fixture
async def page(rig: Rig, port: int) -> AsyncIterator[App]:
    async with App(rig, port=port, headers={"Origin": PAGE}) as made:
        yield made


async def test_an_allowed_page_speaks_as_to_the_cloud(rig: Rig, page: App) -> None:
    status, body, headers = await page.ask("POST", "/api/telemetry/track", TRACK)
    assert (status, body["success"]) == (200, True)
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert "Origin" in headers["Vary"]
    assert (await page.post("/v1/telemetry/events", {"events": [event()]}, **NAMED))[1]["accepted"] == 1
    made = await page.post("/v1/sessions", {"mode": "quiz", "question_ids": [new_id()]}, **NAMED)
    assert made[0] == 201
    assert (await page.ask("GET", "/api/telemetry/status"))[0] == 200
    assert len(await waiting(rig)) == 3
    status, problem, headers = await page.ask("POST", "/api/telemetry/track", b"{")
    assert (status, headers["Access-Control-Allow-Origin"]) == (400, PAGE), "a page can read why"
    assert problem["code"] == "malformed"


async def test_a_preflight_says_what_is_possible(page: App, rig: Rig, port: int) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type,pisync-user"}
    for path in ("/v1/telemetry/events", "/v1/sessions", "/api/telemetry/track"):
        status, _, headers = await page.ask("OPTIONS", path, **asked)
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, PAGE)
        assert "PiSync-User" in headers["Access-Control-Allow-Headers"]
        assert "POST" in headers["Access-Control-Allow-Methods"]
        assert int(headers["Access-Control-Max-Age"]) > 0
        assert "Access-Control-Allow-Private-Network" not in headers
    asked["Access_Control_Request_Private_Network"] = "true"
    headers = (await page.ask("OPTIONS", "/v1/telemetry/events", **asked))[2]
    assert headers["Access-Control-Allow-Private-Network"] == "true"
    async with App(rig, port=port, headers={"Origin": "http://evil.example"}) as evil:
        status, _, headers = await evil.ask("OPTIONS", "/v1/telemetry/events", **asked)
        assert status == 403
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "http://evil.example"}, "origin-not-allowed"),
        ({"Origin": "null"}, "origin-not-allowed"),
        ({"Origin": f"{PAGE}.evil.example"}, "origin-not-allowed"),
        ({"Origin": f"{PAGE}:81"}, "origin-not-allowed"),
        ({"Origin": PAGE.upper()}, "origin-not-allowed"),
        ({"Origin": PAGE, "Host": "evil.example"}, "host-not-allowed"),
        ({"Origin": PAGE, "Host": "evil.example:80"}, "host-not-allowed"),
        ({"Origin": PAGE, "Host": "127.0.0.1.evil.example"}, "host-not-allowed"),
        ({}, "unauthorized"),
        ({"Authorization": "Bearer anything"}, "unauthorized"),
    ],
)
async def test_who_may_not(rig: Rig, port: int, headers: dict[str, str], code: str) -> None:
    async with App(rig, port=port, headers=headers) as stranger:
        status, problem = await stranger.post("/api/telemetry/track", TRACK)
        assert (status, problem["code"]) == (401 if code == "unauthorized" else 403, code)
        assert problem["hint"] or code == "host-not-allowed"
    assert await waiting(rig) == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080"])
async def test_names_of_this_machine(page: App, host: str) -> None:
    assert (await page.post("/api/telemetry/track", TRACK, Host=host))[0] == 200


async def test_what_is_for_technicians_is_not_on_the_port(page: App) -> None:
    looks = ("/status", "/queue", "/why?path=/x", "/history", "/failures", "/healthz")
    asks = ("/sync", "/pause", "/resume", "/retry", "/probe")
    for method, path in (*(("GET", look) for look in looks), *(("POST", ask) for ask in asks)):
        assert (await page.ask(method, path))[0] == 404, path


async def test_a_beacon_carries_its_type_and_cookies_and_no_token(page: App) -> None:
    body = {"source": "web", "events": [event(user_id=new_id())]}
    status, answer, headers = await page.ask("POST", "/v1/telemetry/events", body, Cookie="a=b")
    assert (status, answer["accepted"], headers["Access-Control-Allow-Credentials"]) == (200, 1, "true")


async def test_the_client_is_for_every_program_but_not_for_every_page(rig: Rig, port: int, page: App) -> None:
    assert (await page.ask("GET", "/telemetry.js"))[0] == 200
    async with App(rig, port=port) as program:
        assert (await program.ask("GET", "/telemetry.js"))[0] == 200
    async with App(rig, port=port, headers={"Origin": "http://evil.example"}) as evil:
        assert (await evil.ask("GET", "/telemetry.js"))[0] == 403


async def test_with_a_tokens_file_everybody_needs_a_token(tmp_path: Path, port: int) -> None:
    file = tmp_path / "tokens"
    intake = Intake(port=port, origins=(PAGE,), tokens_file=file)
    async with gateway(tmp_path, intake=intake) as rig:
        async with App(rig, port=port) as program, App(rig, port=port, headers={"Origin": PAGE}) as page:
            status, problem, headers = await program.ask("POST", "/api/telemetry/track", TRACK)
            assert (status, problem["code"], headers["WWW-Authenticate"]) == (401, "unauthorized", "Bearer")
            token = tokens.add(file, "quiz", owner_like=tmp_path)
            bearer = {"Authorization": f"Bearer {token}"}
            for app in (program, page):
                assert (await app.post("/api/telemetry/track", TRACK))[0] == 401
                assert (await app.post("/api/telemetry/track", TRACK, **bearer))[0] == 200
                assert (await app.post("/api/telemetry/track", TRACK, Authorization=f"Bearer {token}x"))[0] == 401
                assert (await app.post("/api/telemetry/track", TRACK, Authorization=token))[0] == 401
            assert (await program.post(f"/api/telemetry/track?token={token}", TRACK))[0] == 401
            other = tokens.add(file, "reader", owner_like=tmp_path)
            again = tokens.add(file, "quiz", owner_like=tmp_path)
            assert (await program.post("/api/telemetry/track", TRACK, **bearer))[0] == 401, "it was replaced"
            for each in (other, again):
                assert (await program.post("/api/telemetry/track", TRACK, Authorization=f"bearer {each}"))[0] == 200
            file.chmod(0o644)
            assert (await program.post("/api/telemetry/track", TRACK, Authorization=f"Bearer {again}"))[0] == 401
            file.chmod(0o600)
            assert (await program.post("/api/telemetry/track", TRACK, Authorization=f"Bearer {again}"))[0] == 200
        async with App(rig) as beside:
            assert (await beside.post("/api/telemetry/track", TRACK))[0] == 200, "the socket asks for no token"


async def test_a_port_that_is_taken_stops_nothing_and_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        intake = Intake(port=taken.getsockname()[1], origins=(PAGE,))
        async with gateway(tmp_path, intake=intake) as rig, App(rig) as app:
            assert (await app.post("/api/telemetry/track", TRACK))[0] == 200
            status = (await app.ask("GET", "/status"))[1]
            assert status["verdict"] == "attention"
            assert f"port {intake.port} for browsers cannot be opened" in status["advice"][0]


async def test_the_port_is_on_the_loopback_interface_only(rig: Rig, port: int) -> None:
    listening = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
    mine = [line.split()[1] for line in listening.splitlines()[1:] if line.split()[1].endswith(f":{port:04X}")]
    assert {address.partition(":")[0] for address in mine if address} == {"0100007F"}


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_tokens_file_holds_tokens_or_their_hashes(tmp_path: Path) -> None:
    path = write(tmp_path / "t", f"# apps\n\nplain: {'p' * 16}\nhashed: {wire.token_hash('secret-of-hashed')}\n")
    known = tokens.Tokens(path)
    assert known.name_of("p" * 16) == "plain"
    assert known.name_of("secret-of-hashed") == "hashed"
    assert known.name_of(wire.token_hash("secret-of-hashed")) is None, "who read the file still has no token"
    assert known.name_of("") is None


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (f"a: {'p' * 16}\n", 0o644),
        (f"a: {'p' * 16}\n", 0o620),
        ("a: short\n", 0o600),
        ("just a line\n", 0o600),
        (f"a: {'p' * 16}\na: {'q' * 16}\n", 0o600),
        (f"a b: {'p' * 16}\n", 0o600),
    ],
)
def test_a_tokens_file_that_cannot_be_trusted(tmp_path: Path, text: str, mode: int) -> None:
    path = write(tmp_path / "t", text, mode)
    with pytest.raises(ConfigError) as caught:
        tokens.read(path)
    assert (caught.value.code, bool(caught.value.hint)) == ("tokens-invalid", True)
    assert tokens.Tokens(path).name_of("p" * 16) is None


def test_the_command_makes_a_token_and_keeps_its_hash_only(tmp_path: Path) -> None:
    file = tmp_path / "app-tokens"
    config = tmp_path / "pisyncd.yaml"
    text = "device_id: d\ncloud: {url: 'https://c.example.org'}\nwatch:\n  - path: /srv/learning\n"

    def run(name: str, intake: str) -> subprocess.CompletedProcess[str]:
        config.write_text(text + intake)
        command = [sys.executable, "-m", "pisyncd", "app-token", name, "--config", str(config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))

    said = run("quiz", f"intake: {{tokens_file: {file}, port: 8123}}\nstate_dir: {tmp_path}\n")
    assert said.returncode == 0, said.stderr
    token = said.stdout.strip()
    assert tokens.Tokens(file).name_of(token) == "quiz"
    assert token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    command = [sys.executable, "-m", "pisyncd", "check-config", "--config", str(config)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ)).stdout
    assert "for applications with a token: quiz" in checked
    assert run("bad name", f"intake: {{tokens_file: {file}}}\n").returncode == 78
    said = run("quiz", "")
    assert (said.returncode, "intake.tokens_file" in said.stderr) == (78, True)
