"""The command line's verbs for who is told: channel, rule, silence, incidents, ack."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from cloud import verbs
from cloud.api import notifying as shapes
from cloud.config import Settings
from cloud.dashboard import terminal, words
from cloud.flows import incidents, notifying
from cloud.flows.notifying import Channel, RuleSpec, SilenceSpec
from cloud.rules.standing import STATES
from cloud.services import wall_ms
from cloud.store.db import Database, Row
from cloud.workers import notifier
from pisyncd.core.errors import PermanentError

Parser = argparse.ArgumentParser
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def seconds(text: str) -> int:
    """'90s', '15m', '2h', '7d', '2w' -> seconds."""
    found = re.fullmatch(r"([0-9]{1,7})([smhdw])", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError("a time like 15m, 2h, 7d")
    return int(found[1]) * _UNITS[found[2]]


async def channel_add(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Makes or changes a channel. Raises PiSyncError."""
    if not notifier.understood(args.url):
        raise PermanentError("apprise does not understand this address", code="url", hint=notifier.EXAMPLES)
    channel = Channel(
        name=args.name, url=args.url, quiet_hours=args.quiet, digest_at=args.digest, timezone=args.timezone
    )
    await notifying.put_channel(db, channel, actor=verbs.actor(), now_ms=wall_ms())
    print(f"`pisync-cloud channel test {args.name}` shows whether it arrives", file=sys.stderr)


