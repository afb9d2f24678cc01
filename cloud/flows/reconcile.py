"""Puts what devices tell of their sessions together with what is kept, a group at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cloud.rules.facts import SessionFact
from cloud.store import sessions as store
from cloud.store.db import Tx
from pisyncd.core import session_merge
from pisyncd.core.session import Answer, Session


async def reconcile(tx: Tx, facts: Sequence[SessionFact], now_ms: int) -> dict[int, str]:
    """Merges the changes in `facts` and writes what comes of it; gives the code of each that is refused, by index.

    Sessions concerned are locked until the end of `tx`. Raises DuplicateRow when another transaction has just added
    one of them: then the whole group is to be judged again.
    """
    if not facts:
        return {}
    before, owners = await _sessions(tx, {fact.change.session_id for fact in facts})
    answers = await _answers(tx, facts)
    after = dict(before)
    changed: dict[tuple[str, str], Answer] = {}
    refused: dict[int, str] = {}
    for index, fact in enumerate(facts):
        session_id = fact.change.session_id
        merged = session_merge.merge(
            after.get(session_id), answers.get(session_id, {}), fact.change, min(fact.at_ms, now_ms)
        )
        if merged.refused is not None:
            refused[index] = merged.refused
            continue
        after[session_id] = merged.session
        owners.setdefault(session_id, fact.dk)
        for answer in merged.answers:
            answers.setdefault(session_id, {})[answer.question_id] = answer
            changed[session_id, answer.question_id] = answer
    await _write(tx, before, after, owners)
    await store.save_answers(tx, changed.values())
    return refused


async def _sessions(tx: Tx, ids: Iterable[str]) -> tuple[dict[str, Session], dict[str, int]]:
    rows = await tx.lookup("known_learner_sessions", [(session_id,) for session_id in sorted(ids)])
    return {row["session_id"]: store.session_of(row) for row in rows}, {row["session_id"]: row["dk"] for row in rows}


async def _answers(tx: Tx, facts: Sequence[SessionFact]) -> dict[str, dict[str, Answer]]:
    asked = {(one.change.session_id, one.change.answer.question_id) for one in facts if one.change.answer is not None}
    found: dict[str, dict[str, Answer]] = {}
    for row in await tx.lookup("known_session_answers", sorted(asked)):
        found.setdefault(row["session_id"], {})[row["question_id"]] = store.answer_of(row)
    return found


async def _write(tx: Tx, before: dict[str, Session], after: dict[str, Session], owners: dict[str, int]) -> None:
    changed = [one for session_id, one in after.items() if session_id in before and one != before[session_id]]
    await store.add(tx, [(one, owners[key]) for key, one in after.items() if key not in before])
    await store.fill(tx, [one for one in changed if _made_of(one) != _made_of(before[one.id])])
    await store.move(tx, changed)


def _made_of(session: Session) -> tuple[object, ...]:
    return session.mode, session.filters, session.question_ids, session.created_at_ms, session.expires_at_ms


async def sessions_of(tx: Tx, ids: Iterable[str]) -> dict[str, tuple[str, frozenset[str]]]:
    """{session: (user, its questions)} of those that are known; no questions while the session itself has not arrived.

    One lookup, nothing is locked.
    """
    rows = await tx.lookup("learner_session_owners", [(session_id,) for session_id in set(ids)])
    return {
        row["session_id"]: (row["user_id"], frozenset(msgspec.json.decode(row["question_ids"], type=list[str])))
        for row in rows
    }
