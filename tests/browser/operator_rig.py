"""A real cloud with devices of every state, a browser that is signed in to it, and what every page has to hold."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from argon2 import PasswordHasher
from playwright.async_api import Page

from cloud.app import build_app
from cloud.config import Settings
from cloud.flows import groups, identity, operators, standing
from cloud.flows.groups import Described, Group
from cloud.main import runner_options
from cloud.rules.access import Grant
from cloud.services import Services, open_services, wall_ms

# What the library takes for a password is right for people and slow for tests.
operators.hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

HOUR_MS = 3_600_000
ROOMS = ("kampala", "gulu", "mbale", "arua", "lira", "soroti", "jinja", "hoima")


@dataclass
class Service:
    """A running service."""

    url: str
    services: Services
    http: aiohttp.ClientSession

    async def person(self, role: Any = "admin", group: str | None = None) -> tuple[str, str]:
        """Name and password of somebody who may sign in."""
        name, password = f"amina-{secrets.token_hex(2)}", operators.new_password()
        await operators.add(
            self.services.db, name, password, [Grant(role=role, group=group)], actor="test", now_ms=wall_ms()
        )
        return name, password

    async def enroll(self, device_id: str) -> dict[str, str]:
        """The headers of a new device."""
        return {"Authorization": f"Bearer {await identity.enroll(self.services.db, device_id, wall_ms())}"}

    async def sync(self, device_id: str, headers: dict[str, str], *, times: int = 1, **said: Any) -> None:
        """Tells of syncs, as the device does."""
        for _ in range(times):
            body = {
                "device_id": device_id,
                "event_id": secrets.token_hex(8),
                "timestamp": "2026-01-01T00:00:00Z",
                "total_files_synced": 12,
                "total_errors": 0,
                "internet_speed": 1 + secrets.randbelow(80) / 10,
                **said,
            }
            async with self.http.post(f"{self.url}/api/sync-event", json=body, headers=headers) as answer:
                assert answer.status == 201, await answer.text()

    async def fails(self, device_id: str, headers: dict[str, str], code: str = "card-full") -> None:
        """Syncs that fail often enough for the device to be failing."""
        await self.sync(device_id, headers, times=4, total_files_synced=0, total_errors=2, error_code=code)

    async def judged(self) -> None:
        """Every device is judged and every incident planned."""
        await self.services.assessor.step()
        await self.services.alerter.step()

    async def sql(self, statement: str) -> None:
        """Changes what takes weeks in the field."""
        async with self.services.db.transaction() as tx:
            await tx._connection.execute(statement)  # type: ignore[attr-defined]
            await tx.run("fleet_changed")


@asynccontextmanager
async def serving(data: Path) -> AsyncIterator[Service]:
    """A service over SQLite on a socket of its own."""
    settings = Settings(data=str(data), access_log="off")
    async with open_services(settings) as services, aiohttp.ClientSession() as http:
        runner = web.AppRunner(build_app(services), **runner_options(settings))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield Service(url=f"http://127.0.0.1:{runner.addresses[0][1]}", services=services, http=http)
        finally:
            await services.live.release()
            await runner.cleanup()


async def populate(service: Service) -> dict[str, dict[str, str]]:
    """A small fleet with devices of every state; the headers of each device by its id."""
    db, now_ms = service.services.db, wall_ms()
    for group in (
        Group(name="north", kind="region"),
        Group(name="gulu-primary", kind="site", parent="north"),
        Group(name="pilot"),
    ):
        await groups.put_group(db, group, actor="test", now_ms=now_ms)
    fleet = {name: await service.enroll(name) for name in _names()}
    for name in list(fleet)[:8]:
        await service.sync(name, fleet[name], times=14)
        await service.sync(name, fleet[name], total_errors=1)
    for name in ("pi-arua-09", "pi-lira-10", "pi-lira-11"):
        await service.fails(name, fleet[name])
    await service.fails("pi-soroti-12", fleet["pi-soroti-12"], "portal")
    await service.fails("pi-muted-13", fleet["pi-muted-13"], "tls-untrusted")
    await service.fails("pi-back-14", fleet["pi-back-14"])
    for name in ("pi-quiet-15", "pi-overdue-16", "pi-retired-17"):
        await service.sync(name, fleet[name])
    await service.judged()
    await service.sync("pi-back-14", fleet["pi-back-14"], queue_depth=900)
    await _ago(service, "pi-back-14", 1)
    await service.sync("pi-back-14", fleet["pi-back-14"], queue_depth=640)
    await _ago(service, "pi-quiet-15", 40)
    await _ago(service, "pi-overdue-16", 24 * 120)
    for hours, name in enumerate(list(fleet)[:8]):
        await service.sql(
            f"UPDATE device_state SET last_success_at_ms = {now_ms - hours * hours * HOUR_MS}"
            f" WHERE dk = (SELECT dk FROM device WHERE device_id = '{name}')"
        )
    await groups.assign(
        db, "pi-gulu-02", Described(label="Desk in the library", site="gulu-primary", groups=["pilot"], tags=["2026"]),
        actor="test", now_ms=now_ms,
    )  # fmt: skip
    async with db.transaction() as tx:
        dk = await identity.device_key(tx, "pi-muted-13")
        await standing.mute(tx, [dk], until_ms=None, note="being repaired", actor="operator:joseph", now_ms=now_ms)
    await identity.revoke(db, "pi-retired-17", now_ms)
    await _past_hours(service, now_ms)
    await _vitals(service, "pi-arua-09", now_ms)
    await service.judged()
    return fleet


def _names() -> list[str]:
    named = [f"pi-{room}-{number:02}" for number, room in enumerate(ROOMS, 1)]
    return [
        *named, "pi-arua-09", "pi-lira-10", "pi-lira-11", "pi-soroti-12", "pi-muted-13", "pi-back-14", "pi-quiet-15",
        "pi-overdue-16", "pi-retired-17", "pi-new-18",
    ]  # fmt: skip


async def _ago(service: Service, device_id: str, hours: int) -> None:
    """As if it had been heard of for the last time so many hours ago."""
    await service.judged()
    past_ms = wall_ms() - hours * HOUR_MS
    where = f"WHERE dk = (SELECT dk FROM device WHERE device_id = '{device_id}')"
    await service.sql(f"UPDATE device_state SET last_seen_at_ms = {past_ms}, last_success_at_ms = {past_ms} {where}")
    await service.sql(f"UPDATE device_standing SET since_ms = {past_ms}, backlog_at_ms = {past_ms} {where}")


async def _past_hours(service: Service, now_ms: int) -> None:
    for hours in range(1, 48):
        busy = 40 if 7 <= (50 - hours) % 24 <= 17 else 6
        values = (
            f"{busy + hours % 5}, {hours % 4}, {hours % 3 if hours > 12 else busy // 4}, {busy * 9}, {busy * 10**6}"
        )
        hour_ms = now_ms // HOUR_MS * HOUR_MS - hours * HOUR_MS
        await service.sql(
            "INSERT INTO sync_hour (hour_ms, slot, success, partial, failed, files, bytes)"
            f" VALUES ({hour_ms}, 99, {values})"
        )


async def _vitals(service: Service, device_id: str, now_ms: int) -> None:
    body = (
        '{"temperature_c":82.5,"throttled":{"under_voltage":true},"disk_total_bytes":31000000000,'
        '"disk_free_bytes":410000000,"memory_total_bytes":4000000000,"memory_available_bytes":2600000000,'
        '"uptime_s":190000,"version":"1.4.0","os":"Debian 12","kernel":"6.6.31","model":"Raspberry Pi 4 Model B",'
        '"card_wear_percent":30,"cpu_percent":12,"clock_trusted":true,"owed_messages":240,"owed_files":17,'
        '"owed_bytes":88000000,"failed_files":2}'
    )
    await service.sql(
        "INSERT INTO device_vitals (dk, body, at_ms, received_at_ms)"
        f" SELECT dk, '{body}', {now_ms}, {now_ms} FROM device WHERE device_id = '{device_id}'"
    )


async def sign_in(page: Page, service: Service, who: tuple[str, str], path: str = "/") -> None:
    """Through the form, as a person does."""
    await page.goto(f"{service.url}{path}")
    await page.get_by_label("Name").fill(who[0])
    await page.get_by_label("Password").fill(who[1])
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_load_state("load")


async def picture(page: Page, name: str, directory: Path) -> None:
    """Keeps what the page looks like: in PISYNC_SCREENSHOTS, or with the test's other output."""
    kept = Path(os.environ.get("PISYNC_SCREENSHOTS") or directory)
    kept.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=kept / f"{name}.png", full_page=True)