async def channel_list(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """All channels, without their secrets."""
    async with db.reading() as tx:
        found = [shapes.channel_out(row) for row in await notifying.channels(tx)]
    empty = "no channel yet; `pisync-cloud channel add NAME URL`"
    if args.json:
        terminal.show(terminal.as_json(found), empty=empty)
        return
    cells = ((each.name, each.url, each.quiet_hours or "-", each.digest_at or "-") for each in found)
    terminal.show(terminal.table(("NAME", "ADDRESS", "QUIET", "DIGEST"), cells) if found else "", empty=empty)


async def channel_remove(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Raises Refusal while a rule names it."""
    await notifying.remove_channel(db, args.name, actor=verbs.actor(), now_ms=wall_ms())


async def channel_test(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Has the running service send a test."""
    await notifying.ask_test(db, args.name, actor=verbs.actor(), now_ms=wall_ms())
    print("the running service sends it within seconds; the page Notifications shows what came of it", file=sys.stderr)


async def rule_add(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Makes or changes a rule. Raises PiSyncError."""
    rule = RuleSpec(
        name=args.name,
        states=args.state or ["failing", "overdue"],
        groups=args.group,
        tags=args.tag,
        faults=args.fault,
        channels=args.channel,
        wait_s=args.wait,
        escalate_after_s=args.escalate_after,
        escalate_to=args.escalate_to,
    )
    await notifying.put_rule(db, rule, actor=verbs.actor(), now_ms=wall_ms())


async def rule_list(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """All rules."""
    async with db.reading() as tx:
        found = [shapes.rule_out(row) for row in await notifying.rules(tx)]
    empty = "no rule; `pisync-cloud rule add NAME --channel CHANNEL`"
    if args.json:
        terminal.show(terminal.as_json(found), empty=empty)
        return
    cells = ((each.name, ", ".join(each.states), _whom(each), ", ".join(each.channels) or "nobody") for each in found)
    terminal.show(terminal.table(("NAME", "STATES", "OF", "TELLS"), cells) if found else "", empty=empty)


def _whom(rule: shapes.RuleOut) -> str:
    return ", ".join([*rule.groups, *(f"tag {each}" for each in rule.tags), *rule.faults]) or "all"


async def rule_remove(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Raises Refusal."""
    await notifying.remove_rule(db, args.name, actor=verbs.actor(), now_ms=wall_ms())


async def silence_add(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Prints its id. Raises Refusal."""
    now_ms = wall_ms()
    silence = SilenceSpec(
        from_ms=now_ms,
        until_ms=now_ms + args.length * 1000,
        comment=args.comment,
        device_id=args.device,
        group=args.group,
        tag=args.tag,
        fault=args.fault,
    )
    print(await notifying.add_silence(db, silence, actor=verbs.actor(), now_ms=now_ms))


async def silence_list(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Those that have not ended."""
    async with db.reading() as tx:
        found = [shapes.silence_out(row) for row in await notifying.silences(tx, wall_ms())]
    if args.json:
        terminal.show(terminal.as_json(found), empty="no silence")
        return
    cells = (
        (each.id, each.device_id or each.group or each.tag or each.fault or "", each.until, each.comment)
        for each in found
    )
    terminal.show(terminal.table(("ID", "OF", "UNTIL", "WHY"), cells) if found else "", empty="no silence")


async def silence_remove(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Raises Refusal."""
    await notifying.remove_silence(db, args.silence_id, actor=verbs.actor(), now_ms=wall_ms())


async def show_incidents(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """What needs a person, newest first."""
    async with db.reading() as tx:
        rows, _ = await incidents.page(tx, state=None, reach=None, before_id=2**62, limit=args.limit, offset=0)
    rows = [row for row in rows[: args.limit] if args.all or row["state"] != "closed"]
    empty = "nothing needs a person"
    if args.json:
        terminal.show("\n".join(msgspec.json.encode(dict(row)).decode() for row in rows), empty=empty)
        return
    now_ms = wall_ms()
    terminal.show(terminal.table(_HEADS, (_incident(row, now_ms) for row in rows)) if rows else "", empty=empty)


_HEADS = ("ID", "WHAT", "IS", "DEVICES", "SINCE", "STATE")


def _incident(row: Row, now_ms: int) -> tuple[str, ...]:
    about = row["cause"] + (f": {row['fault']}" if row["fault"] else "")
    since = words.ago(row["opened_at_ms"], now_ms)
    return str(row["id"]), row["subject"], about, str(row["devices"]), since, row["acknowledged_by"] or row["state"]


async def ack(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Raises Refusal."""
    await incidents.acknowledge(db, args.incident_id, note=args.note, actor=verbs.actor(), reach=None, now_ms=wall_ms())


def parser(commands: Any, parents: tuple[Parser, Parser], command: Callable[..., Any]) -> None:
    """Adds the verbs; `parents` are those of every verb and of lists."""
    common, listing = parents

    def group(name: str, about: str) -> Callable[..., Parser]:
        made = commands.add_parser(name, help=about, description=about)
        found = made.add_subparsers(dest=f"{name}_verb", required=True, metavar="COMMAND")

        def verb(word: str, work: Any, text: str, *more: Parser) -> Parser:
            inner: Parser = found.add_parser(word, parents=[common, *more], help=text, description=text)
            inner.set_defaults(command=command(work))
            return inner

        return verb

    _channel(group("channel", "where people are told: mail, Slack, Telegram, PagerDuty and more"), listing)
    _rule(group("rule", "what people are told of"), listing)
    _silence(group("silence", "when nobody is told"), listing)
    about = "what needs a person, newest first"
    made = commands.add_parser("incidents", parents=[common, listing], help=about, description=about)
    made.add_argument("--all", action="store_true", help="also those that are over")
    made.set_defaults(command=command(show_incidents))
    made = commands.add_parser("ack", parents=[common], help="take an incident on", description="take an incident on")
    made.add_argument("incident_id", type=int, metavar="ID", help="`pisync-cloud incidents` shows it")
    made.add_argument("--note", default="", metavar="TEXT", help="what is known, or who goes there")
    made.set_defaults(command=command(ack))


def _channel(verb: Callable[..., Parser], listing: Parser) -> None:
    name: dict[str, Any] = {"metavar": "NAME", "help": "the channel's name"}
    made = verb("add", channel_add, "make or change a channel")
    made.add_argument("name", **name)
    made.add_argument("url", metavar="URL", help=notifier.EXAMPLES)
    made.add_argument("--quiet", default="", metavar="22:00-06:00", help="nothing is sent then")
    made.add_argument("--digest", default="", metavar="07:00", help="everything once a day")
    made.add_argument("--timezone", default="", metavar="ZONE", help="of these times (default: the setting timezone)")
    verb("list", channel_list, "list channels, without their secrets", listing)
    verb("remove", channel_remove, "remove a channel").add_argument("name", **name)
    verb("test", channel_test, "have the running service send a test").add_argument("name", **name)


def _rule(verb: Callable[..., Parser], listing: Parser) -> None:
    made = verb("add", rule_add, "make or change a rule")
    made.add_argument("name", metavar="NAME", help="the rule's name")
    made.add_argument("--state", action="append", default=[], choices=STATES, help="default: failing and overdue")
    for flag, text in (
        ("--group", "devices of this group, site or region"),
        ("--tag", "devices with this tag"),
        ("--fault", "this error; 'card-*' too"),
        ("--channel", "whom it tells"),
        ("--escalate-to", "whom it tells when nobody takes it on"),
    ):
        made.add_argument(flag, action="append", default=[], metavar="NAME", help=f"{text}; may be repeated")
    made.add_argument("--wait", type=seconds, default=0, metavar="15m", help="how long the state has to last")
    made.add_argument("--escalate-after", type=seconds, metavar="2h", help="when nobody has taken it on by then")
    verb("list", rule_list, "list rules", listing)
    verb("remove", rule_remove, "remove a rule; its incidents end").add_argument("name", metavar="NAME")


def _silence(verb: Callable[..., Parser], listing: Parser) -> None:
    made = verb("add", silence_add, "tell nobody for a while; prints its id")
    made.add_argument("--for", dest="length", type=seconds, required=True, metavar="2h", help="how long from now")
    made.add_argument("--comment", required=True, metavar="TEXT", help="why")
    for flag in ("--device", "--group", "--tag", "--fault"):
        made.add_argument(flag, metavar="NAME", help="all that are given have to match")
    verb("list", silence_list, "list silences", listing)
    verb("remove", silence_remove, "end a silence").add_argument("silence_id", metavar="ID")
