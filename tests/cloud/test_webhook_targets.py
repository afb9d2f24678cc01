"""Where webhooks go and where not, at the connection itself; and what else goes wrong there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from aiohttp import web
from webhook_rig import LOOPBACK, Receiver, Sending, receiving, sending, update

from cloud.flows import endpoints
from cloud.flows.endpoints import Actor
from cloud.rules import targets
from cloud.store import drivers
from pisyncd.core.problems import Refusal


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[Sending]:
    """Over SQLite, for what does not depend on the database."""
    async with drivers.opened(str(tmp_path / "lite.db")) as database, sending(database) as found:
        yield found


class TestTargets:
    async def test_a_redirect_is_a_failure_and_is_not_followed(self, lite: Sending, receiver: Receiver) -> None:
        async def redirect(_request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": receiver.url("/private")})

        receiver.behave["/x"] = redirect
        endpoint = await lite.endpoint(receiver.url("/x"))
        await lite.announce(update("u1", 1))
        await lite.turn()
        (row,) = await lite.log(endpoint)
        assert (row["state"], row["status_code"], row["error"]) == ("pending", 307, "redirect")
        assert receiver.at("/private") == []

    async def test_a_name_that_changes_after_the_check_leads_nowhere(self, lite: Sending, receiver: Receiver) -> None:
        addresses = ["93.184.216.34"]
        asked: list[str] = []

        async def lookup(host: str) -> Sequence[str]:
            asked.append(host)
            return list(addresses)

        port = receiver.base.rpartition(":")[2]
        async with sending(lite.db, allow=(), lookup=lookup) as out:
            endpoint = await out.endpoint(f"https://hooks.example:{port}/x")
            addresses[:] = ["127.0.0.1", "::1", "10.0.0.1"]
            with pytest.raises(Refusal, match="where webhooks may not go"):
                await out.endpoint(f"https://hooks.example:{port}/x")
            await out.announce(update("u1", 1))
            await out.turn()
            (row,) = await out.log(endpoint)
            assert (row["state"], row["error"]) == ("pending", "target-refused")
        assert asked == ["hooks.example"] * 3
        assert receiver.got == []

    async def test_a_name_within_the_networks_that_are_allowed(self, lite: Sending, receiver: Receiver) -> None:
        async def lookup(_host: str) -> Sequence[str]:
            return ["10.9.9.9", "127.0.0.1"]

        port = receiver.base.rpartition(":")[2]
        async with sending(lite.db, lookup=lookup) as out:
            await out.endpoint(f"http://hooks.example:{port}/x")
            await out.announce(update("u1", 1))
            await out.turn()
        assert receiver.numbers("/x") == [1]
        assert receiver.got[0].headers["host"] == f"hooks.example:{port}"

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "2130706433", "0x7f.1"])
    async def test_what_was_allowed_once_is_refused_when_the_setting_has_changed(
        self, tmp_path: Path, receiver: Receiver, host: str
    ) -> None:
        """Whatever stands in the database, and however it is spelled: the connection itself is refused."""
        port = receiver.base.rpartition(":")[2]
        async with drivers.opened(str(tmp_path / "x.db")) as db, sending(db) as before:
            endpoint = await before.endpoint(receiver.url("/x"))
            async with db.transaction() as tx:
                await tx.run(
                    "webhook_change_endpoint",
                    id=endpoint.id, url=f"https://{host}:{port}/x", description="", event_types='["*"]',
                    state="enabled", reason="", failing_since_ms=None, held_until_ms=None, now_ms=0,
                )  # fmt: skip
            await before.announce(update("u1", 1))
            async with sending(db, allow=()) as out:
                await out.turn()
                (row,) = await out.log(endpoint)
                assert (row["state"], row["error"]) == ("pending", "target-refused")
        assert receiver.got == []

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
    async def test_the_maker_of_sockets_is_the_last_gate(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, receiver: Receiver, address: str
    ) -> None:
        """Even if neither the spelling nor the resolver were judged."""
        monkeypatch.setattr(targets, "judge", lambda url, _allow: targets.Target(scheme="https", host="", address=None))
        written = f"[{address}]" if ":" in address else address
        port = receiver.base.rpartition(":")[2]
        async with drivers.opened(str(tmp_path / "x.db")) as db, sending(db, allow=()) as out:
            made = await endpoints.create(
                db, _Anywhere(), Actor(name="key:t", now_ms=1), url=f"https://{written}:{port}/x",
                description="", event_types=["*"],
            )  # fmt: skip
            _, done = await endpoints.test(db, out.poster.post, Actor(name="key:t", now_ms=1), made.id)
            assert done.error == "target-refused"

    @pytest.mark.parametrize(
        ("host", "error"),
        [("closed", "connect"), ("nowhere", "dns"), ("empty", "dns"), ("plain", "tls"), ("raw", "answer-broken")],
    )
    async def test_what_else_goes_wrong_has_a_name(
        self, tmp_path: Path, receiver: Receiver, host: str, error: str
    ) -> None:
        async def lookup(name: str) -> Sequence[str]:
            if name == "nowhere.example":
                raise OSError("no such name")
            if name == "empty.example":
                return []
            return ["127.0.0.1"]

        async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"SSH-2.0 hello\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(raw, "127.0.0.1", 0)
        ports = {
            "closed": "1",
            "plain": receiver.base.rpartition(":")[2],
            "raw": str(server.sockets[0].getsockname()[1]),
            "nowhere": "1",
            "empty": "1",
        }
        scheme = "https" if host == "plain" else "http"
        async with server, drivers.opened(str(tmp_path / "x.db")) as db, sending(db, lookup=lookup) as out:
            endpoint = await out.endpoint(f"{scheme}://{host}.example:{ports[host]}/x")
            await out.announce(update("u1", 1))
            await out.turn()
            (row,) = await out.log(endpoint)
            assert (row["state"], row["status_code"], row["error"]) == ("pending", None, error)

    async def test_what_nobody_thought_of_is_a_failure_like_others(self, lite: Sending) -> None:
        async def lookup(_name: str) -> Sequence[str]:
            raise RuntimeError("a bug")

        async with sending(lite.db, lookup=lookup) as out:
            made = await endpoints.create(
                out.db, _Anywhere(), Actor(name="key:t", now_ms=1), url="https://hooks.example/x",
                description="", event_types=["*"],
            )  # fmt: skip
            await out.announce(update("u1", 1))
            await out.turn()
            (row,) = await out.log(made)
            assert (row["state"], row["error"], row["attempts"]) == ("pending", "internal", 1)

    async def test_an_endless_answer_is_cut_and_its_status_counts(self, tmp_path: Path, receiver: Receiver) -> None:
        async def endless(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse()
            await answer.prepare(request)
            while True:
                await answer.write(b"\0" + b"x" * 65_535)

        receiver.behave["/x"] = endless
        async with drivers.opened(str(tmp_path / "x.db")) as db, sending(db) as out:
            endpoint = await out.endpoint(receiver.url("/x"))
            _, done = await endpoints.test(db, out.poster.post, Actor(name="key:t", now_ms=out.clock()), endpoint.id)
            assert (done.error, done.status_code, len(done.answer)) == (None, 200, 1024)
            assert done.answer.startswith("\ufffdxx")


class _Anywhere:
    allow = LOOPBACK

    async def addresses(self, _host: str) -> Sequence[str]:
        return []
