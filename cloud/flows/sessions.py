"""Learner sessions that are made here: each call is one transaction, its events go with it but never stop it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from cloud.flows.figures import Figures
from cloud.rules import access
from cloud.rules.access import Principal
from cloud.store import sessions as store
from cloud.store.db import Database, DuplicateRow, TransactionLost, Tx
from cloud.store.learning import attempt_row
from pisyncd.core import session as rules
from pisyncd.core.envelope import Envelope
from pisyncd.core.problems import Refusal
from pisyncd.core.session import Answer, AnswerIn, Session, SessionIn, Step

log = structlog.get_logger()

EXPIRE_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks, and the learner that a device names (a user is their own)."""

    principal: Principal
    user_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    session: Session
    dk: int


class Sessions:
    """The sessions of learners."""

    def __init__(self, db: Database, now_ms: Callable[[], int], figures: Figures) -> None:
        self._db = db
        self._now_ms = now_ms
        self._figures = figures

    async def create(self, caller: Caller, asked: SessionIn) -> tuple[Session, bool]:
        """The session, and whether it is new. Raises Refusal 400, 403, 409."""
        if caller.user_id is None:
            raise rules.user_missing()
        try:
            return await self._create(caller, caller.user_id, asked)
        except DuplicateRow:
            # The same id was sent twice at once; now the first one can be seen.
            return await self._create(caller, caller.user_id, asked)

    async def _create(self, caller: Caller, user_id: str, asked: SessionIn) -> tuple[Session, bool]:
        async with self._db.transaction() as tx:
            found = await store.find(tx, asked.id) if asked.id else None
            held = found and await self._ended_in_time(tx, _Held(session=found[0], dk=found[1]))
            now_ms = self._now_ms()
            known = held.session if held else None
            step = rules.create(known, asked, user_id=user_id, now_ms=now_ms, new_id=_new_id)
            if step.change is not None:
                await store.add(tx, [(step.session, 0)])
                await self._emit(tx, [step.events], now_ms, caller.principal.dk)
        return step.session, step.change is not None

    async def answer(self, caller: Caller, session_id: str, asked: AnswerIn) -> Answer:
        """The answer as it is now. Raises Refusal 403, 404, 409, 422."""

        async def act(tx: Tx, held: _Held, now_ms: int) -> Step:
            _made_here(held)
            known = await store.find_answer(tx, held.session.id, asked.question_id)
            return rules.answer(held.session, known, asked, now_ms=now_ms, new_id=_new_id)

        step, _ = await self._act(caller, session_id, act)
        assert step.answer is not None
        return step.answer

    async def submit(self, caller: Caller, session_id: str) -> Session:
        """The session, which has ended. Raises Refusal 403, 404, 409."""

        async def act(_tx: Tx, held: _Held, now_ms: int) -> Step:
            if held.session.state == "active":
                _made_here(held)
            return rules.submit(held.session, now_ms=now_ms, new_id=_new_id)

        return (await self._act(caller, session_id, act))[0].session

    async def review(self, caller: Caller, session_id: str) -> tuple[Session, list[Answer]]:
        """A session that has ended, with its answers. Raises Refusal 403, 404, 409."""

        async def act(_tx: Tx, held: _Held, _now_ms: int) -> Step:
            return rules.review(held.session, new_id=_new_id)

        step, answers = await self._act(caller, session_id, act, with_answers=True)
        return step.session, answers

    async def _act(
        self,
        caller: Caller,
        session_id: str,
        act: Callable[[Tx, _Held, int], Awaitable[Step]],
        *,
        with_answers: bool = False,
    ) -> tuple[Step, list[Answer]]:
        async with self._db.transaction() as tx:
            held = await self._ended_in_time(tx, await self._reach(tx, caller, session_id))
            now_ms = self._now_ms()
            try:
                step = await act(tx, held, now_ms)
            except Refusal as error:
                # Raised only after the commit: that the session has come to its end stays true.
                refusal = error
            else:
                await self._keep(tx, held.session, step)
                await self._emit(tx, [step.events], now_ms, caller.principal.dk)
                return step, await store.answers(tx, held.session.id) if with_answers else []
        raise refusal

    async def _reach(self, tx: Tx, caller: Caller, session_id: str) -> _Held:
        found = await store.find(tx, session_id)
        if found is None:
            raise rules.unknown(session_id)
        session, dk = found
        if not access.reaches(caller.principal, caller.user_id, owner=session.user_id, dk=dk):
            raise rules.not_yours()
        return _Held(session=session, dk=dk)

    async def _ended_in_time(self, tx: Tx, held: _Held) -> _Held:
        # The end of a device's session is for the device to tell: it knows what was answered until then.
        if held.dk:
            return held
        now_ms = self._now_ms()
        step = rules.expire(held.session, now_ms=now_ms, new_id=_new_id)
        await self._keep(tx, held.session, step)
        await self._emit(tx, [step.events], now_ms, 0)
        return _Held(session=step.session, dk=0)

    async def _keep(self, tx: Tx, before: Session, step: Step) -> None:
        if step.session != before:
            await store.move(tx, [step.session])
            if step.answer is not None:
                await store.save_answers(tx, [step.answer])

    async def expire_due(self) -> int:
        """Ends what is over; gives how many sessions that were."""
        ended = 0
        while True:
            now_ms = self._now_ms()
            async with self._db.transaction() as tx:
                due = await store.due(tx, now_ms, EXPIRE_AT_ONCE)
                steps = [rules.expire(one, now_ms=now_ms, new_id=_new_id) for one in due]
                await store.move(tx, [step.session for step in steps])
                await self._emit(tx, [step.events for step in steps], now_ms, 0)
            ended += len(due)
            if len(due) < EXPIRE_AT_ONCE:
                return ended

    async def _emit(self, tx: Tx, groups: Sequence[Sequence[Envelope]], now_ms: int, dk: int) -> None:
        """Adds events; what cannot be added is logged and counted, and the transaction goes on without it."""
        events = [event for group in groups for event in group]
        if not events:
            return
        try:
            async with tx.savepoint():
                await tx.bulk("add_attempts", [attempt_row(event, event_ts=now_ms, dk=dk) for event in events])
        except TransactionLost:
            raise
        except Exception as error:
            if len(groups) > 1:
                # One event that the database chokes on must not take those of other sessions with it.
                for group in groups:
                    await self._emit(tx, [group], now_ms, dk)
                return
            self._figures.emitted(len(events), kept=False)
            types = [event.event_type for event in events]
            log.error("events.insert_failed", session=events[0].session_id, types=types, error=str(error)[:300])
        else:
            self._figures.emitted(len(events), kept=True)


def _made_here(held: _Held) -> None:
    if held.dk:
        raise Refusal(
            409,
            "session-elsewhere",
            "this session was made on a device and goes on there",
            hint="answer and submit it at the device; it can be looked at here once the device has delivered its end",
        )


def _new_id() -> str:
    return str(uuid.uuid4())
