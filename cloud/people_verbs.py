"""The command line's verbs for people: operator add, list, grant, password, disable, enable, remove."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable
from typing import Any

from cloud import verbs
from cloud.config import Settings
from cloud.dashboard import terminal, words
from cloud.flows import operators
from cloud.flows.operators import Person
from cloud.rules.access import ROLES, Grant
from cloud.services import wall_ms
from cloud.store.db import Database
from pisyncd.core.errors import PermanentError

Parser = argparse.ArgumentParser
_NAME: dict[str, Any] = {"metavar": "NAME", "help": "the person's name, as they sign in"}


async def add(db: Database, args: argparse.Namespace) -> str:
    """Lets a person sign in; gives the password if it was generated. Raises PiSyncError."""
    password, told = _password(args)
    await operators.add(db, args.name, password, _grants(args), now_ms=wall_ms(), actor=verbs.actor())
    print(f"{args.name} may sign in as {', '.join(map(_grant, _grants(args)))}", file=sys.stderr)
    return told


async def show(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """All people who may sign in."""
    async with db.reading() as tx:
        found = (await operators.people(tx))[: args.limit]
    empty = "nobody may sign in yet; `pisync-cloud operator add NAME --role admin`"
    if args.json:
        terminal.show(terminal.as_json(each.shown() for each in found), empty=empty)
        return
    now_ms = wall_ms()
    cells = ((each.name, _may(each), words.ago(each.created_at_ms, now_ms)) for each in found)
    terminal.show(terminal.table(("NAME", "MAY", "SINCE"), cells) if found else "", empty=empty)


async def grant(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Exactly these roles from now on. Raises PiSyncError."""
    await operators.set_grants(db, args.name, _grants(args), now_ms=wall_ms(), actor=verbs.actor())
    print(
        f"{args.name} is {', '.join(map(_grant, _grants(args)))} from now on; signing in anew is needed",
        file=sys.stderr,
    )


async def password(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """A new password. Raises PiSyncError."""
    secret, told = _password(args)
    await operators.set_password(db, args.name, secret, now_ms=wall_ms(), actor=verbs.actor())
    print(f"{args.name} has a new password; sessions have ended", file=sys.stderr)
    if told:
        print(told)


async def disable(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """No signing in until it is allowed again. Raises PiSyncError."""
    await operators.set_disabled(db, args.name, True, now_ms=wall_ms(), actor=verbs.actor())
    print(f"{args.name} may not sign in until `pisync-cloud operator enable {args.name}`", file=sys.stderr)


async def enable(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Signing in again. Raises PiSyncError."""
    await operators.set_disabled(db, args.name, False, now_ms=wall_ms(), actor=verbs.actor())
    print(f"{args.name} may sign in again", file=sys.stderr)


async def remove(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """For good. Raises PiSyncError."""
    await operators.remove(db, args.name, now_ms=wall_ms(), actor=verbs.actor())
    print(f"{args.name} is removed; what they did stays in the audit", file=sys.stderr)


def _password(args: argparse.Namespace) -> tuple[str, str]:
    """(the password, what is to be printed of it). Raises PermanentError."""
    if args.generate:
        made = operators.new_password()
        return made, made
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n"), ""
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise PermanentError("the two are not the same", code="password-mismatch", hint="try again, or --generate")
    return first, ""


def _grants(args: argparse.Namespace) -> list[Grant]:
    return [Grant(role=args.role, group=group) for group in args.group or [None]]


def _grant(each: Grant) -> str:
    return f"{each.role} of {each.group}" if each.group else str(each.role)


def _may(person: Person) -> str:
    return "nothing: disabled" if person.disabled_at_ms is not None else ", ".join(map(_grant, person.grants))


def parser(
    commands: Any, parents: tuple[Parser, Parser], command: Callable[..., Any], making: Callable[..., Any]
) -> None:
    """Adds `operator` and its verbs; `making` is for what may begin with an empty database."""
    common, listing = parents
    about = "people who sign in to the pages"
    group = commands.add_parser("operator", help=about, description=about)
    found = group.add_subparsers(dest="operator_verb", required=True, metavar="COMMAND")

    def verb(name: str, work: Any, text: str, *more: Parser) -> Parser:
        made: Parser = found.add_parser(name, parents=[common, *more], help=text, description=text)
        made.set_defaults(command=work)
        return made

    def role(made: Parser) -> None:
        made.add_argument("--role", choices=ROLES, required=True, help="what they may do; each covers the one before")
        made.add_argument("--group", action="append", default=[], metavar="GROUP", help="only there; may be repeated")

    def secret(made: Parser) -> None:
        made.add_argument(
            "--generate",
            action="store_true",
            help="make a password and print it; else it is asked for, or read from stdin",
        )

    made = verb("add", making(add), "let a person sign in")
    made.add_argument("name", **_NAME)
    role(made)
    secret(made)
    verb("list", command(show), "list people", listing)
    granted = verb("grant", command(grant), "give a person other roles instead of those they have")
    granted.add_argument("name", **_NAME)
    role(granted)
    renewed = verb("password", command(password), "give a person a new password; their sessions end")
    renewed.add_argument("name", **_NAME)
    secret(renewed)
    for name, work, text in (
        ("disable", disable, "keep a person out for now"),
        ("enable", enable, "let a person in again"),
        ("remove", remove, "remove a person for good"),
    ):
        verb(name, command(work), text).add_argument("name", **_NAME)
