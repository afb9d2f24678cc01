"""What pages are about: things that tests put into a cloud, and what its audit says of them."""

from __future__ import annotations

from conftest import Cloud
from page_helpers import Checker
from record_helpers import Device, sql, subscribe

from cloud.flows import audit, conflicts, enrolment, identity
from cloud.flows.incidents import Alerting, Terms
from cloud.services import wall_ms
from cloud.store.db import Row
from pisyncd.core import wire
from pisyncd.core.record import TypeRule

HOSTILE = '=1+1\n"><script>alert(1)</script>\u202e{{ 7*7 }}'


async def told(cloud: Cloud, action: str) -> list[Row]:
    """What the audit says of an action, newest first."""
    async with cloud.services.db.reading() as tx:
        return await audit.entries(tx, audit.Wanted(action=action), limit=500)


async def whole_audit(cloud: Cloud) -> str:
    async with cloud.services.db.reading() as tx:
        return "\n".join(str(dict(row)) for row in await audit.entries(tx, limit=500))


async def group(cloud: Cloud, name: str, kind: str = "group") -> None:
    """A group to name."""
    now = wall_ms()
    values = f"('{name}', '{kind}', NULL, NULL, NULL, '', {now}, {now})"
    await sql(cloud, f"INSERT INTO device_group VALUES {values}", write=True)


async def incident(cloud: Cloud, subject: str, *device_ids: str) -> int:
    """Devices are overdue, and nobody has taken it on."""
    now, db = wall_ms(), cloud.services.db
    async with db.transaction() as tx:
        number: int = await tx.value(
            "add_incident",
            rule="needs-a-person",
            kind="device" if len(device_ids) == 1 else "group",
            subject=subject,
            cause="overdue",
            fault="",
            escalate_at_ms=now + 3_600_000,
            devices=len(device_ids),
            now_ms=now,
        )
        dks = [await identity.device_key(tx, each) for each in device_ids]
        await tx.bulk("join_incident", [(number, dk, now) for dk in dks])
        # In the same transaction: the cloud's own alerter closes what is about devices that are well.
        overdue = "UPDATE device_standing SET state = 'overdue', under = 'overdue', due_at_ms = NULL"
        await tx._connection.execute(f"{overdue} WHERE dk IN ({', '.join(map(str, dks))})")  # type: ignore[attr-defined]
    await Alerting(db, wall_ms, Terms()).look()
    return number


async def member(cloud: Cloud, device_id: str, name: str) -> None:
    """A device of a group."""
    values = f"SELECT dk, '{name}', 'group' FROM device WHERE device_id = '{device_id}'"
    await sql(cloud, f"INSERT INTO group_member (dk, name, kind) {values}", write=True)


async def asks(cloud: Cloud, device_id: str, fleet_key: str, **hardware: str) -> None:
    """A device with a prepared card asks to be let in."""
    asked = enrolment.Asked(
        device_id=device_id,
        token_hash=wire.token_hash(f"token of {device_id} {hardware}"),
        hardware=hardware,
        address="192.0.2.7",
    )
    answer = await enrolment.by_fleet_key(cloud.services.db, fleet_key, asked, wall_ms())
    assert answer.state == "pending"


async def undecided(cloud: Cloud, name: str = "attendance") -> str:
    """Two devices write the same record without having seen each other, of a type that people decide."""
    cloud.services.records.rules[name] = TypeRule(strategy="manual")
    for device_id, value in (("pi-1", "present <b>"), ("pi-2", "absent")):
        one = await Device.enroll(cloud, device_id, name)
        await subscribe(cloud, device_id, "group", "4b")
        await one.push(one.write({"status": value, "group_id": "4b"}, trusted=device_id == "pi-1"))
    async with cloud.services.db.reading() as tx:
        (found, *_), _ = await conflicts.page(tx, conflicts.Wanted(state="open"), limit=1, offset=0)
    return str(found.row["id"])


def only_secret(page: Checker) -> str:
    """The secret that a page shows, once."""
    (found,) = page.secrets
    assert page.text.count(found) == 1
    assert not any(found in link for link in page.links)
    assert all(found not in value for each in page.forms for several in each.fields.values() for value in several)
    return found
