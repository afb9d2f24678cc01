"""The operators' pages in a real browser: found, taken on, seen to change; by keyboard, on a phone, without scripts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from operator_rig import FAINT, FAULTS, Service, picture, populate, serving, sign_in
from playwright.async_api import Browser, Page, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES = {
    "overview": "/",
    "devices": "/devices",
    "device-failing": "/devices/pi-arua-09",
    "device-healthy": "/devices/pi-gulu-02",
    "device-muted": "/devices/pi-muted-13",
    "device-retire": "/devices/pi-new-18/retire",
    "failures": "/failures",
    "incidents": "/incidents",
    "incident": "/incidents/1",
    "conflicts": "/conflicts",
    "webhooks": "/webhooks",
    "exports": "/exports",
    "audit": "/audit",
    "notifications": "/notifications",
    "groups": "/groups",
    "enrolment": "/enrolment",
    "people": "/people",
}
LIGHT: dict[str, Any] = {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}}
DARK: dict[str, Any] = {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}

NewPage = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(loop_scope="session")
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """An empty service."""
    async with serving(tmp_path / "cloud") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with devices of every state, for tests that only look."""
    async with serving(tmp_path_factory.mktemp("fleet") / "cloud") as running:
        await populate(running)
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(browser: Browser) -> AsyncIterator[NewPage]:
    """Opens pages, each with a profile of its own; none of them may complain, and all ask one host only."""
    contexts, loud, hosts = [], [], set()

    async def opened(**options: Any) -> Page:
        context = await browser.new_context(**{**LIGHT, **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = await context.new_page()
        page.on("pageerror", lambda error: loud.append(str(error)))
        page.on("console", lambda said: loud.append(said.text) if said.type != "debug" else None)
        page.on("request", lambda request: hosts.add(re.sub(r"^(\w+:)(//[^/]*)?.*", r"\1\2", request.url, flags=re.S)))
        return page

    yield opened
    for context in contexts:
        await context.close()
    assert loud == []
    # A refusal by the policy is told on the console as well; an asset of another host would be asked for here.
    assert {host for host in hosts if host != "data:" and "//127.0.0.1:" not in host} == set()


async def test_failing_devices_are_found_taken_on_and_seen_to_change(service: Service, new_page: NewPage) -> None:
    headers = {name: await service.enroll(name) for name in ("pi-1", "pi-2", "pi-3")}
    await service.sync("pi-1", headers["pi-1"])
    await service.fails("pi-2", headers["pi-2"])
    await service.judged()
    page = await new_page()
    await sign_in(page, service, await service.person("operator"))
    await expect(page.locator(".lead")).to_contain_text("1 device fails; 1 device: card full since")
    await page.get_by_role("link", name="1 failing").click()
    await expect(page.get_by_role("heading", name="Devices")).to_be_visible()
    await page.get_by_role("link", name="pi-2").click()
    await expect(page.get_by_text("free some space on the card")).to_be_visible()
    await page.get_by_label("Note (optional)").first.fill("going there on Monday")
    await page.get_by_role("button", name="Acknowledge").click()
    await expect(page.get_by_role("status").filter(has_text="Acknowledged")).to_be_visible()
    await expect(page.get_by_text("going there on Monday")).to_be_visible()

    # From here on nothing is loaded again: what changes, changes in the page that is open.
    await page.evaluate("window.sameStill = true")
    await page.locator("summary", has_text="Mute").click()
    await page.get_by_label("Why (optional)").fill("half a sent")
    await expect(page.get_by_role("heading", name="pi-2").locator("..")).to_contain_text("failing")
    await service.sync("pi-2", headers["pi-2"])
    await service.judged()
    await expect(page.get_by_role("heading", name="pi-2").locator("..")).to_contain_text("healthy")
    await expect(page.locator("#live-shown")).to_contain_text("updated")
    await expect(page.locator("#live-said")).to_contain_text("Updated at")
    await page.keyboard.type("ence")
    assert await page.get_by_label("Why (optional)").input_value() == "half a sentence"
    assert await page.evaluate("window.sameStill") is True


async def test_rows_that_move_keep_what_a_person_is_about_to_do(service: Service, new_page: NewPage) -> None:
    headers = {name: await service.enroll(name) for name in ("pi-1", "pi-2", "pi-3")}
    for name in headers:
        await service.sync(name, headers[name])
    await service.judged()
    page = await new_page()
    await sign_in(page, service, await service.person("viewer"), "/devices?sort=attention")
    await page.evaluate("window.sameStill = true")
    link = page.get_by_role("link", name="pi-2")
    await link.focus()
    await service.fails("pi-3", headers["pi-3"])
    await service.judged()
    await expect(page.locator("tbody tr").first).to_contain_text("pi-3")
    await expect(link).to_be_focused()
    assert await page.locator("tbody tr").count() == 3
    await service.fails("pi-2", headers["pi-2"], "portal")
    await service.judged()
    await expect(page.locator("tbody tr").filter(has_text="failing")).to_have_count(2)
    await expect(link).to_be_focused()
    assert await page.evaluate("window.sameStill") is True


async def test_who_is_signed_out_elsewhere_is_told(service: Service, new_page: NewPage) -> None:
    who = await service.person("viewer")
    page = await new_page()
    await sign_in(page, service, who)
    await expect(page.locator("#live-shown")).to_contain_text("live")
    cookie = next(each for each in await page.context.cookies() if each["name"] == "pisync_session")
    await service.services.identity.end_session(cookie["value"])
    await service.enroll("pi-new")
    await service.judged()
    await expect(page.locator("#live-shown")).to_contain_text("signed out")


async def test_everything_is_reached_by_keyboard(service: Service, new_page: NewPage) -> None:
    for number in range(2):
        name = f"pi-{number}"
        await service.fails(name, await service.enroll(name))
    await service.judged()
    page = await new_page()
    await page.goto(service.url)
    name, password = await service.person("operator")
    await page.keyboard.type(name)
    await page.keyboard.press("Tab")
    await page.keyboard.type(password)
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"{service.url}/")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()

    async def tab_to(name: str | re.Pattern[str]) -> None:
        for _ in range(40):
            await page.keyboard.press("Tab")
            found = await page.evaluate("(document.activeElement.ariaLabel ?? document.activeElement.innerText).trim()")
            outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", await page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
            if re.search(name, found):
                return
        raise AssertionError(f"no way to {name}")

    await tab_to(r"failing")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/devices?state=failing")
    await tab_to(r"^pi-0$")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/devices/pi-0")
    await tab_to(r"^Acknowledge")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("Taken on by operator:")).to_be_visible()
    await tab_to(r"^Mute$")
    await page.keyboard.press("Enter")
    await tab_to(r"^Mute$")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("It would be")).to_be_visible()


