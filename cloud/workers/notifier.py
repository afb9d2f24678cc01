"""Sends notices through apprise: mail, Slack, Telegram, PagerDuty and a hundred more."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from cloud import tracing
from cloud.flows import outgoing
from cloud.flows.outgoing import Message
from cloud.rules import notices
from cloud.rules.calendar import Calendar
from cloud.store.db import Database
from pisyncd.core import wire
from pisyncd.core.errors import TransientError

log = structlog.get_logger()

INTERVAL_S = 2.0
AT_ONCE = 4
EXAMPLES = "mailtos://USER:PASSWORD@smtp.example.org?to=a@b.org, slack://, tgram://, pagerduty://, json://"

#: Sends one message to an address: (address, title, body) -> '' or why it was not taken.
Send = Callable[[str, str, str], str]


def send(url: str, title: str, body: str) -> str:
    """Through apprise, in the thread that calls. Imported only here: it takes 25 MB."""
    import apprise

    # What a service answers may hold its secrets.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    sender = apprise.Apprise()
    if not sender.add(url):
        return "apprise does not understand this address"
    return "" if sender.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT) else "it was not taken"


def understood(url: str) -> bool:
    """Whether apprise knows what to do with an address."""
    import apprise

    return bool(apprise.Apprise().add(url))


def shown(url: str) -> str:
    """An address without its secrets."""
    import apprise

    made = apprise.Apprise.instantiate(url)
    return url.partition("://")[0] + "://..." if made is None else str(made.url(privacy=True)).partition("?")[0]  # type: ignore[no-untyped-call]


class Notifier:
    """One step sends what is due, a few channels at once; one that hangs holds up no other."""

    def __init__(
        self, db: Database, now_ms: Callable[[], int], *, timeout_s: float, timezone: str, public_url: str,
        count: Callable[[str], None] = lambda outcome: None, send: Send = send,
    ) -> None:  # fmt: skip
        self._db = db
        self._now_ms = now_ms
        self._timeout_s = timeout_s
        self._timezone = timezone
        self._calendar = Calendar(timezone=timezone)
        self._url = f"{public_url.rstrip('/')}/incidents" if public_url else ""
        self._count = count
        self._send = send
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def step(self) -> float:
        """The seconds until it wants to be called again."""
        for channel in await outgoing.due_channels(self._db, self._now_ms()):
            if channel not in self._busy and len(self._busy) < AT_ONCE:
                task = asyncio.create_task(self._channel(channel), name=f"notify-{channel}")
                self._busy[channel] = task
                task.add_done_callback(functools.partial(self._done, channel))
        return INTERVAL_S

    def _done(self, channel: str, _task: asyncio.Task[None]) -> None:
        self._busy.pop(channel, None)

    async def idle(self) -> None:
        """Waits until nothing is being sent."""
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def _channel(self, channel: str) -> None:
        try:
            message = await outgoing.claim(self._db, channel, self._now_ms(), self._timezone)
            if message is None:
                return
            error = await self._deliver(message)
            failed = await outgoing.settle(self._db, message, error, self._now_ms())
        except TransientError as trouble:
            log.warning("notices.postponed", channel=channel, code=trouble.code)
            return
        except Exception:
            log.exception("notices.failed", channel=channel)
            return
        self._count("failed" if failed else "postponed" if error else "sent")
        if error:
            log.warning("notices.not_sent", channel=channel, notices=len(message.claimed), error=error, given_up=failed)
        else:
            log.info("notices.sent", channel=channel, notices=len(message.claimed))

    async def _deliver(self, message: Message) -> str:
        lines = [each.line for each in message.claimed]
        when = [self._clock(line.at_ms) for line in lines]
        title, body = notices.subject(lines), notices.body(lines, when, self._url)
        with tracing.span("notice.send", notices=len(lines)):
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await asyncio.to_thread(self._send, message.url, title, body)
            except TimeoutError:
                return f"it was not taken within {self._timeout_s:.0f} s"
            except Exception as error:
                # A plug-in of apprise that breaks must not end the others' messages.
                return repr(type(error).__name__)

    def _clock(self, at_ms: int) -> str:
        local = wire.rfc3339(self._calendar.local_s(at_ms) * 1000)
        return f"{local[:10]} {local[11:16]} {self._timezone}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while inside."""
        task = asyncio.create_task(self._work(), name="notifier")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await self.idle()

    async def _work(self) -> None:
        while True:
            pause_s = INTERVAL_S
            try:
                pause_s = await self.step()
            except TransientError as error:
                log.warning("notifier.postponed", code=error.code, detail=error.detail)
            except Exception:
                log.exception("notifier.failed")
            await asyncio.sleep(pause_s)