#: What is wrong with a page for who does not see it, or sees it poorly, as sentences.
FAULTS = """() => {
    const faults = [];
    const say = (node, text) => faults.push(`${text}: ${node.outerHTML.slice(0, 160)}`);
    const shown = (node) => node.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
    const count = (selector) => document.querySelectorAll(selector).length;
    if (count("h1") !== 1) faults.push(`${count("h1")} headings h1`);
    for (const one of ["main", "header", "footer"]) if (count(one) !== 1) faults.push(`${count(one)} x ${one}`);
    if (!document.documentElement.lang || !document.title) faults.push("no language or no title");
    let before = 1;
    for (const head of document.querySelectorAll("h1, h2, h3, h4")) {
        const level = Number(head.tagName[1]);
        if (level > before + 1) say(head, "a level of headings is left out");
        before = level;
    }
    for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
        if (!field.labels.length && !field.ariaLabel) say(field, "no label");
    for (const one of document.querySelectorAll("a[href], button, summary"))
        if (shown(one) && !(one.ariaLabel || one.textContent).trim()) say(one, "no name");
    for (const one of document.querySelectorAll("svg:not([aria-hidden]), img"))
        if (!one.ariaLabel && !one.alt) say(one, "a picture without text");
    for (const table of document.querySelectorAll("table")) {
        if (!table.caption) say(table, "a table without a caption");
        for (const head of table.querySelectorAll("th:not([scope])")) say(head, "a head of nothing");
    }
    const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
    for (const id of ids.filter((id, at) => ids.indexOf(id) !== at)) faults.push(`the id ${id} is there twice`);
    for (const name of ["aria-labelledby", "aria-describedby"])
        for (const one of document.querySelectorAll(`[${name}]`))
            for (const id of one.getAttribute(name).split(" "))
                if (id && !document.getElementById(id)) say(one, `nothing has the id ${id}`);
    for (const one of document.querySelectorAll("button, input:not([type=hidden]), select, nav a")) {
        const { width, height } = one.getBoundingClientRect();
        const around = one.closest("label, td.tick")?.getBoundingClientRect();
        if (shown(one) && Math.max(height, around?.height ?? 0) < 24) say(one, `only ${height} high`);
        if (shown(one) && Math.max(width, around?.width ?? 0) < 24) say(one, `only ${width} wide`);
    }
    if (document.documentElement.scrollWidth > innerWidth) {
        const wide = [...document.body.querySelectorAll("*")].filter((node) =>
            node.getBoundingClientRect().right > innerWidth + 1 && !node.closest(".scroll, .unseen, .skip"));
        faults.push(`${document.documentElement.scrollWidth} wide: ${wide.map((node) => node.outerHTML.slice(0, 80))}`);
    }
    return faults;
}"""

#: Texts that stand out too little from what is behind them (WCAG 2.2, 1.4.3 AA), with their ratio.
FAINT = """() => {
    const parse = (text) => {
        const found = text.match(/[\\d.]+/g).map(Number);
        const scale = text.startsWith("color(srgb") ? 255 : 1;
        return { rgb: found.slice(0, 3).map((value) => value * scale), alpha: found[3] ?? 1 };
    };
    const over = (above, below) => above.rgb.map((value, at) => value * above.alpha + below[at] * (1 - above.alpha));
    const light = (rgb) => {
        const [r, g, b] = rgb.map((value) => value / 255)
            .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        if (!node) return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
        const own = parse(getComputedStyle(node).backgroundColor);
        return own.alpha === 1 ? own.rgb : over(own, behind(node.parentElement));
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || node.closest("svg, option, .unseen, .skip")) continue;
        if (!node.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
        const style = getComputedStyle(node);
        const ground = behind(node);
        const [high, low] = [light(over(parse(style.color), ground)), light(ground)].sort((a, b) => b - a);
        const ratio = (high + 0.05) / (low + 0.05);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)}: ${node.outerHTML.slice(0, 160)}`);
    }
    return [...new Set(found)];
}"""
