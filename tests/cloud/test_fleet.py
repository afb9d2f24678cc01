"""Lists and figures of a fleet are what a plain model says, on both databases; nobody sees beyond their groups."""

from __future__ import annotations

import random
from typing import Any

import pytest
from conftest import Cloud
from msgspec.structs import astuple

from cloud.flows import fleet, groups, identity
from cloud.flows.fleet import Ages, Overview, Wanted
from cloud.flows.groups import Described, Group
from cloud.rules import fleet as rules
from cloud.rules.standing import Standing
from cloud.store.db import Database
from pisyncd.core.problems import Refusal

ACTOR = "operator:amina"
NOW = 1_800_000_000_000
HOUR_MS = 3_600_000
STATES = ("new", "healthy", "failing", "overdue", "retired")
SITES = {"kasese": "west", "gulu": "north", "arua": "north", "alone": None}


async def build(db: Database, count: int, seed: int) -> list[dict[str, Any]]:
    """A random fleet, and the model of it."""
    rng = random.Random(seed)
    for name in ("west", "north"):
        await groups.put_group(db, Group(name=name, kind="region"), actor=ACTOR, now_ms=NOW)
    for name, region in SITES.items():
        await groups.put_group(db, Group(name=name, kind="site", parent=region), actor=ACTOR, now_ms=NOW)
    await groups.put_group(db, Group(name="pilot"), actor=ACTOR, now_ms=NOW)
    model = []
    for number in range(count):
        device_id = f"{rng.choice(['Pi', 'box'])}-{number:03d}"
        await identity.enroll(db, device_id, NOW)
        site = rng.choice([None, *SITES])
        one: dict[str, Any] = {
            "device_id": device_id, "site": site, "state": rng.choice(STATES),
            "groups": {"pilot"} if rng.random() < 0.3 else set(), "tags": {"lab"} if rng.random() < 0.3 else set(),
            "age_ms": rng.choice([None, 0, HOUR_MS // 2, 2 * HOUR_MS, 5 * HOUR_MS, 40 * 24 * HOUR_MS]),
            "fault": rng.choice([None, None, "card-full", "dns"]), "label": rng.choice(["", "Head's desk"]),
        }  # fmt: skip
        said = Described(label=one["label"], site=site or "", groups=one["groups"], tags=one["tags"])
        await groups.assign(db, device_id, said, actor=ACTOR, now_ms=NOW)
        async with db.transaction() as tx:
            dk = await identity.device_key(tx, device_id)
            rows = await tx.lookup("standings_for_update", [(dk,)])
            assert len(rows) == 1
            await tx.bulk("save_standings", [_standing(one["state"], dk)])
            success = None if one["age_ms"] is None else NOW - one["age_ms"]
            await tx.bulk(
                "save_states", [(0, 0, 0, 0, 0, 0, None, None, success, None, None, None, None, None, NOW, NOW, dk)]
            )
            if one["fault"]:
                await tx.bulk("add_faults", [(dk, one["fault"], NOW - 9, NOW, 3, NOW - 9)])
        one["reach"] = one["groups"] | ({site} if site else set()) | ({SITES[site]} if site and SITES[site] else set())
        model.append(one)
    return model


def _standing(state: Any, dk: int) -> tuple[Any, ...]:
    return astuple(Standing(dk=dk, state=state, under=state, since_ms=NOW, reason="heard", heard_ms=NOW))


def matches(one: dict[str, Any], wanted: Wanted, reach: frozenset[str] | None) -> bool:
    age_s = None if one["age_ms"] is None else one["age_ms"] / 1000
    freshness = rules.freshness(age_s, fresh_s=3600, stale_s=3 * 3600)
    return (
        (reach is None or bool(reach & one["reach"]))
        and (wanted.state is None or one["state"] == wanted.state)
        and (wanted.group is None or wanted.group in one["reach"])
        and (wanted.tag is None or wanted.tag in one["tags"])
        and (wanted.fault is None or one["fault"] == wanted.fault)
        and wanted.search.lower() in (one["device_id"] + "\n" + one["label"]).lower()
        and (wanted.fresh is None or freshness == wanted.fresh)
    )


WANTED = [
    Wanted(), Wanted(state="failing"), Wanted(group="north"), Wanted(group="kasese"), Wanted(group="pilot"),
    Wanted(tag="lab"), Wanted(fault="card-full"), Wanted(search="pi-0"), Wanted(search="HEAD'S"), Wanted(search="%"),
    *(Wanted(fresh=each) for each in rules.FRESHNESS), *(Wanted(sort=each) for each in rules.SORTS),
    Wanted(state="overdue", group="north", fresh="stale"), Wanted(group="nowhere"),
]  # fmt: skip
REACHES = [None, frozenset({"north"}), frozenset({"pilot", "kasese"}), frozenset({"nowhere"}), frozenset[str]()]


async def test_lists_and_figures_are_what_a_model_says(db: Database) -> None:
    model = await build(db, 40, seed=7)
    async with db.reading() as tx:
        for reach in REACHES:
            for wanted in WANTED:
                rows, total = await fleet.devices(tx, wanted, reach, ages=Ages(), now_ms=NOW, limit=500, offset=0)
                expected = {one["device_id"] for one in model if matches(one, wanted, reach)}
                assert {row["device_id"] for row in rows} == expected, (wanted, reach)
                assert total == len(rows)
            found = await Overview(db=db, now_ms=lambda: NOW).of(reach)
            seen = [one for one in model if matches(one, Wanted(), reach)]
            assert found.states == {s: n for s in STATES if (n := sum(one["state"] == s for one in seen))}
            assert sum(bucket.devices for bucket in found.freshness) == len(seen)
            assert {each.code: each.devices for each in found.faults} == {
                code: n for code in ("card-full", "dns") if (n := sum(one["fault"] == code for one in seen))
            }
            assert (len(found.hours) == 48) == (reach is None)


async def test_the_order_and_the_pages(db: Database) -> None:
    await build(db, 30, seed=3)
    async with db.reading() as tx:
        for sort in rules.SORTS:
            whole, total = await fleet.devices(
                tx, Wanted(sort=sort), None, ages=Ages(), now_ms=NOW, limit=500, offset=0
            )
            pages = []
            for offset in range(0, total, 7):
                rows, _ = await fleet.devices(
                    tx, Wanted(sort=sort), None, ages=Ages(), now_ms=NOW, limit=7, offset=offset
                )
                pages += [row["device_id"] for row in rows[:7]]
            assert pages == [row["device_id"] for row in whole]
        attention, _ = await fleet.devices(
            tx, Wanted(sort="attention"), None, ages=Ages(), now_ms=NOW, limit=500, offset=0
        )
    order = [row["state"] for row in attention]
    assert order == sorted(order, key=["failing", "overdue", "new", "healthy", "retired"].index)


async def test_a_site_that_moves_takes_its_devices_along(db: Database) -> None:
    model = await build(db, 20, seed=1)
    at_gulu = {one["device_id"] for one in model if one["site"] == "gulu"}
    assert at_gulu
    await groups.put_group(db, Group(name="gulu", kind="site", parent="west"), actor=ACTOR, now_ms=NOW)
    async with db.reading() as tx:
        rows, _ = await fleet.devices(tx, Wanted(group="west"), None, ages=Ages(), now_ms=NOW, limit=99, offset=0)
    west = {row["device_id"] for row in rows}
    assert west == {one["device_id"] for one in model if one["site"] in ("gulu", "kasese")}
    with pytest.raises(Refusal) as refused:
        await groups.remove_group(db, "west", force=False, actor=ACTOR, now_ms=NOW)
    assert refused.value.status == 409
    await groups.remove_group(db, "west", force=True, actor=ACTOR, now_ms=NOW)
    async with db.reading() as tx:
        rows, _ = await fleet.devices(tx, Wanted(group="gulu"), None, ages=Ages(), now_ms=NOW, limit=99, offset=0)
        known = {row["name"]: row["parent"] for row in await groups.groups(tx)}
    assert {row["device_id"] for row in rows} == at_gulu
    assert known["gulu"] is None


@pytest.mark.parametrize(
    "said",
    [Described(site="north"), Described(site="none"), Described(groups=["kasese"]), Described(groups=["none"]),
     Described(tags=["a/b"]), Described(tags=[str(n) for n in range(60)]), Described(label="x" * 101),
     Described(note="\0")],
)  # fmt: skip
async def test_what_cannot_be_said_of_a_device(db: Database, said: Described) -> None:
    await build(db, 1, seed=1)
    async with db.reading() as tx:
        rows, _ = await fleet.devices(tx, Wanted(), None, ages=Ages(), now_ms=NOW, limit=1, offset=0)
    with pytest.raises(Refusal) as refused:
        await groups.assign(db, rows[0]["device_id"], said, actor=ACTOR, now_ms=NOW)
    assert refused.value.status == 422


@pytest.mark.parametrize(
    "group", [Group(name="a/b"), Group(name="x", parent="north"), Group(name="s", kind="site", parent="nowhere"),
              Group(name="s", kind="site", parent="pilot"), Group(name="n", note="x" * 3000)],
)  # fmt: skip
async def test_what_cannot_be_a_group(db: Database, group: Group) -> None:
    await build(db, 0, seed=1)
    with pytest.raises(Refusal) as refused:
        await groups.put_group(db, group, actor=ACTOR, now_ms=NOW)
    assert refused.value.status == 422


async def test_a_hundred_pages_look_once(cloud_lite: Cloud) -> None:
    clock = [NOW]
    overview = Overview(db=cloud_lite.services.db, now_ms=lambda: clock[0])
    first = await overview.of(None)
    assert await overview.of(None) is first
    clock[0] += fleet.KEPT_MS
    assert await overview.of(None) is not first
