"""Groups, sites and regions, and what belongs to them; tags, labels and notes of devices. All of it is audited."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cloud.flows import audit, identity
from cloud.rules import access
from cloud.store.db import Database, Row, Tx
from pisyncd.core import problems
from pisyncd.core.problems import Refusal

Kind = Literal["group", "site", "region"]
KINDS: tuple[Kind, ...] = ("group", "site", "region")
PUT = "group.put"
REMOVED = "group.removed"
DESCRIBED = "device.described"
RETAGGED = "tag.changed"
TAGS_MAX = 50
TEXT_MAX = 2000


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group. `parent`: the region of a site; `calendar`: a name of calendar_file; `learners`: how many it serves."""

    name: str
    kind: Kind = "group"
    parent: str | None = None
    calendar: str | None = None
    learners: int | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What people say of a device; None: stays as it is. `site` '': none."""

    label: str | None = None
    note: str | None = None
    site: str | None = None
    groups: Collection[str] | None = None
    tags: Collection[str] | None = None


async def groups(tx: Tx) -> list[Row]:
    """All groups with the number of their devices."""
    return await tx.all("groups_and_members")


async def tags(tx: Tx) -> list[Row]:
    """All tags with the number of their devices."""
    return await tx.all("tags_and_members")


async def put_group(db: Database, group: Group, *, actor: str, now_ms: int) -> None:
    """Makes or changes a group; the region of a site's devices follows. Raises Refusal 409, 422."""
    if not access.is_name(group.name):
        raise problems.invalid(
            "/name", "name", f"{group.name[:80]!r} cannot name a group", hint="letters, digits, . _ @ -"
        )
    if group.kind not in KINDS:
        raise problems.invalid("/kind", "enum", f"kind is one of {', '.join(KINDS)}")
    if group.parent is not None and group.kind != "site":
        raise problems.invalid("/parent", "parent", "only a site has a region", hint="leave parent out")
    if len(group.note) > TEXT_MAX or "\0" in group.note:
        raise problems.invalid("/note", "text", f"a note has at most {TEXT_MAX} characters")
    async with db.transaction() as tx:
        known = {row["name"]: row for row in await groups(tx)}
        before = known.get(group.name)
        if group.parent is not None and (group.parent not in known or known[group.parent]["kind"] != "region"):
            raise problems.invalid(
                "/parent", "region-unknown", f"there is no region {group.parent!r}"[:200], hint="make it first"
            )
        if before is not None and before["kind"] != group.kind and before["devices"]:
            raise Refusal(
                409, "group-in-use", f"{group.name} has devices as a {before['kind']}", hint="move them first"
            )
        await tx.run(
            "put_group",
            name=group.name,
            kind=group.kind,
            parent=group.parent,
            calendar=group.calendar,
            learners=group.learners,
            note=group.note,
            now_ms=now_ms,
        )
        if group.kind == "site":
            await tx.run("leave_regions_of_site", site=group.name)
            await tx.run("join_region_of_site", site=group.name)
        await tx.run("fleet_changed")
        await _tell(tx, PUT, group.name, actor, now_ms, kind=group.kind, parent=group.parent)


async def remove_group(db: Database, name: str, *, force: bool, actor: str, now_ms: int) -> None:
    """Its devices belong to it no more. Raises Refusal 404, 409 while it has devices, unless `force`."""
    async with db.transaction() as tx:
        known = {row["name"]: row for row in await groups(tx)}
        if name not in known:
            raise Refusal(404, "group-unknown", f"there is no group {name!r}"[:200], hint="GET /api/groups lists them")
        held = known[name]["devices"]
        if held and not force:
            raise Refusal(409, "group-in-use", f"{name} has {held} devices", hint="move them first, or say force")
        await tx.run("leave_regions_of_site", site=name)
        await tx.run("leave_group", name=name)
        await tx.run("orphan_sites", name=name)
        await tx.run("drop_group", name=name)
        await tx.run("fleet_changed")
        await _tell(tx, REMOVED, name, actor, now_ms, devices=held)


