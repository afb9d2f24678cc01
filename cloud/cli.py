"""The command line `pisync-cloud`: serve, and what an operator does at a terminal."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloud import config, enroll_verbs, fleet_verbs, notify_verbs, people_verbs, verbs, webhook_verbs
from cloud.config import Settings
from cloud.dashboard import terminal
from cloud.flows import identity, rotation, subscriptions
from cloud.flows.fleet import Wanted
from cloud.rules import fleet
from cloud.rules.access import ROLES, SCOPES
from cloud.rules.standing import STATES
from cloud.services import wall_ms
from cloud.store import drivers as store
from cloud.store.db import Database
from cloud.store.drivers import is_postgres_url, sqlite_path
from pisyncd import __version__
from pisyncd.core.errors import ConfigError, FatalError, PermanentError, PiSyncError, TransientError
from pisyncd.core.problems import Refusal

COUNT_MAX = 1_000_000

Command = Callable[[Settings, argparse.Namespace], Awaitable[None]]

_DEVICE: dict[str, Any] = {"metavar": "DEVICE_ID", "help": "the device's name; `pisyncd check-config` tells it"}
_KEY: dict[str, Any] = {"metavar": "NAME", "help": "the key's name"}
_EPILOG = "exit codes: 0 done, 1 refused, 2 wrong usage, 75 try again later, 78 wrong configuration"


@asynccontextmanager
async def _existing(settings: Settings) -> AsyncIterator[Database]:
    """A database that is there already: a mistyped --data must not become a new, empty one."""
    url = settings.database_url
    if not is_postgres_url(url) and not sqlite_path(url).exists():
        raise ConfigError(f"there is no database at {url}", hint="say where by --data DIR or --database URL")
    async with store.opened(url) as db:
        yield db


async def _with_db(settings: Settings, work: Callable[[Database], Awaitable[str]]) -> None:
    url = settings.database_url
    if not is_postgres_url(url) and not sqlite_path(url).exists():
        # A mistyped --data makes a token that no running service knows.
        print(f"pisync-cloud: there is no database at {url} yet, a new one is made", file=sys.stderr)
    async with store.opened(url) as db:
        told = await work(db)
    if told:
        print(told)


async def _serve(settings: Settings, _args: argparse.Namespace) -> None:
    from cloud import main as service

    service.configure_log(settings)
    await service.serve(settings, announce=lambda url: print(url, flush=True))


async def _enroll(settings: Settings, args: argparse.Namespace) -> None:
    await _with_db(settings, lambda db: verbs.enroll(db, args))


async def _rotate(settings: Settings, args: argparse.Namespace) -> None:
    keep_s = args.keep_old_hours * 3600
    async with _existing(settings) as db:
        if args.next_batch:
            async with db.transaction() as tx:
                dk = await identity.device_key(tx, args.device_id)
                await rotation.ask(tx, dk, args.device_id, actor=verbs.actor(), now_ms=wall_ms())
            print(f"{args.device_id} is given a new token in the answer to its next batch", file=sys.stderr)
            return
        print(await identity.rotate(db, args.device_id, wall_ms(), keep_old_s=keep_s, actor=verbs.actor()))


async def _revoke(settings: Settings, args: argparse.Namespace) -> None:
    async with _existing(settings) as db:
        await identity.revoke(db, args.device_id, wall_ms(), actor=verbs.actor())
    print(f"{args.device_id} is shut out; its files and history stay", file=sys.stderr)


async def _key_create(settings: Settings, args: argparse.Namespace) -> None:
    now_ms = wall_ms()
    until_ms = None if args.lasts is None else now_ms + args.lasts * 1000
    limits: dict[str, Any] = {"groups": args.group, "scopes": args.scope, "expires_at_ms": until_ms}
    await _with_db(
        settings, lambda db: identity.create_key(db, args.name, args.role, now_ms, **limits, actor=verbs.actor())
    )


async def _key_revoke(settings: Settings, args: argparse.Namespace) -> None:
    async with _existing(settings) as db:
        await identity.revoke_key(db, args.name, wall_ms(), actor=verbs.actor())
    print(f"the key {args.name} is ended", file=sys.stderr)


async def _key_list(settings: Settings, args: argparse.Namespace) -> None:
    async with _existing(settings) as db:
        await terminal.keys(db, json=args.json)


async def _devices(settings: Settings, args: argparse.Namespace) -> None:
    wanted = Wanted(
        state=args.state, group=args.group, tag=args.tag, fault=args.fault, search=args.search, fresh=args.fresh,
        sort=args.sort,
    )  # fmt: skip
    async with _existing(settings) as db:
        await terminal.devices(db, settings, wanted, limit=args.limit, json=args.json)


async def _failures(settings: Settings, args: argparse.Namespace) -> None:
    threshold = settings.failures_listed_above if args.threshold is None else args.threshold
    async with _existing(settings) as db:
        await terminal.failures(db, threshold=threshold, consecutive=args.consecutive, limit=args.limit, json=args.json)


async def _history(settings: Settings, args: argparse.Namespace) -> None:
    async with _existing(settings) as db:
        await terminal.history(db, args.device_id, limit=args.limit, json=args.json)


def _verb(work: Callable[[Database, Settings, argparse.Namespace], Awaitable[None]]) -> Command:
    async def command(settings: Settings, args: argparse.Namespace) -> None:
        async with _existing(settings) as db:
            await work(db, settings, args)

    return command


def _making(work: Callable[[Database, argparse.Namespace], Awaitable[str]]) -> Command:
    async def command(settings: Settings, args: argparse.Namespace) -> None:
        await _with_db(settings, lambda db: work(db, args))

    return command


def _whole(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not 0 <= value <= COUNT_MAX:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to {COUNT_MAX}")
    return value


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings")
    common.add_argument("--data", metavar="DIR", help="directory of the service's data (default /var/lib/pisync-cloud)")
    common.add_argument("--database", metavar="URL", help="postgresql://... instead of the SQLite file in --data")
    listing = argparse.ArgumentParser(add_help=False)
    listing.add_argument("--json", action="store_true", help="one JSON object per line")
    listing.add_argument("--limit", type=_whole, default=50, help="at most so many (default 50)")
    parser = argparse.ArgumentParser(prog="pisync-cloud", description="The cloud of PiSync.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"pisync-cloud {__version__}")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, command: Command, text: str, *more: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common, *more], help=text, description=text)
        made.set_defaults(command=command)
        return made

    serve = verb("serve", _serve, "run the service until SIGTERM")
    serve.add_argument("--host", help="where to listen (default 127.0.0.1)")
    serve.add_argument("--port", help="0 takes a free one (default 8080); the address is printed")
    serve.add_argument(
        "--open-dashboard", action="store_const", const="true", help="pages without a key; on loopback only"
    )
    _concerned(verb("enroll", _enroll, "let a device in; prints its token"))
    rotate = verb("rotate", _rotate, "give a device a new token; prints it")
    rotate.add_argument("device_id", **_DEVICE)
    rotate.add_argument(
        "--next-batch", action="store_true", help="the device gets it with its next batch; nothing is printed"
    )
    rotate.add_argument("--keep-old-hours", type=_whole, default=0, help="how long the old one still works (default 0)")
    verb("revoke", _revoke, "shut a device out; its files and history stay").add_argument("device_id", **_DEVICE)
    _filters(verb("devices", _devices, "list devices, the one last heard of first", listing))
    failures = verb("failures", _failures, "list devices with repeated failures, worst first", listing)
    failures.add_argument("--threshold", type=_whole, help="more than so many failed syncs (default 3)")
    failures.add_argument("--consecutive", action="store_true", help="in a row, not in all")
    _subscriptions(verb)
    verb("restored", _verb(verbs.restored), "say that the database was restored from a backup, before the next start")
    verb("history", _history, "list a device's sync events, newest first", listing).add_argument("device_id", **_DEVICE)
    _key_parser(commands, common, listing)
    _audit_flags(verb("audit", _verb(verbs.show_audit), "list what the audit keeps, newest first", listing))
    _way_out(verb)
    enroll_verbs.parser(commands, (common, listing), _verb, _whole, notify_verbs.seconds)
    fleet_verbs.parser(commands, (common, listing), _verb, notify_verbs.seconds)
    notify_verbs.parser(commands, (common, listing), _verb)
    people_verbs.parser(commands, (common, listing), _verb, _making)
    webhook_verbs.parser(commands, (common, listing), _verb, _whole)
    return parser


def _filters(shown: argparse.ArgumentParser) -> None:
    shown.add_argument("--state", choices=STATES, help="how they stand")
    shown.add_argument("--group", metavar="NAME", help="of this group, site or region")
    shown.add_argument("--tag", metavar="TAG", help="with this tag")
    shown.add_argument("--fault", metavar="CODE", help="that fail with this error now")
    shown.add_argument("--search", default="", metavar="TEXT", help="a part of the id or label")
    shown.add_argument("--fresh", choices=fleet.FRESHNESS, help="by the age of the last success")
    shown.add_argument("--sort", choices=fleet.SORTS, default="last_seen", help="default: last_seen")


def _audit_flags(shown: argparse.ArgumentParser) -> None:
    who = "operator:NAME, key:NAME, cli:UNIX_USER, webhook:NAME, device:ID or system"
    shown.add_argument("--actor", metavar="WHO", help=who)
    shown.add_argument("--action", metavar="WHAT", help="device.enrolled, or all of a kind: 'record.*'")
    shown.add_argument("--target", metavar="WHOM", help="a device, a key, TYPE/ID of a record, a user's id")
    shown.add_argument("--from", dest="from_time", metavar="TIME", help="2026-01-31 or 2026-01-31T12:00:00Z")
    shown.add_argument("--to", dest="to_time", metavar="TIME", help="before that time")


def _concerned(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device_id", **_DEVICE)
    for kind in subscriptions.KINDS:
        parser.add_argument(
            f"--{kind}", action="append", default=[], metavar="NAME", help=f"records of this {kind}; may be repeated"
        )


def _subscriptions(verb: Callable[..., argparse.ArgumentParser]) -> None:
    _concerned(verb("subscribe", _verb(verbs.subscribe), "let a device have the records of a site, group or user"))
    less = verb("unsubscribe", _verb(verbs.unsubscribe), "let a device have them no more; it drops its copies")
    _concerned(less)
    less.add_argument("--all", action="store_true", help="all of them")
    shown = verb("subscriptions", _verb(verbs.show_subscriptions), "list what a device is subscribed to")
    shown.add_argument("device_id", **_DEVICE)
    shown.add_argument("--json", action="store_true", help="as one JSON object")


def _way_out(verb: Callable[..., argparse.ArgumentParser]) -> None:
    export = verb("export", _verb(verbs.export), "write what is new into the Parquet files of export_dir")
    export.add_argument("--once", action="store_true", help="one run, then end; it never does more")
    export.add_argument("--json", action="store_true", help="the result as JSON")
    export.add_argument("--dry-run", action="store_true", help="only say what there is to write")
    export.add_argument("--status", action="store_true", help="only say how far it is")
    export.add_argument("--anew", action="store_true", help="forget what was exported; export_dir has to be empty")
    purge = verb("purge-user", _verb(verbs.purge_user), "remove a user's events, sessions and records for good")
    purge.add_argument("user_id", metavar="USER_ID", help="the user's UUID")
    purge.add_argument("--reason", required=True, metavar="TEXT", help="why; it is kept in the audit")
    purge.add_argument("--yes", action="store_true", help="do not ask")


def _key_parser(commands: Any, common: argparse.ArgumentParser, listing: argparse.ArgumentParser) -> None:
    key = commands.add_parser("key", help="keys for people and programs", description="keys for people and programs")
    keys = key.add_subparsers(dest="key_verb", required=True, metavar="COMMAND")
    create = keys.add_parser("create", parents=[common], help="make a key; prints it")
    create.add_argument("name", **_KEY)
    create.add_argument("--role", choices=ROLES, required=True, help="what it may do; each covers the one before")
    create.add_argument("--group", action="append", default=[], metavar="NAME", help="only its devices; repeatable")
    create.add_argument(
        "--scope", action="append", default=[], choices=SCOPES, help="only this part of the API; may be repeated"
    )
    create.add_argument("--expires", dest="lasts", type=notify_verbs.seconds, metavar="30d", help="how long it holds")
    create.set_defaults(command=_key_create)
    end = keys.add_parser("revoke", parents=[common], help="end a key and the sessions that began with it")
    end.add_argument("name", **_KEY)
    end.set_defaults(command=_key_revoke)
    shown = keys.add_parser("list", parents=[common, listing], help="list keys; their secrets are not kept")
    shown.set_defaults(command=_key_list)


_FLAGS = ("data", "database", "host", "port", "open_dashboard")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 refused, 2 wrong usage, 75 try again later, 78 wrong configuration."""
    parser = _parser()
    args = parser.parse_args(argv)
    told = [value for name, value in vars(args).items() if isinstance(value, str) and name not in _FLAGS]
    if any("\udc80" <= char <= "\udcff" for text in told for char in text):
        # Bytes that are no text fit neither a database nor an answer.
        parser.error("an argument is not UTF-8")
    try:
        flags = {name: getattr(args, name, None) for name in _FLAGS}
        settings = config.load(flags=flags, environment=os.environ, file=args.config)
        asyncio.run(args.command(settings, args))
    except PiSyncError as error:
        print(f"pisync-cloud: {error.detail}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        return _exit_code(error)
    except BrokenPipeError:
        # The reader of a list has enough; without this Python complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"pisync-cloud: {error}", file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        return 130
    return 0


def _exit_code(error: PiSyncError) -> int:
    if isinstance(error, FatalError):
        return error.exit_code
    if isinstance(error, TransientError):
        return 75
    return 1 if isinstance(error, PermanentError | Refusal) else 70
