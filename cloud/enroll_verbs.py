"""The command line's verbs for letting devices in: code, fleet-key, enrolments, accept, reject."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from cloud import verbs
from cloud.config import Settings
from cloud.dashboard import terminal, words
from cloud.flows import enrolment
from cloud.flows.enrolment import Place
from cloud.services import wall_ms
from cloud.store.db import Database, Row

Parser = argparse.ArgumentParser
Seconds = Callable[[str], int]


def _place(args: argparse.Namespace) -> Place:
    return Place(site=args.site, groups=tuple(args.group), tags=tuple(args.tag))


async def code(db: Database, settings: Settings, args: argparse.Namespace) -> None:
    """Prints a code for one device. Raises Refusal."""
    lasts_s = args.lasts or settings.enroll_code_s
    made = await enrolment.make_code(
        db, device_id=args.device, place=_place(args), lasts_s=lasts_s, actor=verbs.actor(), now_ms=wall_ms()
    )
    cloud = settings.public_url or "https://cloud.example.org"
    print(f"on the device, until {words.clock(wall_ms() + lasts_s * 1000)}:", file=sys.stderr)
    print(f"  sudo pisyncctl enroll --cloud {cloud} --code {made}", file=sys.stderr)
    print(made)


async def key_create(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Prints a key for prepared cards. Raises Refusal."""
    now_ms = wall_ms()
    print(
        await enrolment.make_fleet_key(
            db,
            args.name,
            place=_place(args),
            auto_accept=args.auto_accept,
            devices_max=args.devices_max,
            expires_at_ms=None if args.lasts is None else now_ms + args.lasts * 1000,
            actor=verbs.actor(),
            now_ms=now_ms,
        )
    )


async def key_list(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """All keys; their secrets are not kept."""
    async with db.reading() as tx:
        rows = await enrolment.fleet_keys(tx)
    empty = "no fleet key; `pisync-cloud fleet-key create NAME`"
    if args.json:
        terminal.show(_json(rows, "key_hash"), empty=empty)
        return
    cells = (
        (
            row["name"],
            "by itself" if row["auto_accept"] else "by a person",
            f"{row['devices']}{'' if row['devices_max'] is None else ' of ' + str(row['devices_max'])}",
            "revoked" if row["revoked_at_ms"] else words.clock(row["expires_at_ms"]) or "-",
        )
        for row in rows
    )
    terminal.show(terminal.table(("NAME", "ACCEPTED", "DEVICES", "ENDS"), cells) if rows else "", empty=empty)


async def key_revoke(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Devices that are in stay. Raises Refusal."""
    await enrolment.revoke_fleet_key(db, args.name, actor=verbs.actor(), now_ms=wall_ms())


async def waiting(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Devices that wait to be let in."""
    async with db.reading() as tx:
        rows = await enrolment.requests(tx)
    if args.json:
        terminal.show(_json(rows, "token_hash"), empty="no device waits")
        return
    now_ms = wall_ms()
    cells = (
        (
            row["device_id"],
            words.ago(row["first_at_ms"], now_ms),
            row["fleet_key"],
            row["address"],
            "is in already!" if row["known"] else "",
        )
        for row in rows
    )
    heads = ("DEVICE", "SINCE", "FLEET KEY", "FROM", "NOTE")
    terminal.show(terminal.table(heads, cells) if rows else "", empty="no device waits")


def _json(rows: list[Row], secret: str) -> str:
    shown = ({key: value for key, value in dict(row).items() if key != secret} for row in rows)
    return "\n".join(msgspec.json.encode(each).decode() for each in shown)


async def accept(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Lets a device in that waits. Raises Refusal."""
    async with db.transaction() as tx:
        await enrolment.accept(
            tx, args.device_id, request_id=args.request, replace=args.replace, actor=verbs.actor(), now_ms=wall_ms()
        )
    print(f"{args.device_id} is in; it notices when it asks again", file=sys.stderr)


async def reject(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Keeps a device out that waits. Raises Refusal."""
    async with db.transaction() as tx:
        await enrolment.reject(tx, args.device_id, request_id=args.request, actor=verbs.actor(), now_ms=wall_ms())


def parser(
    commands: Any,
    parents: tuple[Parser, Parser],
    command: Callable[..., Any],
    whole: Callable[[str], int],
    seconds: Seconds,
) -> None:
    """Adds the verbs; `parents` are those of every verb and of lists."""
    common, listing = parents

    def verb(where: Any, name: str, work: Any, text: str, *more: Parser) -> Parser:
        made: Parser = where.add_parser(name, parents=[common, *more], help=text, description=text)
        made.set_defaults(command=command(work))
        return made

    def place(made: Parser) -> None:
        made.add_argument("--site", metavar="SITE", help="where it belongs; it gets the records of the site")
        made.add_argument("--group", action="append", default=[], metavar="GROUP", help="may be repeated")
        made.add_argument("--tag", action="append", default=[], metavar="TAG", help="may be repeated")
        made.add_argument("--expires", dest="lasts", type=seconds, metavar="7d", help="how long it works")

    made = verb(commands, "code", code, "make a code that lets one device in; prints it")
    made.add_argument("--device", metavar="DEVICE_ID", help="only this one; if it is in already, its tokens end")
    place(made)
    about = "keys on prepared cards, for many devices"
    group = commands.add_parser("fleet-key", help=about, description=about)
    found = group.add_subparsers(dest="fleet_key_verb", required=True, metavar="COMMAND")
    made = verb(found, "create", key_create, "make a key; prints it")
    made.add_argument("name", metavar="NAME")
    place(made)
    made.add_argument("--auto-accept", action="store_true", help="nobody has to accept its devices")
    made.add_argument("--devices-max", type=whole, metavar="N", help="then only so many")
    verb(found, "list", key_list, "list keys", listing)
    verb(found, "revoke", key_revoke, "let no more devices in by a key").add_argument("name", metavar="NAME")
    verb(commands, "enrolments", waiting, "list devices that wait to be let in", listing)
    for name, work, text in (("accept", accept, "let a device in that waits"), ("reject", reject, "keep it out")):
        made = verb(commands, name, work, text)
        made.add_argument("device_id", metavar="DEVICE_ID")
        made.add_argument("--request", metavar="ID", help="when several call themselves the same")
        if name == "accept":
            made.add_argument("--replace", action="store_true", help="instead of the one that is in")