async def set_members(tx: Tx, dk: int, site: str | None, names: Collection[str]) -> None:
    """Exactly this site (None: none), its region and these groups. Raises Refusal 422."""
    known = {row["name"]: row for row in await groups(tx)}
    unknown = sorted((set(names) | ({site} if site else set())) - set(known))
    if unknown:
        raise problems.invalid(
            "/groups", "group-unknown", f"there is no group {', '.join(unknown)}"[:300], hint="make it first"
        )
    if site and known[site]["kind"] != "site":
        raise problems.invalid("/site", "site-unknown", f"{site} is no site", hint="give it as a group")
    wrong = [name for name in names if known[name]["kind"] != "group"]
    if wrong:
        raise problems.invalid(
            "/groups", "kind", f"{wrong[0]} is a {known[wrong[0]]['kind']}", hint="give a site as `site`"
        )
    wanted = dict.fromkeys(names, "group")
    if site:
        wanted[site] = "site"
        region = known[site]["parent"]
        wanted |= {region: "region"} if region else {}
    await tx.run("leave_all_groups", dk=dk)
    await tx.bulk("join_groups", [(dk, name, kind) for name, kind in sorted(wanted.items())])


async def set_tags(tx: Tx, dk: int, wanted: Collection[str]) -> None:
    """Exactly these tags. Raises Refusal 422."""
    if len(wanted) > TAGS_MAX or not all(access.is_name(tag) for tag in wanted):
        raise problems.invalid("/tags", "tag", f"at most {TAGS_MAX} tags of letters, digits, . _ @ - and blanks")
    await tx.run("drop_tags", dk=dk)
    await tx.bulk("add_tags", [(dk, tag) for tag in sorted(set(wanted))])


async def rename_tag(db: Database, old: str, new: str | None, *, actor: str, now_ms: int) -> int:
    """Gives a tag another name on all its devices, or takes it from them (None); how many. Raises Refusal 404, 422."""
    if new is not None and not access.is_name(new):
        raise problems.invalid("/tag", "tag", "a tag is made of letters, digits, . _ @ - and blanks")
    async with db.transaction() as tx:
        held = {row["tag"]: row["devices"] for row in await tags(tx)}
        if old not in held:
            raise Refusal(404, "tag-unknown", f"no device has the tag {old!r}"[:200], hint="GET /api/tags lists them")
        if new is not None and new != old:
            await tx.run("retag", old=old, new=new)
        if new != old:
            await tx.run("drop_tag", old=old)
        await tx.run("fleet_changed")
        await _tell(tx, RETAGGED, old, actor, now_ms, new=new, devices=held[old])
    return int(held[old])


async def of_device(tx: Tx, dk: int) -> tuple[str | None, list[str], list[str]]:
    """(its site, its groups without site and region, its tags)."""
    rows = await tx.all("groups_of_device", dk=dk)
    site = next((row["name"] for row in rows if row["kind"] == "site"), None)
    named = [row["name"] for row in rows if row["kind"] == "group"]
    return site, named, [row["tag"] for row in await tx.all("tags_of_device", dk=dk)]


async def describe(tx: Tx, dk: int, device_id: str, said: Described, *, actor: str, now_ms: int) -> None:
    """Changes what people say of a device. Raises Refusal 422."""
    for name, text, most in (("label", said.label, 100), ("note", said.note, TEXT_MAX)):
        if text is not None and (len(text) > most or not all(char.isprintable() or char in "\n\r\t" for char in text)):
            raise problems.invalid(f"/{name}", "text", f"{name} has at most {most} printable characters")
    site, named, _ = await of_device(tx, dk)
    if said.label is not None or said.note is not None:
        await tx.run("describe_device", dk=dk, label=said.label, note=said.note)
    if said.site is not None or said.groups is not None:
        chosen = site if said.site is None else said.site or None
        await set_members(tx, dk, chosen, named if said.groups is None else said.groups)
    if said.tags is not None:
        await set_tags(tx, dk, said.tags)
    await tx.run("fleet_changed")
    changed = {
        name: sorted(value) if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str) else value
        for name, value in (("label", said.label), ("site", said.site), ("groups", said.groups), ("tags", said.tags))
        if value is not None
    }
    await _tell(tx, DESCRIBED, device_id, actor, now_ms, **changed)


async def assign(db: Database, device_id: str, said: Described, *, actor: str, now_ms: int) -> None:
    """`describe` by the device's id. Raises Refusal 404, 422."""
    async with db.transaction() as tx:
        dk = await identity.device_key(tx, device_id)
        await describe(tx, dk, device_id, said, actor=actor, now_ms=now_ms)


async def _tell(tx: Tx, action: str, target: str, actor: str, now_ms: int, **detail: Any) -> None:
    await audit.record(tx, now_ms=now_ms, actor=actor, action=action, target=target, detail=detail)
