"""The dispatcher against a real receiver that fails, hangs, redirects and is gone, over both databases."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path

import pytest
import structlog
from aiohttp import web
from webhook_rig import Clock, Receiver, Sending, receiving, sending, update

from cloud.flows import announcing, deliveries, endpoints
from cloud.flows.endpoints import Actor, Change
from cloud.rules import delivery
from cloud.store import drivers
from cloud.store.db import Database
from pisyncd.core.problems import Refusal

DAY_S = 86_400


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[Sending]:
    """Over SQLite, for what does not depend on the database."""
    async with drivers.opened(str(tmp_path / "lite.db")) as database, sending(database) as found:
        yield found


@pytest.fixture
async def out(db: Database) -> AsyncIterator[Sending]:
    async with sending(db) as found:
        yield found


class TestSchedule:
    async def test_ten_attempts_with_one_id_and_one_body_then_failed(self, lite: Sending, receiver: Receiver) -> None:
        endpoint = await lite.endpoint(receiver.url("/x"), "profile.*")
        receiver.behave["/x"] = 500
        await lite.announce(update("u1", 1))
        pauses = [0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
        for attempt, pause in enumerate(pauses, 1):
            if pause:
                lite.clock.advance(pause - 0.3)
                await lite.turn()
                assert len(receiver.got) == attempt - 1
                lite.clock.advance(0.3 + 10)
            await lite.turn()
            assert len(receiver.got) == attempt
        assert len({(each.id, each.body) for each in receiver.got}) == 1
        assert [each.headers["x-webhook-attempt"] for each in receiver.got] == [str(n) for n in range(1, 11)]
        times = [int(each.headers["webhook-timestamp"]) for each in receiver.got]
        assert times == sorted(set(times))
        (row,) = await lite.log(endpoint)
        assert (row["state"], row["attempts"], row["status_code"], row["error"]) == ("failed", 10, 500, "http-status")
        lite.clock.advance(10 * DAY_S)
        await lite.turn()
        assert len(receiver.got) == 10

    async def test_what_no_endpoint_wants_leaves_nothing(self, lite: Sending, receiver: Receiver) -> None:
        await lite.endpoint(receiver.url("/x"), "device.*", "profile.created")
        assert await lite.announce(update("u1", 1), update("u2", 2)) == 0
        async with lite.db.reading() as tx:
            assert await tx.all("webhook_replay_span", endpoint_id="", since_ms=0, until_ms=2**60, row_limit=9) == []

    async def test_a_fact_that_is_not_committed_is_not_told(self, out: Sending, receiver: Receiver) -> None:
        await out.endpoint(receiver.url("/x"))
        with pytest.raises(RuntimeError):
            async with out.db.transaction() as tx:
                await announcing.announce(tx, [update("u1", 1)], out.clock())
                raise RuntimeError
        await out.turn()
        assert receiver.got == []


class TestOrder:
    async def test_a_failure_holds_its_resource_at_its_endpoint_and_nothing_else(
        self, out: Sending, receiver: Receiver
    ) -> None:
        failing = await out.endpoint(receiver.url("/a"))
        await out.endpoint(receiver.url("/b"))
        fails = True

        async def a(request: web.Request) -> web.Response:
            return web.Response(status=500 if fails and (await request.json())["resourceId"] == "held" else 200)

        receiver.behave["/a"] = a
        await out.announce(*(update("held", n) for n in range(1, 4)), update("free", 10), update("free", 11))
        await out.turn()
        await out.turn()
        assert sorted(receiver.numbers("/a")) == [1, 10, 11]
        assert sorted(receiver.numbers("/b")) == [1, 2, 3, 10, 11]
        await out.announce(update("held", 4), update("free", 12))
        await out.turn()
        assert sorted(receiver.numbers("/a")) == [1, 10, 11, 12]
        fails = False
        out.clock.advance(6)
        await out.turn()
        await out.turn()
        held = [each.json["data"]["n"] for each in receiver.at("/a") if each.json["resourceId"] == "held"]
        assert held == [1, 1, 2, 3, 4]
        assert set(await out.states(failing)) == {"delivered"}

    async def test_the_last_failure_lets_the_next_one_go_on(self, lite: Sending, receiver: Receiver) -> None:
        endpoint = await lite.endpoint(receiver.url("/x"))

        async def x(request: web.Request) -> web.Response:
            return web.Response(status=500 if (await request.json())["data"]["n"] == 1 else 200)

        receiver.behave["/x"] = x
        await lite.announce(update("u1", 1), update("u1", 2))
        for delay_ms in (*delivery.DELAYS_MS, 0, 0):
            await lite.turn()
            lite.clock.advance(delay_ms / 1000 + 1)
        assert await lite.states(endpoint) == ["failed", "delivered"]
        assert receiver.numbers("/x") == [1] * 10 + [2]

    async def test_many_of_one_resource_go_one_after_the_other(self, out: Sending, receiver: Receiver) -> None:
        await out.endpoint(receiver.url("/x"))
        await out.announce(*(update("hot", n) for n in range(25)))
        await out.announce(*(update(f"u{n}", 100 + n) for n in range(50)))
        async with out.dispatcher.running():
            await receiver.until("/x", 75)
        numbers = receiver.numbers("/x")
        assert [n for n in numbers if n < 100] == list(range(25))
        assert len(set(numbers)) == len(numbers) == 75

    async def test_what_waits_behind_a_failure_does_not_hide_others(self, out: Sending, receiver: Receiver) -> None:
        """More deliveries wait for one resource than are looked at in one claim."""
        await out.endpoint(receiver.url("/x"))

        async def x(request: web.Request) -> web.Response:
            return web.Response(status=500 if (await request.json())["resourceId"] == "held" else 200)

        receiver.behave["/x"] = x
        await out.announce(update("held", 0))
        await out.turn()
        await out.announce(*(update("held", n) for n in range(1, deliveries.WINDOW * 2)))
        await out.announce(update("free", -1))
        for _ in range(4):
            await out.turn()
        assert receiver.numbers("/x") == [0, -1]

    async def test_two_dispatchers_share_the_work_and_keep_the_order(
        self, database_url: str, db: Database, out: Sending, receiver: Receiver
    ) -> None:
        endpoint = await out.endpoint(receiver.url("/x"))
        await out.announce(*(update(f"u{n % 40}", n) for n in range(400)))
        async with (
            drivers.opened(database_url) as second,
            sending(second, clock=out.clock) as other,
            out.dispatcher.running(),
            other.dispatcher.running(),
        ):
            await receiver.until("/x", 400)
        assert sorted(receiver.numbers("/x")) == list(range(400))
        found = defaultdict(list)
        for each in receiver.at("/x"):
            found[each.json["resourceId"]].append(each.json["data"]["n"])
        assert all(numbers == sorted(numbers) for numbers in found.values())
        assert set(await out.states(endpoint)) == {"delivered"}


class TestOneEndpointAndTheOthers:
    async def test_a_hanging_endpoint_delays_no_other(self, out: Sending, receiver: Receiver) -> None:
        gate = asyncio.Event()

        async def hang(_request: web.Request) -> web.Response:
            await gate.wait()
            return web.Response()

        receiver.behave["/hangs"] = hang
        hanging = await out.endpoint(receiver.url("/hangs"))
        quick = await out.endpoint(receiver.url("/quick"))
        await out.announce(*(update(f"u{n}", n) for n in range(200)))
        async with out.dispatcher.running():
            await receiver.until("/quick", 200)
            assert not gate.is_set()
            assert 0 < len(receiver.at("/hangs")) <= 32
            gate.set()
            await receiver.until("/hangs", 200)
        assert set(await out.states(hanging)) == set(await out.states(quick)) == {"delivered"}

    async def test_no_answer_in_time_is_a_failure(self, lite: Sending, receiver: Receiver) -> None:
        gate = asyncio.Event()

        async def hang(_request: web.Request) -> web.Response:
            await gate.wait()
            return web.Response()

        receiver.behave["/x"] = hang
        async with sending(lite.db, timeout_s=0.1) as out:
            endpoint = await out.endpoint(receiver.url("/x"))
            await out.announce(update("u1", 1))
            await out.turn()
            (row,) = await out.log(endpoint)
            assert (row["state"], row["status_code"], row["error"]) == ("pending", None, "timeout")
            assert (await out.read(endpoint)).failing_since_ms is not None
            gate.set()
            receiver.behave["/x"] = 204
            out.clock.advance(6)
            await out.turn()
            assert await out.states(endpoint) == ["delivered"]
            assert (await out.read(endpoint)).failing_since_ms is None

    async def test_retry_after_holds_the_endpoint_alone(self, out: Sending, receiver: Receiver) -> None:
        async def busy(_request: web.Request) -> web.Response:
            return web.Response(status=429, headers={"Retry-After": "600"})

        receiver.behave["/busy"] = busy
        endpoint = await out.endpoint(receiver.url("/busy"))
        await out.endpoint(receiver.url("/free"))
        await out.announce(update("u1", 1))
        await out.turn()
        await out.announce(update("u2", 2))
        out.clock.advance(590)
        await out.turn()
        assert (receiver.numbers("/busy"), receiver.numbers("/free")) == ([1], [1, 2])
        assert (await out.read(endpoint)).held_until_ms is not None
        receiver.behave["/busy"] = 200
        out.clock.advance(11)
        await out.turn()
        assert sorted(receiver.numbers("/busy")) == [1, 1, 2]
        assert (await out.read(endpoint)).held_until_ms is None

    async def test_410_disables_and_ends_what_waits(self, out: Sending, receiver: Receiver) -> None:
        receiver.behave["/x"] = 410
        endpoint = await out.endpoint(receiver.url("/x"))
        await out.announce(*(update("u1", n) for n in range(3)))
        await out.turn()
        now = await out.read(endpoint)
        assert (now.state, now.reason) == ("disabled", "it answered 410: gone for good")
        rows = await out.log(endpoint)
        assert [(row["state"], row["error"]) for row in rows] == [("failed", "endpoint-gone")] * 3
        assert len(receiver.got) == 1
        # What happens meanwhile is kept, and can be had by a replay when the endpoint is back.
        await out.announce(update("u1", 7))
        receiver.behave["/x"] = 200
        actor = Actor(name="key:test", now_ms=out.clock())
        with pytest.raises(Refusal, match="disabled"):
            await endpoints.replay_span(out.db, actor, endpoint.id, 0, out.clock() + 1)
        await endpoints.change(out.db, out.poster, actor, endpoint.id, Change(state="enabled"))
        assert await endpoints.replay_span(out.db, actor, endpoint.id, 0, out.clock() + 1) == 4
        await out.turn()
        assert receiver.numbers("/x")[1:] == [0, 1, 2, 7]

    async def test_five_days_of_failures_disable(self, lite: Sending, receiver: Receiver) -> None:
        receiver.behave["/x"] = 500
        endpoint = await lite.endpoint(receiver.url("/x"))
        await lite.announce(update("u1", 1))
        await lite.turn()
        for day in range(5):
            lite.clock.advance(DAY_S + 1)
            await lite.announce(update(f"day{day}", day))
            await lite.turn()
        now = await lite.read(endpoint)
        assert (now.state, now.reason) == ("disabled", "nothing came through for 5 days; last: http-status")
        assert set(await lite.states(endpoint)) == {"failed"}

    async def test_an_endpoint_that_is_switched_off_keeps_what_waits(self, lite: Sending, receiver: Receiver) -> None:
        endpoint = await lite.endpoint(receiver.url("/x"))
        await lite.announce(update("u1", 1))
        actor = Actor(name="key:test", now_ms=lite.clock())
        await endpoints.change(lite.db, lite.poster, actor, endpoint.id, Change(state="disabled"))
        await lite.turn()
        assert await lite.states(endpoint) == ["pending"]
        await endpoints.change(lite.db, lite.poster, actor, endpoint.id, Change(state="enabled"))
        await lite.turn()
        assert receiver.numbers("/x") == [1]


class TestLeases:
    async def test_what_a_dead_process_held_comes_back_when_its_lease_is_over(
        self, out: Sending, receiver: Receiver
    ) -> None:
        endpoint = await out.endpoint(receiver.url("/x"))
        await out.announce(update("u1", 1), update("u1", 2), update("u2", 3))
        claims = await deliveries.claim(out.db, [(endpoint, 32)], now_ms=out.clock(), lease_ms=20_000)
        assert deliveries.in_hand(claims) == 3
        await out.announce(update("u1", 4))
        await out.turn()
        assert receiver.got == []
        out.clock.advance(20.001)
        out.dispatcher._last_reclaim_s = float("-inf")
        await out.turn()
        assert sorted(receiver.numbers("/x")) == [1, 2, 3, 4]
        assert [n for n in receiver.numbers("/x") if n != 3] == [1, 2, 4]

    async def test_who_has_lost_the_lease_says_nothing_about_the_delivery(
        self, out: Sending, receiver: Receiver
    ) -> None:
        endpoint = await out.endpoint(receiver.url("/x"))
        await out.announce(update("u1", 1))
        gate, arrived = asyncio.Event(), asyncio.Event()

        async def first_hangs(request: web.Request) -> web.Response:
            if len(receiver.got) == 1:
                arrived.set()
                await gate.wait()
                return web.Response(status=500)
            return web.Response()

        receiver.behave["/x"] = first_hangs
        await out.dispatcher.step()
        await arrived.wait()
        async with sending(out.db, clock=out.clock) as other:
            out.clock.advance(60)
            await other.turn()
            assert await out.states(endpoint) == ["delivered"]
            gate.set()
            await out.dispatcher.settled()
        assert await out.states(endpoint) == ["delivered"]
        assert [each.id for each in receiver.got] == [receiver.got[0].id] * 2

    async def test_a_stop_waits_for_what_is_being_sent(self, lite: Sending, receiver: Receiver) -> None:
        gate, arrived = asyncio.Event(), asyncio.Event()

        async def slow(_request: web.Request) -> web.Response:
            arrived.set()
            await gate.wait()
            return web.Response()

        receiver.behave["/x"] = slow
        async with sending(lite.db, drain_s=30) as out:
            endpoint = await out.endpoint(receiver.url("/x"))
            await out.announce(update("u1", 1), update("u1", 2))
            async with out.dispatcher.running():
                await arrived.wait()
                asyncio.get_running_loop().call_later(0.05, gate.set)
            assert await out.states(endpoint) == ["delivered", "pending"]

    async def test_a_stop_that_may_not_wait_gives_everything_back(self, db: Database, receiver: Receiver) -> None:
        arrived, gate = asyncio.Event(), asyncio.Event()

        async def hang(_request: web.Request) -> web.Response:
            arrived.set()
            await gate.wait()
            return web.Response()

        receiver.behave["/x"] = hang
        async with sending(db, drain_s=0) as out:
            endpoint = await out.endpoint(receiver.url("/x"))
            await out.announce(update("u1", 1), update("u1", 2))
            async with out.dispatcher.running():
                await arrived.wait()
            gate.set()
            assert await out.states(endpoint) == ["pending", "pending"]
        async with sending(db) as again:
            receiver.behave["/x"] = 200
            await again.turn()
            assert await again.states(endpoint) == ["delivered", "delivered"]


class TestProcess:
    async def test_what_is_due_has_its_turn(self, out: Sending, receiver: Receiver) -> None:
        receiver.behave["/bad"] = 500
        good = await out.endpoint(receiver.url("/good"))
        bad = await out.endpoint(receiver.url("/bad"))
        await out.announce(*(update(f"u{n % 3}", n) for n in range(40)))
        done = await out.dispatcher.process()
        assert len([each for each in done if each.endpoint_id == good.id and each.state == "delivered"]) == 40
        failed = [each for each in done if each.endpoint_id == bad.id]
        assert [(each.state, each.status_code, each.error) for each in failed] == [("pending", 500, "http-status")] * 3
        assert await out.dispatcher.process() == []

    async def test_of_a_resource_also_what_is_not_due_yet(self, out: Sending, receiver: Receiver) -> None:
        receiver.behave["/x"] = 503
        await out.endpoint(receiver.url("/x"))
        await out.announce(update("u1", 1), update("u1", 2), update("u2", 3))
        await out.turn()
        assert await out.dispatcher.process() == []
        once = await out.dispatcher.process("profile/u1")
        assert [(each.state, each.event_id) for each in once] == [("pending", receiver.got[-1].id)]
        receiver.behave["/x"] = 200
        assert [each.state for each in await out.dispatcher.process("profile/u1")] == ["delivered"] * 2
        assert receiver.numbers("/x")[-2:] == [1, 2]
        assert await out.dispatcher.process("profile/nobody") == []

    async def test_asking_often_does_not_use_the_schedule_up(self, out: Sending, receiver: Receiver) -> None:
        receiver.behave["/x"] = 500
        endpoint = await out.endpoint(receiver.url("/x"))
        await out.announce(update("u1", 1))
        await out.turn()
        for _ in range(15):
            assert [each.state for each in await out.dispatcher.process("profile/u1")] == ["pending"]
        (row,) = await out.log(endpoint)
        assert (row["attempts"], row["due_at_ms"] - out.clock()) == (1, pytest.approx(5000, abs=2000))
        out.clock.advance(7)
        await out.turn()
        (row,) = await out.log(endpoint)
        assert (row["attempts"], len(receiver.got)) == (2, 17)

    async def test_it_waits_no_longer_than_it_may(self, out: Sending, receiver: Receiver) -> None:
        gate = asyncio.Event()

        async def hang(_request: web.Request) -> web.Response:
            await gate.wait()
            return web.Response()

        receiver.behave["/x"] = hang
        endpoint = await out.endpoint(receiver.url("/x"))
        await out.announce(update("u1", 1))
        assert await out.dispatcher.process(timeout_s=0.2) == []
        gate.set()
        await out.dispatcher.settled()
        assert await out.states(endpoint) == ["delivered"]

    async def test_beside_the_running_dispatcher(self, out: Sending, receiver: Receiver) -> None:
        endpoint = await out.endpoint(receiver.url("/x"))
        await out.announce(*(update(f"u{n % 7}", n) for n in range(100)))
        async with out.dispatcher.running():
            await out.dispatcher.process()
            assert set(await out.states(endpoint)) == {"delivered"}
        assert sorted(receiver.numbers("/x")) == list(range(100))


async def test_failures_and_recoveries_are_logged_once_and_not_for_each_delivery(
    lite: Sending, receiver: Receiver
) -> None:
    receiver.behave["/x"] = 500
    endpoint = await lite.endpoint(receiver.url("/x"))
    with structlog.testing.capture_logs() as lines:
        await lite.announce(*(update(f"u{n}", n) for n in range(20)))
        await lite.turn()
        receiver.behave["/x"] = 200
        lite.clock.advance(10)
        await lite.turn()
    told = [(line["event"], line["endpoint"]) for line in lines if line["event"].partition(".")[0] != "janitor"]
    assert told == [
        ("delivery.failed", endpoint.id),
        ("endpoint.failing", endpoint.id),
        ("endpoint.recovered", endpoint.id),
    ]
    assert (lines[0]["error"], lines[0]["attempt"], lines[0]["final"]) == ("http-status", 1, False)
    assert endpoint.secret not in str(lines)


async def test_an_endpoint_that_fails_and_recovers_all_the_time_does_not_fill_the_log(
    lite: Sending, receiver: Receiver
) -> None:
    endpoint = await lite.endpoint(receiver.url("/x"))
    with structlog.testing.capture_logs() as lines:
        for number in range(10):
            receiver.behave["/x"] = 200 if number % 2 else 500
            await lite.announce(update(f"u{number}", number))
            await lite.turn()
    assert [line["event"] for line in lines if line.get("endpoint") == endpoint.id] == [
        "delivery.failed",
        "endpoint.failing",
        "endpoint.recovered",
        "delivery.failed",
    ]


class TestForgetting:
    async def test_an_event_that_was_purged_is_not_sent(self, out: Sending, receiver: Receiver) -> None:
        endpoint = await out.endpoint(receiver.url("/x"))
        await out.announce(update("u1", 1, user_id="u1"))
        async with out.db.transaction() as tx:
            await tx.run("webhook_end_pending", endpoint_id="nobody", error="", now_ms=0)
            await _execute(tx, "DELETE FROM webhook_event")
        await out.turn()
        (row,) = await out.log(endpoint)
        assert (row["state"], row["error"], receiver.got) == ("failed", "event-removed", [])

    async def test_what_ended_is_kept_for_30_days_and_what_waits_for_ever(
        self, out: Sending, receiver: Receiver
    ) -> None:
        receiver.behave["/waits"] = 500
        ended, waits = await out.endpoint(receiver.url("/x")), await out.endpoint(receiver.url("/waits"))
        await out.announce(update("u1", 1))
        await out.turn()
        out.clock.advance(29 * DAY_S)
        assert await deliveries.forget(out.db, out.clock(), 30) == 0
        out.clock.advance(2 * DAY_S)
        assert await deliveries.forget(out.db, out.clock(), 30) == 3
        assert (await out.states(ended), await out.states(waits)) == ([], ["pending"])
        actor = Actor(name="key:test", now_ms=out.clock())
        await endpoints.remove(out.db, actor, waits.id)
        assert await deliveries.forget(out.db, out.clock(), 30) == 0
        out.clock.advance(31 * DAY_S)
        assert await deliveries.forget(out.db, out.clock(), 30) == 2


async def _execute(tx: object, sql: str) -> None:
    await tx._connection.execute(sql)  # type: ignore[attr-defined]


async def test_killed_with_deliveries_in_flight_all_arrive_after_the_restart(
    tmp_path: Path, receiver: Receiver
) -> None:
    """kill -9 of a serving process: at least once, with the same ids, in the order of each resource."""
    database = str(tmp_path / "pisync.db")
    gate = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response()

    receiver.behave["/x"] = hang
    async with drivers.opened(database) as db, sending(db, clock=Clock(ms=1)) as out:
        endpoint = await out.endpoint(receiver.url("/x"))
        await out.announce(*(update(f"u{n % 20}", n) for n in range(60)))
        for turn in (1, 2):
            process = _serve(tmp_path)
            try:
                await receiver.until("/x", 20 if turn == 1 else 80)
                if turn == 2:
                    async with asyncio.timeout(30):
                        while set(await out.states(endpoint)) != {"delivered"}:
                            await asyncio.sleep(0.02)
            finally:
                process.kill()
                process.wait()
            if turn == 1:
                assert set(await out.states(endpoint)) == {"processing"}
            receiver.behave["/x"] = 200
            gate.set()
    first, second = receiver.got[:20], receiver.got[20:]
    assert len(second) == len({each.id for each in second}) == 60
    assert {each.id for each in first} <= {each.id for each in second}
    by_resource = sorted(second, key=lambda each: each.json["resourceId"])
    for _, group in groupby(by_resource, key=lambda each: each.json["resourceId"]):
        numbers = [each.json["data"]["n"] for each in group]
        assert numbers == sorted(numbers)


def _serve(data: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "cloud", "serve", "--data", str(data), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PISYNC_CLOUD_WEBHOOK_ALLOW": "127.0.0.0/8", "PISYNC_CLOUD_WEBHOOK_TIMEOUT_S": "0.5", "PATH": ""},
    )
    assert process.stdout is not None
    assert re.match("http://", process.stdout.readline())
    return process
