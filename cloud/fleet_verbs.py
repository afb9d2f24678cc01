"""The command line's verbs for devices: mute, unmute, describe, ask, requests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, get_args

from cloud import verbs
from cloud.config import Settings
from cloud.dashboard import terminal, words
from cloud.flows import commands, groups, identity, standing
from cloud.flows.groups import Described
from cloud.services import wall_ms
from cloud.store.db import Database, Tx
from pisyncd.core.vitals import CommandKind

Parser = argparse.ArgumentParser


async def _keys(tx: Tx, args: argparse.Namespace) -> dict[int, str]:
    """Key -> id of the devices that are named. Raises Refusal 404."""
    return {await identity.device_key(tx, each): each for each in args.device_ids}


def _several(count: int, what: str) -> str:
    return f"{count} {'device' if count == 1 else 'devices'} {what}"


async def mute(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Nobody is told of them for a while. Raises Refusal 404."""
    now_ms = wall_ms()
    until_ms = None if args.lasts is None else now_ms + args.lasts * 1000
    async with db.transaction() as tx:
        dks = list(await _keys(tx, args))
        count = await standing.mute(tx, dks, until_ms=until_ms, note=args.note, actor=verbs.actor(), now_ms=now_ms)
    print(_several(count, "muted"), file=sys.stderr)


async def unmute(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """People are told of them again. Raises Refusal 404."""
    async with db.transaction() as tx:
        count = await standing.unmute(tx, list(await _keys(tx, args)), actor=verbs.actor(), now_ms=wall_ms())
    print(_several(count, "unmuted"), file=sys.stderr)


async def describe(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Label, note, site, groups and tags; what is not said stays. Raises Refusal 404, 422."""
    async with db.transaction() as tx:
        for dk, device_id in (await _keys(tx, args)).items():
            _, named, tagged = await groups.of_device(tx, dk)
            said = Described(
                label=args.label,
                note=args.note,
                site=args.site,
                groups=_changed(named, args.group, args.ungroup),
                tags=_changed(tagged, args.tag, args.untag),
            )
            await groups.describe(tx, dk, device_id, said, actor=verbs.actor(), now_ms=wall_ms())


def _changed(held: list[str], more: list[str], less: list[str]) -> list[str] | None:
    return sorted({*held, *more} - {*less}) if more or less else None


async def ask(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Told with the answer to the next batch; prints the ids. Raises Refusal 404."""
    async with db.transaction() as tx:
        devices = await _keys(tx, args)
        made = await commands.ask(tx, devices, args.kind, actor=verbs.actor(), now_ms=wall_ms())
    print("\n".join(made))
    print("`pisync-cloud requests DEVICE_ID` shows what came of it", file=sys.stderr)


async def requests(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """What a device was asked for, newest first. Raises Refusal 404."""
    async with db.reading() as tx:
        dk = await identity.device_key(tx, args.device_id)
        rows = await tx.all("commands_page", dk=dk, row_limit=args.limit, row_offset=0)
    empty = f"nothing was asked yet; `pisync-cloud ask sync {args.device_id}`"
    if args.json:
        fields = ("id", "kind", "state", "detail", "created_by", "created_at_ms", "sent_at_ms", "ended_at_ms")
        terminal.show(terminal.as_json([{name: row[name] for name in fields} for row in rows]), empty=empty)
        return
    cells = (
        (row["id"], row["kind"], row["state"], words.clock(row["created_at_ms"]), row["created_by"], row["detail"])
        for row in rows
    )
    heads = ("ID", "KIND", "STATE", "ASKED", "BY", "DETAIL")
    terminal.show(terminal.table(heads, cells) if rows else "", empty=empty)


def parser(
    commands_of: Any, parents: tuple[Parser, Parser], verb: Callable[..., Any], seconds: Callable[[str], int]
) -> None:
    """Adds the verbs; `parents`: the common flags, and those of a list."""
    common, listing = parents

    def made(name: str, work: Any, text: str) -> Parser:
        added: Parser = commands_of.add_parser(name, parents=[common], help=text, description=text)
        added.set_defaults(command=verb(work))
        return added

    def devices(parser: Parser) -> None:
        parser.add_argument("device_ids", nargs="+", metavar="DEVICE_ID", help="one device or several")

    muting = made("mute", mute, "hear nothing of devices for a while")
    devices(muting)
    muting.add_argument("--for", dest="lasts", type=seconds, metavar="TIME", help="2h, 7d; without: until unmute")
    muting.add_argument("--note", default="", metavar="TEXT", help="why")
    devices(made("unmute", unmute, "hear of devices again"))
    described = made("describe", describe, "label, note, site, groups and tags of devices; what is not said stays")
    devices(described)
    described.add_argument("--label", metavar="TEXT", help="what people call it")
    described.add_argument("--note", metavar="TEXT", help="what people should know")
    described.add_argument("--site", metavar="NAME", help="where it is; '' for nowhere")
    for name, what in (("group", "a group"), ("tag", "a tag")):
        described.add_argument(f"--{name}", action="append", default=[], metavar="NAME", help=f"add {what}")
        described.add_argument(f"--un{name}", action="append", default=[], metavar="NAME", help=f"take {what} away")
    asking = made("ask", ask, "ask devices for a sync at once, or for a bundle for support")
    asking.add_argument("kind", choices=get_args(CommandKind), help="what they shall do")
    devices(asking)
    text = "list what a device was asked for, newest first"
    shown = commands_of.add_parser("requests", parents=[common, listing], help=text, description=text)
    shown.add_argument("device_id", metavar="DEVICE_ID", help="the device's name")
    shown.set_defaults(command=verb(requests))