async def test_without_scripts_everything_works(service: Service, new_page: NewPage) -> None:
    await service.fails("pi-1", await service.enroll("pi-1"))
    await service.enroll("pi-2")
    await service.judged()
    page = await new_page(java_script_enabled=False)
    await sign_in(page, service, await service.person("admin"))
    await page.get_by_role("button", name="Acknowledge").click()
    await expect(page.get_by_text("Acknowledged: nobody else is told of it.")).to_be_visible()
    await page.get_by_role("link", name="Devices", exact=True).click()
    await page.get_by_label("State").select_option("new")
    await page.get_by_role("button", name="Show").click()
    await expect(page.get_by_text("1 device ·")).to_be_visible()
    await page.get_by_role("link", name="pi-2").click()
    await page.get_by_text("Describe it").click()
    await page.get_by_label("Label").fill("In the library")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".lead")).to_have_text("In the library")
    await page.get_by_role("link", name="Retire …").click()
    await page.get_by_label("Its id, to be sure").fill("pi-2")
    await page.get_by_role("button", name="Retire it").click()
    await expect(page.get_by_text("its tokens hold no more")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@pytest.mark.parametrize(("look", "options"), [("light", LIGHT), ("dark", DARK), ("phone", PHONE)])
async def test_every_page_can_be_read(
    fleet: Service, new_page: NewPage, tmp_path: Path, look: str, options: dict[str, Any]
) -> None:
    page = await new_page(**options)
    await page.goto(f"{fleet.url}/login")
    wrong = {"sign-in": await page.evaluate(FAULTS) + await page.evaluate(FAINT)}
    await sign_in(page, fleet, await fleet.person("admin"))
    for name, path in PAGES.items():
        await page.goto(fleet.url + path)
        await picture(page, f"{look}-{name}", tmp_path)
        await page.evaluate("document.querySelectorAll('main details').forEach((fold) => (fold.open = true))")
        wrong[name] = await page.evaluate(FAULTS) + await page.evaluate(FAINT)
    assert {name: faults for name, faults in wrong.items() if faults} == {}
