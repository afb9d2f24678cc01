"""The command line `pisync-cloud`: serve, and what an operator does at a terminal."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cloud import config
from cloud.config import Settings
from cloud.flows import identity
from cloud.rules.access import ROLES
from cloud.services import wall_ms
from cloud.store import drivers as store
from cloud.store.db import Database
from pisyncd.core.errors import FatalError, PermanentError, PiSyncError, TransientError

Command = Callable[[Settings, argparse.Namespace], Awaitable[None]]


async def _with_db(settings: Settings, work: Callable[[Database], Awaitable[str]]) -> None:
    async with store.opened(settings.database_url) as db:
        print(await work(db))


async def _serve(settings: Settings, _args: argparse.Namespace) -> None:
    from cloud import main as service

    service.configure_log(settings)
    await service.serve(settings, announce=lambda url: print(url, flush=True))


async def _enroll(settings: Settings, args: argparse.Namespace) -> None:
    await _with_db(settings, lambda db: identity.enroll(db, args.device_id, wall_ms()))


async def _rotate(settings: Settings, args: argparse.Namespace) -> None:
    keep_s = args.keep_old_hours * 3600
    await _with_db(settings, lambda db: identity.rotate(db, args.device_id, wall_ms(), keep_old_s=keep_s))


async def _revoke(settings: Settings, args: argparse.Namespace) -> None:
    async with store.opened(settings.database_url) as db:
        await identity.revoke(db, args.device_id, wall_ms())
    print(f"{args.device_id} is shut out; its files and history stay", file=sys.stderr)


async def _key_create(settings: Settings, args: argparse.Namespace) -> None:
    await _with_db(settings, lambda db: identity.create_key(db, args.name, args.role, wall_ms()))


async def _key_revoke(settings: Settings, args: argparse.Namespace) -> None:
    async with store.opened(settings.database_url) as db:
        await identity.revoke_key(db, args.name, wall_ms())
    print(f"the key {args.name} is ended", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, help="YAML file with settings")
    common.add_argument("--data", help="directory of the service's data")
    common.add_argument("--database", metavar="URL", help="postgresql://... instead of the SQLite file in --data")
    parser = argparse.ArgumentParser(prog="pisync-cloud", description="The cloud of PiSync.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    serve = verbs.add_parser("serve", parents=[common], help="run the service until SIGTERM")
    serve.add_argument("--host")
    serve.add_argument("--port")
    serve.add_argument(
        "--open-dashboard", action="store_const", const="true", help="pages without a key; loopback only"
    )
    serve.set_defaults(command=_serve)

    enroll = verbs.add_parser("enroll", parents=[common], help="let a device in; prints its token")
    enroll.add_argument("device_id")
    enroll.set_defaults(command=_enroll)

    rotate = verbs.add_parser("rotate", parents=[common], help="give a device a new token; prints it")
    rotate.add_argument("device_id")
    rotate.add_argument("--keep-old-hours", type=int, default=0, help="let the old token work for so long (default 0)")
    rotate.set_defaults(command=_rotate)

    revoke = verbs.add_parser("revoke", parents=[common], help="shut a device out")
    revoke.add_argument("device_id")
    revoke.set_defaults(command=_revoke)

    key = verbs.add_parser("key", help="keys for people and programs")
    keys = key.add_subparsers(dest="key_verb", required=True, metavar="COMMAND")
    create = keys.add_parser("create", parents=[common], help="make a key; prints it")
    create.add_argument("name")
    create.add_argument("--role", choices=ROLES, required=True)
    create.set_defaults(command=_key_create)
    end = keys.add_parser("revoke", parents=[common], help="end a key")
    end.add_argument("name")
    end.set_defaults(command=_key_revoke)
    return parser


_FLAGS = ("data", "database", "host", "port", "open_dashboard")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 refused, 2 wrong usage, 75 try again later, 78 wrong configuration."""
    args = _parser().parse_args(argv)
    try:
        flags = {name: getattr(args, name, None) for name in _FLAGS}
        settings = config.load(flags=flags, environment=os.environ, file=args.config)
        asyncio.run(args.command(settings, args))
    except PiSyncError as error:
        print(f"pisync-cloud: {error.detail}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        return _exit_code(error)
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
    return 1 if isinstance(error, PermanentError) else 70
