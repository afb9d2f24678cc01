"""The command line's verbs for webhooks out: add, list, remove, rotate, test."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from cloud import verbs
from cloud.api import webhooks as shapes
from cloud.config import Settings
from cloud.dashboard import terminal, words
from cloud.flows import endpoints
from cloud.flows.endpoints import Actor
from cloud.services import open_poster, wall_ms
from cloud.store.db import Database
from cloud.store.webhooks import Endpoint
from cloud.workers.poster import Poster
from pisyncd.core.errors import PermanentError

Parser = argparse.ArgumentParser
_ID: dict[str, Any] = {"metavar": "ID", "help": "the webhook's id; `pisync-cloud webhook list` shows it"}


class NotDelivered(PermanentError):
    """The test did not come through."""

    code = "not-delivered"


@asynccontextmanager
async def _poster(settings: Settings) -> AsyncIterator[Poster]:
    poster = open_poster(settings)
    try:
        yield poster
    finally:
        await poster.close()


def _actor() -> Actor:
    return Actor(name=verbs.actor(), now_ms=wall_ms())


def _tell_secret(made: Endpoint) -> None:
    print(f"{made.id} {made.url}", file=sys.stderr)
    print("its secret is not shown again:", file=sys.stderr)
    print(made.secret)


async def add(db: Database, settings: Settings, args: argparse.Namespace) -> None:
    """A new webhook; prints its secret. Raises Refusal."""
    wanted = [each.strip() for text in args.types or ["*"] for each in text.split(",") if each.strip()]
    if not wanted:
        # An empty variable of a script must not mean everything.
        raise PermanentError("--types names no type of event", hint="leave it out for all, or name some: 'profile.*'")
    async with _poster(settings) as poster:
        made = await endpoints.create(
            db, poster, _actor(), url=args.url, description=args.description, event_types=wanted
        )
    _tell_secret(made)


async def show(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """All webhooks, newest first; never their secrets."""
    async with db.reading() as tx:
        found, _ = await endpoints.page(tx, limit=args.limit, offset=0)
    empty = "there is no webhook; `pisync-cloud webhook add URL` makes one"
    if args.json:
        terminal.show(terminal.as_json(shapes.WebhookOut(**shapes.fields(each)) for each in found), empty=empty)
        return
    cells = [(each.id, _state(each), " ".join(each.event_types), each.url) for each in found]
    terminal.show(terminal.table(("ID", "STATE", "EVENTS", "URL"), cells) if cells else "", empty=empty)


def _state(endpoint: Endpoint) -> str:
    if endpoint.state == "disabled":
        return f"disabled: {endpoint.reason}"
    failing = endpoint.failing_since_ms
    return "enabled" if failing is None else f"failing since {words.clock(failing)}"


async def remove(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Removes a webhook. Raises Refusal."""
    await endpoints.remove(db, _actor(), args.webhook_id)
    print(f"{args.webhook_id} is removed; what was still to be delivered to it is not any more", file=sys.stderr)


async def rotate(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """A new secret; prints it. Raises Refusal."""
    _tell_secret(await endpoints.rotate(db, _actor(), args.webhook_id, args.keep_old_hours))


async def test(db: Database, settings: Settings, args: argparse.Namespace) -> None:
    """Sends a test and tells what came back. Raises Refusal, and NotDelivered when it did not come through."""
    async with _poster(settings) as poster:
        event_id, done = await endpoints.test(db, poster.post, _actor(), args.webhook_id)
    status = "no answer" if done.status_code is None else f"status {done.status_code}"
    print(f"{event_id}: {status} after {done.duration_ms} ms{f', {done.error}' if done.error else ''}")
    if done.error:
        raise NotDelivered(f"the test did not come through: {done.error}", hint=words.path_text(done.answer.encode()))


def parser(
    commands: Any,
    parents: tuple[Parser, Parser],
    command: Callable[..., Any],
    whole: Callable[[str], int],
) -> None:
    """Adds `webhook` and its verbs; `parents` are those of every verb and of lists."""
    common, listing = parents
    about = "send what happens to other systems, signed"
    group = commands.add_parser("webhook", help=about, description=about)
    found = group.add_subparsers(dest="webhook_verb", required=True, metavar="COMMAND")

    def verb(name: str, work: Any, text: str, *more: Parser) -> Parser:
        made: Parser = found.add_parser(name, parents=[common, *more], help=text, description=text)
        made.set_defaults(command=command(work))
        return made

    made = verb("add", add, "have what happens sent to an address; prints the secret")
    made.add_argument("url", metavar="URL", help="https://...")
    made.add_argument(
        "--types", action="append", default=[], metavar="TYPES", help="'profile.*,device.failing' (default: all)"
    )
    made.add_argument("--description", default="", help="what it is for")
    verb("list", show, "list webhooks; their secrets are not shown", listing)
    verb("remove", remove, "remove a webhook").add_argument("webhook_id", **_ID)
    renewed = verb("rotate", rotate, "give a webhook a new secret; prints it")
    renewed.add_argument("webhook_id", **_ID)
    renewed.add_argument(
        "--keep-old-hours", type=whole, default=24, help="how long the old one signs as well (default 24)"
    )
    verb("test", test, "send a test now and tell what came back").add_argument("webhook_id", **_ID)
