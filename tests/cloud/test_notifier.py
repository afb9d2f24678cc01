"""From a device that fails to a message that arrives: a real SMTP server, a real receiver, both databases."""

from __future__ import annotations

import asyncio
import email
import email.message
import email.policy
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiosmtpd.controller import Controller
from conftest import Cloud

from cloud.flows import incidents, notifying, outgoing
from cloud.flows.incidents import Alerting, Terms
from cloud.flows.notifying import Channel, RuleSpec, SilenceSpec
from cloud.rules import notices
from cloud.rules.calendar import Calendar
from cloud.rules.notices import Hours, Line
from cloud.services import wall_ms
from cloud.workers.notifier import Notifier
from pisyncd.core.problems import Refusal

ACTOR = "operator:amina"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
EVENT = {"timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 0}


class Mailbox:
    """What a real SMTP server has taken."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []
        self.refuse = False
        self.url = ""

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuse:
            return "451 try again later"
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        return "250 taken"

    def texts(self) -> list[tuple[str, str]]:
        bodies = [mail.get_body(("plain",)) for mail in self.mails]
        return [
            (str(mail["Subject"]), body.get_content() if body is not None else "")
            for mail, body in zip(self.mails, bodies, strict=True)
        ]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """A running SMTP server."""
    box = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    box.url = f"mailto://127.0.0.1:{port}?from=pisync@school.example&to=amina@school.example"
    yield box
    controller.stop()


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[str, list[Any], list[int]]]:
    """A JSON receiver: its address of apprise, what it got, and the statuses that it answers with first."""
    got: list[Any] = []
    statuses: list[int] = []

    async def take(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.Response(status=statuses.pop(0) if statuses else 200)

    app = web.Application()
    app.router.add_post("/x", take)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    yield f"json://127.0.0.1:{server.port}/x", got, statuses
    await server.close()


class Desk:
    """Drives a cloud's alerting by hand, with a clock of its own that runs ahead."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.db = cloud.services.db
        self.ahead_ms = 0
        self.alerting = Alerting(self.db, self.now, Terms(gather_ms=MINUTE_MS))
        self.notifier = Notifier(self.db, self.now, timeout_s=30, timezone="UTC", public_url="https://pisync.example/")

    def now(self) -> int:
        return wall_ms() + self.ahead_ms

    async def report(self, device: dict[str, str], device_id: str, *errors: int, code: str = "card-full") -> None:
        for failed in errors:
            body = {**EVENT, "device_id": device_id, "event_id": f"e{wall_ms()}{id(object())}", "total_errors": failed}
            body |= {"error_code": code} if failed else {}
            assert (await self.cloud.call("POST", "/api/sync-event", json=body, headers=device))[0] in (200, 201)
            await asyncio.sleep(0.002)
        await self.cloud.services.assessor.step()

    async def run(self) -> None:
        await self.alerting.look()
        await self.notifier.step()
        await self.notifier.idle()

    async def pass_(self, ms: int) -> None:
        self.ahead_ms += ms
        await self.run()

    async def channel(self, name: str, url: str, **more: Any) -> None:
        await notifying.put_channel(self.db, Channel(name=name, url=url, **more), actor=ACTOR, now_ms=self.now())

    async def rule(self, **more: Any) -> None:
        await notifying.put_rule(
            self.db, RuleSpec(**{"name": "needs-a-person", **more}), actor=ACTOR, now_ms=self.now()
        )

    async def notices(self) -> list[tuple[str, str, str]]:
        async with self.db.reading() as tx:
            rows, _ = await notifying.log(tx, None, before_id=2**62, limit=100)
        return [(row["channel"], row["kind"], row["state"]) for row in reversed(rows)]


@pytest.fixture
async def desk(start_cloud: Callable[..., Any], database_url: str) -> Desk:
    return Desk(await start_cloud(database=database_url))


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's own alerter and notifier keep still: here they are stepped, with a clock that runs ahead."""

    async def still(_self: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("cloud.workers.alerter.Alerter._work", still)
    monkeypatch.setattr("cloud.workers.notifier.Notifier._work", still)


async def test_three_failures_in_a_row_are_one_mail_and_the_end_another(desk: Desk, mailbox: Mailbox) -> None:
    await desk.channel("mail", mailbox.url)
    await desk.rule(channels=["mail"])
    device = await desk.cloud.enroll("pi-1")
    await desk.report(device, "pi-1", 1, 1)
    await desk.pass_(2 * MINUTE_MS)
    assert mailbox.mails == []
    await desk.report(device, "pi-1", 1)
    await desk.run()
    assert mailbox.mails == []
    for _ in range(3):
        await desk.report(device, "pi-1", 1)
        await desk.pass_(2 * MINUTE_MS)
    ((subject, body),) = mailbox.texts()
    assert subject == "PiSync: pi-1 is failing: card-full"
    assert re.search(r"- pi-1 is failing: card-full \(since \d{4}-\d\d-\d\d \d\d:\d\d UTC\)", body)
    assert "https://pisync.example/incidents" in body
    await desk.report(device, "pi-1", 0)
    await desk.pass_(MINUTE_MS)
    assert mailbox.texts()[1][0] == "PiSync: pi-1 recovered"
    await desk.pass_(HOUR_MS)
    assert len(mailbox.mails) == 2
    assert await desk.notices() == [("mail", "opened", "sent"), ("mail", "recovered", "sent")]


async def test_what_is_over_before_it_was_told_is_not_told(desk: Desk, mailbox: Mailbox) -> None:
    await desk.channel("mail", mailbox.url)
    await desk.rule(channels=["mail"])
    device = await desk.cloud.enroll("pi-1")
    await desk.report(device, "pi-1", 1, 1, 1)
    await desk.run()
    await desk.report(device, "pi-1", 0)
    await desk.pass_(HOUR_MS)
    assert mailbox.mails == []
    assert await desk.notices() == [("mail", "opened", "dropped")]


async def test_many_with_the_same_error_are_one_message(desk: Desk, receiver: Any) -> None:
    url, got, _ = receiver
    await desk.channel("chat", url)
    await desk.rule(channels=["chat"])
    for number in range(7):
        device = await desk.cloud.enroll(f"pi-{number}")
        await desk.report(device, f"pi-{number}", 1, 1, 1)
    await desk.run()
    await desk.pass_(2 * MINUTE_MS)
    assert [each["title"] for each in got] == ["PiSync: 7 devices of card-full are failing: card-full"]


async def test_who_does_not_answer_is_tried_again_and_holds_up_nobody(
    desk: Desk, receiver: Any, mailbox: Mailbox
) -> None:
    url, got, statuses = receiver
    statuses += [500, 503]
    await desk.channel("chat", url)
    await desk.channel("mail", mailbox.url)
    await desk.rule(channels=["chat", "mail"])
    device = await desk.cloud.enroll("pi-1")
    await desk.report(device, "pi-1", 1, 1, 1)
    await desk.run()
    await desk.pass_(2 * MINUTE_MS)
    assert len(mailbox.mails) == 1
    assert (len(got), sorted(await desk.notices())[0]) == (1, ("chat", "opened", "pending"))
    await desk.pass_(61_000)
    await desk.pass_(301_000)
    assert len(got) == 3
    assert sorted(await desk.notices()) == [("chat", "opened", "sent"), ("mail", "opened", "sent")]


async def test_after_the_last_try_it_is_shown_as_failed(desk: Desk, mailbox: Mailbox) -> None:
    mailbox.refuse = True
    await desk.channel("mail", mailbox.url)
    await desk.rule(channels=["mail"])
    device = await desk.cloud.enroll("pi-1")
    await desk.report(device, "pi-1", 1, 1, 1)
    await desk.run()
    for _ in range(6):
        await desk.pass_(HOUR_MS)
    assert await desk.notices() == [("mail", "opened", "failed")]


async def test_nobody_took_it_on_and_somebody_did(desk: Desk, receiver: Any, mailbox: Mailbox) -> None:
    url, got, _ = receiver
    await desk.channel("mail", mailbox.url)
    await desk.channel("boss", url)
    await desk.rule(channels=["mail"], escalate_after_s=3600, escalate_to=["boss"])
    devices = {name: await desk.cloud.enroll(name) for name in ("pi-1", "pi-2")}
    for name, device in devices.items():
        await desk.report(device, name, 1, 1, 1, code=f"broken-{name}")
    await desk.run()
    async with desk.db.reading() as tx:
        found, total = await incidents.page(tx, state="open", reach=None, before_id=2**62, limit=10, offset=0)
    assert total == 2
    first = next(row for row in found if row["subject"] == "pi-1")
    await incidents.acknowledge(desk.db, first["id"], note="on it", actor=ACTOR, reach=None, now_ms=desk.now())
    with pytest.raises(Refusal) as refused:
        await incidents.acknowledge(desk.db, first["id"], note="", actor=ACTOR, reach=None, now_ms=desk.now())
    assert refused.value.status == 409
    await desk.pass_(2 * HOUR_MS)
    await desk.pass_(MINUTE_MS)
    assert [each["title"] for each in got] == ["PiSync: nobody has taken this on: pi-2 is failing: broken-pi-2"]


async def test_a_silence_holds_a_message_back_until_it_ends(desk: Desk, mailbox: Mailbox) -> None:
    await desk.channel("mail", mailbox.url)
    await desk.rule(channels=["mail"])
    now_ms = desk.now()
    await notifying.add_silence(
        desk.db,
        SilenceSpec(from_ms=now_ms, until_ms=now_ms + HOUR_MS, comment="power works", device_id="pi-1"),
        actor=ACTOR,
        now_ms=now_ms,
    )
    for name in ("pi-1", "pi-2"):
        await desk.report(await desk.cloud.enroll(name), name, 1, 1, 1, code=name)
    await desk.run()
    await desk.pass_(2 * MINUTE_MS)
    assert [subject for subject, _ in mailbox.texts()] == ["PiSync: pi-2 is failing: pi-2"]
    await desk.pass_(HOUR_MS)
    assert mailbox.texts()[1][0] == "PiSync: pi-1 is failing: pi-1"


async def test_a_test_goes_out_at_once_and_is_not_tried_again(desk: Desk, mailbox: Mailbox) -> None:
    await desk.channel("mail", mailbox.url, quiet_hours="00:00-23:59")
    await notifying.ask_test(desk.db, "mail", actor=ACTOR, now_ms=desk.now())
    await desk.run()
    assert mailbox.texts()[0][0] == "PiSync: this is a test"
    mailbox.refuse = True
    await notifying.ask_test(desk.db, "mail", actor=ACTOR, now_ms=desk.now())
    await desk.run()
    assert await desk.notices() == [("mail", "test", "sent"), ("mail", "test", "failed")]


async def test_who_dies_while_sending_sends_again(desk: Desk, mailbox: Mailbox) -> None:
    await desk.channel("mail", mailbox.url)
    await notifying.ask_test(desk.db, "mail", actor=ACTOR, now_ms=desk.now())
    assert await outgoing.claim(desk.db, "mail", desk.now(), "UTC") is not None
    await desk.run()
    assert mailbox.mails == []
    await desk.pass_(outgoing.LEASE_MS + 1)
    assert len(mailbox.mails) == 1


async def test_two_services_open_an_incident_once(desk: Desk) -> None:
    await desk.report(await desk.cloud.enroll("pi-1"), "pi-1", 1, 1, 1)
    await asyncio.gather(*(Alerting(desk.db, desk.now, Terms()).look() for _ in range(5)))
    async with desk.db.reading() as tx:
        _, total = await incidents.page(tx, state=None, reach=None, before_id=2**62, limit=10, offset=0)
    assert total == 1


def clock(text: str) -> int:
    return Calendar().at_ms(86_400 * 20_000 + int(text[:2]) * 3600 + int(text[3:]) * 60)


@pytest.mark.parametrize(
    ("quiet", "digest", "at", "usable"),
    [
        (None, None, "03:00", "03:00"),
        ("22:00-06:00", None, "21:59", "21:59"),
        ("22:00-06:00", None, "22:00", "30:00"),
        ("22:00-06:00", None, "03:00", "06:00"),
        ("22:00-06:00", None, "06:00", "06:00"),
        ("12:00-14:00", None, "13:00", "14:00"),
        (None, "07:00", "06:59", "07:00"),
        (None, "07:00", "07:00", "07:00"),
        (None, "07:00", "07:01", "31:00"),
    ],
)
def test_quiet_hours_and_digests(quiet: str | None, digest: str | None, at: str, usable: str) -> None:
    hours = Hours(
        calendar=Calendar(),
        quiet=notices.span(quiet) if quiet else None,
        digest=notices.minutes(digest) if digest else None,
    )
    assert notices.usable_at(hours, clock(at)) == clock(usable)


@pytest.mark.parametrize("text", ["", "22:00", "22:00-", "24:00-06:00", "22:00-22:00", "aa:bb-cc:dd", "1:00-2:00"])
def test_what_is_no_span(text: str) -> None:
    assert notices.span(text) is None


def test_a_long_message_names_twenty() -> None:
    lines = [Line(kind="opened", subject=f"pi-{n}", about="failing", detail="", at_ms=0) for n in range(30)]
    assert notices.subject(lines) == "PiSync: 30 devices need a person"
    text = notices.body(lines, ["now"] * 30, "")
    assert text.count("\n- ") == 20
    assert "and 10 more" in text


def test_a_common_recovery_says_who_did_not() -> None:
    line = Line(
        kind="recovered", subject="north", about="overdue", detail="", at_ms=0, devices=40, left=["a", "b", "c"]
    )
    assert notices.sentence(line) == "north: 37 of 40 devices recovered; 3 did not: a, b, c"


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"url": ""}, "/url"),
        ({"url": "syslog://"}, "/url"),
        ({"url": "json://x", "quiet_hours": "22-6"}, "/quiet_hours"),
        ({"url": "json://x", "digest_at": "7"}, "/digest_at"),
        ({"url": "json://x", "timezone": "Mars"}, "/timezone"),
        ({"name": "a/b", "url": "json://x"}, "/name"),
    ],
)
async def test_what_cannot_be_a_channel(cloud_lite: Cloud, more: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Refusal) as refused:
        await Desk(cloud_lite).channel(**{"name": "mail", "url": "json://x", **more})
    assert refused.value.errors[0].pointer == pointer


@pytest.mark.parametrize(
    "more",
    [{"states": []}, {"states": ["sad"]}, {"channels": ["none"]}, {"groups": ["none"]}, {"wait_s": -1},
     {"escalate_after_s": 0}, {"faults": [""]}, {"tags": ["x" * 200]}],
)  # fmt: skip
async def test_what_cannot_be_a_rule(cloud_lite: Cloud, more: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        await Desk(cloud_lite).rule(**more)
    assert refused.value.status == 422
