"""A month of school: devices and the cloud edit the same records, offline, by wrong clocks, killed, copied, set back.

The devices' storage, sender and receiver and the cloud's service are the real ones, over real SQLite files (and
PostgreSQL) and real HTTP; this is the weather, the calendar and the people. One seed is one month.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from account import Account, Act, Key
from aiohttp.test_utils import TestServer

import cloud.services
from cloud.app import build_app
from cloud.config import Settings
from cloud.flows import identity
from cloud.flows.records import Author
from cloud.main import runner_options
from cloud.services import Services, open_services
from pisyncd.activities.receiver import Receiver
from pisyncd.activities.sender import Sender
from pisyncd.activities.way import Way, WayRules
from pisyncd.core import backoff, link, merge, pull, recordwire, wire
from pisyncd.core.edits import Delete, Edit, Patch, Put
from pisyncd.core.errors import LinkDown
from pisyncd.core.problems import Refusal
from pisyncd.core.record import EMPTY, State
from pisyncd.core.transfer import ChunkRule
from pisyncd.meters import Goodput
from pisyncd.outbox import Outbox, open_outbox
from pisyncd.outbox.instance import Board
from pisyncd.outbox.reconciling import OwnFirst
from pisyncd.runtime.activity import Stop
from pisyncd.runtime.clock import AGREEMENT_MS, Stamp
from pisyncd.uplink import Uplink

FIRST_MS = 1_772_438_400_000  # 2026-03-02T08:00:00Z
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
DAYS = 30
SITE = "school-7"
TYPES_FILE = "attendance: {strategy: manual}\n"
KEYS: list[Key] = [
    *(("progress", f"prog_{n}") for n in range(3)),
    *(("profile", f"user_{n}") for n in range(3)),
    *(("enrollment", f"enr_{n}") for n in range(2)),
    *(("assessment", f"as_{n}") for n in range(2)),
    *(("attendance", f"att_{n}") for n in range(2)),
]
COUNTED: Key = ("progress", "counted")  # only ever counted up: the sum has to be right
WAY_RULES = WayRules(link=link.Rule(), backoff=backoff.Policy(), chunk=ChunkRule())


@dataclass(kw_only=True)
class Calendar:
    """The true time."""

    now_ms: int = FIRST_MS

    def pass_ms(self, ms: int) -> None:
        self.now_ms += ms


class WrongClock:
    """Implements runtime.clock.Clock: off by so much until the next boot, which may change it."""

    def __init__(self, calendar: Calendar, off_ms: int) -> None:
        self._calendar = calendar
        self.boot(off_ms)

    def boot(self, off_ms: int) -> None:
        self.boot_id = str(uuid.uuid4())
        self._off_ms = off_ms
        self._began_ms = self._calendar.now_ms - 20_000
        self.offset_ms: int | None = None

    def boottime_ms(self) -> int:
        return self._calendar.now_ms - self._began_ms

    def wall_ms(self) -> int:
        return self._calendar.now_ms + self._off_ms

    def trusted(self) -> bool:
        return self.offset_ms is not None and abs(self.offset_ms) <= AGREEMENT_MS

    def confirm(self, cloud_wall_ms: int) -> None:
        self.offset_ms = cloud_wall_ms - self.wall_ms()

    def stamp(self) -> Stamp:
        return Stamp(
            boot_id=self.boot_id,
            boottime_ms=self.boottime_ms(),
            wall_ms=self.wall_ms(),
            clock_trusted=self.trusted(),
        )


class Weather(Uplink):
    """The real uplink on a bad day: requests and answers are lost, doubled, and come again days later."""

    def __init__(
        self, chance: random.Random, calendar: Calendar, strays: list[Callable[[], Awaitable[Any]]], **options: Any
    ) -> None:
        super().__init__(**options)
        self._chance = chance
        self._calendar = calendar
        self._strays = strays
        self.calm = False

    async def batch(self, batch: wire.Batch, timeout_s: float) -> wire.BatchAnswer:
        answer = await self._sent(lambda: super(Weather, self).batch(batch, timeout_s))
        if not self.calm and self._chance.random() < 0.2:
            self._strays.append(lambda: super(Weather, self).batch(batch, timeout_s))
        return answer

    async def changes(self, **options: Any) -> recordwire.Changes:
        if not self.calm:
            options["limit"] = self._chance.randint(1, 5)
        return await self._sent(lambda: super(Weather, self).changes(**options))

    async def _sent(self, send: Callable[[], Awaitable[Any]]) -> Any:
        self._calendar.pass_ms(self._chance.randint(20, 2_000))
        luck = 1.0 if self.calm else self._chance.random()
        if luck < 0.08:
            raise LinkDown("the request was lost")
        for _ in range(self._chance.randrange(3)):
            await asyncio.sleep(0)  # whoever is under way at the same time may come first
        answer = await send()
        if luck < 0.16:
            raise LinkDown("the answer was lost")
        return await send() if luck < 0.24 else answer


@dataclass(kw_only=True)
class Site:
    """One device."""

    name: str
    path: Path
    board: Board
    clock: WrongClock
    token: str
    offs_ms: tuple[int, ...]
    outbox: Outbox = field(init=False)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self) -> None:
        self.outbox = await self._stack.enter_async_context(open_outbox(self.path, self.clock, self.board))  # type: ignore[arg-type]

    async def close(self) -> None:
        await self._stack.aclose()

    async def power_cut(self, off_ms: int) -> None:
        """What is on the card is there again after it, and nothing else."""
        aside = await self.copied_to(self.path.parent.parent / f"{uuid.uuid4().hex[:8]}")
        await self.close()
        shutil.rmtree(self.path.parent)
        aside.rename(self.path.parent)
        self.clock.boot(off_ms)
        await self.open()

    async def copied_to(self, directory: Path) -> Path:
        """A copy of the card as it is at this moment."""
        directory.mkdir(parents=True)
        async with self.outbox.db.transaction():  # both files are of one moment
            for each in self.path.parent.iterdir():
                if not each.name.endswith("-shm"):
                    shutil.copy(each, directory / each.name)
        return directory

    async def state(self, key: Key) -> State:
        kept = await self.outbox.records.read(*key)
        return kept.state if kept is not None else EMPTY


class Month:
    """The people, the weather, and the account of what they wrote."""

    def __init__(self, services: Services, url: str, root: Path, seed: int, calendar: Calendar) -> None:
        self.chance = random.Random(seed)
        self.seed = seed
        self.services = services
        self.url = url
        self.root = root
        self.calendar = calendar
        self.account = Account(rules=services.records.rules)
        self.sites: list[Site] = []
        self.strays: list[Callable[[], Awaitable[Any]]] = []
        self._uplinks: list[Weather] = []
        self._told = 0
        self._marked: tuple[Path, int] | None = None

    # the month

    async def run(self) -> None:
        """Thirty days, and then everybody is online until nothing moves."""
        await self.add_site("pibox-1", 0, 3 * MINUTE_MS)
        await self.add_site("pibox-2", -3 * 365 * DAY_MS, -400 * DAY_MS)
        await self.add_site("pibook-3", 7 * MINUTE_MS, 0, 200 * DAY_MS)
        for key in KEYS[::3]:
            await self.cloud_writes(key)
        for day in range(DAYS):
            await self._day(day)
        await self.settle()

    async def add_site(self, name: str, *offs_ms: int, card: Path | None = None, token: str = "") -> Site:
        device_id = name if not token else ""
        if not token:
            token = await identity.enroll(self.services.db, device_id, self.calendar.now_ms)
            await self._subscribe(device_id)
        directory = card or self.root / name / "card"
        site = Site(
            name=name,
            path=directory / "outbox.db",
            board=Board(machine=f"m-{name}", serial=f"serial-{name}"),
            clock=WrongClock(self.calendar, offs_ms[0]),
            token=token,
            offs_ms=offs_ms,
        )
        await site.open()
        self.sites.append(site)
        return site

    async def _subscribe(self, device_id: str) -> None:
        key = await identity.create_key(self.services.db, f"op-{device_id}", "operator", self.calendar.now_ms)
        async with aiohttp.ClientSession() as http:
            where = f"{self.url}/api/devices/{device_id}/subscriptions"
            answer = await http.put(where, json={"site": [SITE]}, headers={"Authorization": f"Bearer {key}"})
            assert answer.status == 200, await answer.text()

    async def _day(self, day: int) -> None:
        if day == 8:
            self._marked = (await self.sites[1].copied_to(self.root / "kept-card"), len(self.account.acts))
        if day == 13:
            original = self.sites[0]
            token = original.token if self.seed % 2 else ""
            card = await original.copied_to(self.root / "copied" / "card")
            await self.add_site("copy-4", -90 * DAY_MS, 5_000, card=card, token=token)
        if day == 18:
            await self._set_back(self.sites[1])
        for _ in range(self.chance.randrange(3)):
            await self.cloud_writes(self.chance.choice(KEYS))
        turns = [(site, verb) for site in self.sites for verb in self._verbs(day)]
        self.chance.shuffle(turns)
        for site, verb in turns:
            self.calendar.pass_ms(self.chance.randint(MINUTE_MS, HOUR_MS))
            await getattr(self, f"_{verb}")(site)
        if self.strays and self.chance.random() < 0.5:
            stray = self.strays.pop(self.chance.randrange(len(self.strays)))
            await stray()
        self.calendar.now_ms = FIRST_MS + (day + 1) * DAY_MS

    def _verbs(self, day: int) -> list[str]:
        verbs = ["write"] * self.chance.randrange(4)
        if self.chance.random() < 0.2:
            verbs.append("cut")
        if self.chance.random() < 0.3:
            verbs.append("go_online")
        if self.chance.random() < 0.15:
            verbs.append("killed_online")
        return verbs

    async def settle(self) -> None:
        """Everybody online, until nothing moves."""
        for _ in range(12):
            before = [await self._position(site) for site in self.sites]
            for site in self.sites:
                await self._go_online(site, calm=True)
            if before == [await self._position(site) for site in self.sites]:
                return
        raise AssertionError(f"seed {self.seed}: it never comes to rest")

    async def _position(self, site: Site) -> tuple[Any, ...]:
        owed, _, _ = await site.outbox.messages.owed()
        return owed, await site.outbox.records.cursor(), await site.outbox.records.sweeping()

    # what people write

    def _edit(self, key: Key, state: State) -> tuple[str, dict[str, Any]]:
        """('put', fields) and the like, for somebody who sees `state`."""
        self._told += 1
        view = merge.view(state, self.account.rules[key[0]])
        if key == COUNTED:
            count = view.fields.get("attempts", 0) + self.chance.randint(1, 3)
            return "patch", {"siteId": SITE, "attempts": count}
        luck = self.chance.random()
        if view.present and luck < 0.06:
            return "delete", {}
        fields = self._fields(key[0], view)
        if not view.present or luck < 0.2:
            born = {"createdAt": f"2026-03-{self._told:04d}"} if key[0] == "profile" and not view.present else {}
            return "put", {"siteId": SITE, **fields, **born}
        chosen = self.chance.sample(sorted(fields), self.chance.randint(1, len(fields)))
        return "patch", {name: fields[name] if self.chance.random() < 0.93 else None for name in chosen}

    def _fields(self, record_type: str, view: merge.View) -> dict[str, Any]:
        number, chance = self._told, self.chance
        if record_type == "progress":
            return {
                "percent": chance.randint(0, 100),
                "attempts": view.fields.get("attempts", 0) + chance.randint(1, 2),
                "badges": [*(view.fields.get("badges") or []), f"b{number}"][-6:],
                "lesson": f"l-{number}",
            }
        if record_type == "profile":
            return {"locale": f"x-{number}", "grade": number, "avatar": chance.choice([True, 1, 1.0, "1"])}
        return {"status": f"s-{number}", "grade": number}

    async def _write(self, site: Site, key: Key | None = None) -> None:
        # what a card that is set back has counted may be counted twice, see docs/records.md
        counts = site is not self.sites[1] and self.chance.random() < 0.15
        key = key or (COUNTED if counts else self.chance.choice(KEYS))
        if key[0] not in site.outbox.records.rules:
            return
        before = await site.state(key)
        verb, fields = self._edit(key, before)
        edit: Edit = Delete() if verb == "delete" else Put(fields) if verb == "put" else Patch(fields, create=True)
        with contextlib.suppress(Refusal):
            await site.outbox.records.write(*key, edit)
        self.account.wrote(site.name, key, before, await site.state(key))

    async def cloud_state(self, key: Key) -> State:
        try:
            return (await self.services.records.read(*key, deleted=True)).kept.state
        except Refusal:
            return EMPTY

    async def cloud_writes(self, key: Key) -> None:
        """An operator."""
        before = await self.cloud_state(key)
        verb, fields = self._edit(key, before)
        edit: Edit = Delete() if verb == "delete" else Put(fields) if verb == "put" else Patch(fields, create=True)
        with contextlib.suppress(Refusal):
            await self.services.records.write(Author("key:operator"), *key, edit)
        self.account.wrote("cloud", key, before, await self.cloud_state(key))

    # what happens to devices

    def _way_there(self, site: Site, *, calm: bool) -> tuple[Sender, Receiver, Weather]:
        way = Way(site.outbox, WAY_RULES, lambda: 0.5)
        way.observe("proven", "month")
        uplink = Weather(
            self.chance,
            self.calendar,
            self.strays,
            url=self.url,
            token=site.token,
            connect_timeout_s=5,
            stall_s=10,
            ca_file=None,
            seen=lambda *seen: None,
            told_time=site.clock.confirm,
            goodput=Goodput(),
        )
        uplink.calm = calm
        self._uplinks.append(uplink)
        items = 100 if calm else self.chance.randint(1, 6)
        sender = Sender(site.outbox, uplink, way, batch_items=items, timeout_s=20, patient=False)
        return sender, Receiver(site.outbox, uplink, way, Stop(), pull.Rule(wait_s=0)), uplink

    async def _go_online(self, site: Site, *, calm: bool = False) -> None:
        sender, receiver, _ = self._way_there(site, calm=calm)
        rounds = 30 if calm else self.chance.randint(1, 8)
        both = [lambda: self._send(site, sender, rounds), lambda: self._receive(site, receiver, rounds)]
        if self.chance.random() < 0.3:
            await asyncio.gather(*(each() for each in both))
            return
        self.chance.shuffle(both)
        for each in both:
            await each()

    async def _send(self, site: Site, sender: Sender, rounds: int) -> None:
        for _ in range(rounds):
            pause_s = await sender.step()
            if pause_s > 60 or not (await site.outbox.messages.owed())[0]:
                return

    async def _receive(self, site: Site, receiver: Receiver, rounds: int) -> None:
        for _ in range(rounds):
            before = await site.outbox.records.cursor()
            receiver.ask()
            try:
                await receiver.step()
            except OwnFirst:
                return
            if before == await site.outbox.records.cursor() and before:
                return

    async def _cut(self, site: Site) -> None:
        await site.power_cut(self.chance.choice(site.offs_ms))

    async def _killed_online(self, site: Site) -> None:
        """The power goes at any moment of an exchange, or of a write."""
        key, heard = self.chance.choice(KEYS), len(self.account.acts)
        before, writing = await site.state(key), self.chance.random() < 0.3
        task = asyncio.create_task(self._write(site, key) if writing else self._go_online(site))
        for _ in range(self.chance.randrange(400)):
            await asyncio.sleep(0)
            if task.done():
                break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self._cut(site)
        if writing and len(self.account.acts) == heard:
            # nobody heard whether it was taken; when it was, it is there after the next boot
            self.account.wrote(site.name, key, before, await site.state(key))

    async def _set_back(self, site: Site) -> None:
        """The card as it was ten days before. What was not delivered is gone; the rest has to come back."""
        assert self._marked is not None
        kept, since = self._marked
        while await self._has_gaps(site):
            # it was cut off between two batches under way at once, and was online again before the card went back
            await self._go_online(site, calm=True)
        for act in self.account.acts[since:]:
            if act.who == site.name:
                act.lost = not await self._delivered(act)
        await site.close()
        shutil.rmtree(site.path.parent)
        kept.rename(site.path.parent)
        site.clock.boot(self.chance.choice(site.offs_ms))
        await site.open()

    async def _has_gaps(self, site: Site) -> bool:
        streams = f"record-{site.outbox.instance.outbox_id}%"
        return bool(await self.rows(f"SELECT 1 FROM stream_ahead WHERE stream LIKE '{streams}'"))

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What the cloud's database says."""
        settings = self.services.settings
        if settings.database:
            connection = await asyncpg.connect(settings.database)
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()
        with contextlib.closing(sqlite3.connect(settings.database_url)) as db:
            return db.execute(sql).fetchall()

    async def _delivered(self, act: Act) -> bool:
        state = await self.cloud_state(act.key)
        return all(state.version.get(one.writer, 0) >= one.count for one in act.says)

    async def close(self) -> None:
        for uplink in self._uplinks:
            await uplink.close()
        for site in self.sites:
            await site.close()


@contextlib.asynccontextmanager
async def month(root: Path, seed: int, database: str = "") -> AsyncIterator[Month]:
    """A month that has not begun, over SQLite below `root` or the PostgreSQL of `database`."""
    calendar = Calendar()
    before, cloud.services.wall_ms = cloud.services.wall_ms, lambda: calendar.now_ms
    types = root / "types.yaml"
    types.write_text(TYPES_FILE)
    chosen = Settings(data=str(root / "cloud"), database=database, rate_device_items=0, record_types_file=str(types))
    async with AsyncExitStack() as stack:
        stack.callback(setattr, cloud.services, "wall_ms", before)
        services = await stack.enter_async_context(open_services(chosen))
        server = TestServer(build_app(services), host="127.0.0.1")
        await server.start_server(**runner_options(chosen))
        stack.push_async_callback(server.close)
        made = Month(services, str(server.make_url("")).rstrip("/"), root, seed, calendar)
        stack.push_async_callback(made.close)
        yield made
