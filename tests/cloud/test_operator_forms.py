"""All pages of operators: for whom each is, that no form works from elsewhere, and that names are only text."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Cloud
from page_content import HOSTILE, asks, group, incident, member, only_secret, undecided, whole_audit
from page_helpers import Checker, Person

from cloud.rules import access

SignIn = Callable[..., Awaitable[Person]]


# Everything


PAGES: dict[str, tuple[str, bool]] = {
    "/conflicts": ("viewer", False),
    "/incidents": ("viewer", True),
    "/enrolment": ("operator", False),
    "/exports": ("viewer", False),
    "/groups": ("viewer", True),
    "/notifications": ("viewer", False),
    "/notifications/rules": ("admin", False),
    "/notifications/channels": ("admin", False),
    "/people": ("admin", False),
    "/webhooks": ("admin", False),
    "/audit": ("admin", False),
    "/audit.csv": ("admin", False),
}


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_for_its_role(cloud_lite: Cloud, sign_in: SignIn, path: str) -> None:
    needed, grouped = PAGES[path]
    await group(cloud_lite, "north")
    for role in ("viewer", "operator", "admin"):
        may = access.covers(role, needed)  # type: ignore[arg-type]
        for where in (None, "north"):
            one = await sign_in(cloud_lite, role, where)
            status = 200 if may and (grouped or where is None) else 403
            async with one.http.get(cloud_lite.url + path, allow_redirects=False) as answer:
                assert answer.status == status, (path, role, where)
    async with cloud_lite.http.get(cloud_lite.url + path, allow_redirects=False) as answer:
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/login?next=")


def form_routes(cloud: Cloud) -> list[str]:
    """Every path that takes a form."""
    found = {
        route.resource.canonical
        for route in cloud.app.router.routes()
        if route.method == "POST" and route.resource and not route.resource.canonical.startswith(("/api", "/v1"))
    }
    return sorted(found - {"/login", "/logout"})


async def test_no_form_works_from_elsewhere_or_for_who_may_only_look(cloud_lite: Cloud, sign_in: SignIn) -> None:
    admin, viewer = await sign_in(cloud_lite), await sign_in(cloud_lite, "viewer")
    key = await cloud_lite.key("admin")
    before = await whole_audit(cloud_lite)
    token = (await viewer.get("/exports")).forms[0].fields["csrf"][0]
    for route in form_routes(cloud_lite):
        path = cloud_lite.url + re.sub(r"\{.*?\}", "some", route)
        for data in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": token}):
            async with admin.http.post(path, data=data, allow_redirects=False) as answer:
                assert answer.status == 403, (route, data)
        async with viewer.http.post(path, data={"csrf": token}, allow_redirects=False) as answer:
            assert answer.status == 403, route
        async with cloud_lite.http.post(path, data={"csrf": token}, headers=key, allow_redirects=False) as answer:
            assert answer.status == 303, route
            assert answer.headers["Location"] == "/login"
    assert await whole_audit(cloud_lite) == before


OWN = (
    "/enrolment",
    "/incidents",
    "/notifications",
    "/groups",
    "/conflicts",
    "/webhooks",
    "/exports",
    "/audit",
    "/people",
)


#: What operators may send.
OPERATORS = ("/conflicts/", "/incidents/", "/notifications/silences", "/enrolment/requests", "/enrolment/codes")


async def filled(cloud: Cloud, admin: Person) -> None:
    """Something hostile of everything that people can write."""
    await undecided(cloud)
    await group(cloud, "north")
    await member(cloud, "pi-1", "north")
    number = await incident(cloud, "pi-1", "pi-1")
    page = await admin.get(f"/incidents/{number}")
    await admin.send(page.form(f"/incidents/{number}/acknowledge"), note=HOSTILE)
    page = await admin.get("/webhooks")
    await admin.shown(page.form("/webhooks"), url="https://one.example/hook", description=HOSTILE)
    page = await admin.get("/groups/north")
    await admin.send(page.form("/groups/north"), note=HOSTILE)
    page = await admin.get("/notifications/channels")
    await admin.send(page.form("/notifications/channels"), name="duty", url="json://one.example/<b>")
    page = await admin.get("/notifications/rules")
    await admin.send(
        page.form("/notifications/rules"), name="all", channels=["duty"], faults="<script>alert(2)</script>"
    )
    soon = (datetime.now(UTC) + timedelta(days=7)).date()
    page = await admin.get("/notifications")
    silence = page.form("/notifications/silences")
    await admin.send(silence, tag="<img src=x>", comment=HOSTILE, until=f"{soon}T10:00")
    page = await admin.get("/enrolment")
    key = only_secret(await admin.shown(page.form("/enrolment/fleet-keys"), name="cards"))
    await asks(cloud, "pi-3", key, model=HOSTILE)
    page = await admin.get("/people")
    await admin.shown(page.form("/people"), name="amina", groups_viewer="north")
    await admin.shown(page.form("/people/keys"), name="reports")


async def crawl(one: Person) -> dict[str, Checker]:
    """Every page of ours that links lead to."""
    seen: dict[str, Checker] = {}
    waiting = [path for path, (role, _) in PAGES.items() if not path.endswith(".csv") and role]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        async with one.http.get(one.cloud.url + path, allow_redirects=False) as answer:
            if answer.status == 403:
                continue
        seen[path] = page = await one.get(path)
        ours = {link.partition("#")[0] for link in page.links if link.startswith(OWN) and ".csv" not in link}
        waiting += [link for link in ours if link not in {form.action for form in page.posts}]
    return seen


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_every_page_is_whole_and_its_forms_are_ours(cloud_lite: Cloud, sign_in: SignIn, role: str) -> None:
    await filled(cloud_lite, await sign_in(cloud_lite))
    one = await sign_in(cloud_lite, role)
    pages = await crawl(one)
    token = next(iter(pages.values())).posts[0].fields["csrf"]
    assert token[0]
    assert any(path.startswith("/conflicts/") for path in pages)
    assert any(path.startswith("/webhooks/") for path in pages) == (role == "admin")
    for path, page in pages.items():
        assert page.tags.isdisjoint({"i", "img"}), path
        assert "\u202e" not in page.text, path
        assert page.secrets == [], path
        for each in page.posts:
            assert each.fields.get("csrf") == token, (path, each.action)
            assert each.buttons == 1, (path, each.action)
            if role != "admin" and each.action != "/logout":
                assert role == "operator", (path, each.action)
                assert each.action.startswith(OPERATORS), each.action
