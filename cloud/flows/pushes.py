"""Takes in what batches say about records, inside the transaction of the ingest and after it has dated the boots.

A device's copy of a record joins the one here; plain fields are written by the cloud in the sender's name, beside what
the sender had not seen. An item that may not be taken is kept as refused and takes no other with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import structlog

from cloud.flows.recording import Author, Entry, Recording, device_author, user_author
from cloud.rules import records as rules
from cloud.rules import rows
from cloud.rules.admit import Changes, Outcome, Unit
from cloud.rules.facts import MessageFact, RecordPush
from cloud.rules.records import Refused
from cloud.store import boots
from cloud.store.db import Tx
from pisyncd.core import record
from pisyncd.core.deciding import Decision
from pisyncd.core.problems import Refusal
from pisyncd.core.recordwire import Plain
from pisyncd.core.timeline import Bounds

log = structlog.get_logger()

SEQ_CONFLICT = "seq-conflict"
_PURGED = Refused(code="record-purged", detail="this record was removed for good")
# What a database wrote after it was set back does not know what it wrote before: it has to come by another name.
_SET_BACK = Refused(code=SEQ_CONFLICT, detail="numbers before this one in its stream were received before")
_BROKEN = Refused(code="item-invalid", detail="the cloud cannot make sense of it; its log has the details")
_NOT_YOURS = Refused(code="ownership-mismatch", detail="this record does not concern the sender")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    """One item that speaks of a record, and where its outcome stands."""

    unit: Unit
    fact: MessageFact
    record: RecordPush | Plain
    outcomes: list[Outcome]
    index: int

    @property
    def outcome(self) -> Outcome:
        return self.outcomes[self.index]

    @property
    def key(self) -> rules.Key:
        return self.record.type, self.record.id

    @property
    def user_id(self) -> str:
        return self.unit.user_id or self.fact.user_id

    @property
    def stream_key(self) -> tuple[int, str | None]:
        return self.unit.dk, self.fact.place.stream if self.fact.place else None

    @property
    def stamp_key(self) -> tuple[int, str]:
        return self.unit.dk, self.fact.stamp.boot_id or ""


async def apply(
    tx: Tx,
    known_rules: record.Rules,
    units: Sequence[Unit],
    outcomes: Sequence[list[Outcome]],
    changes: Changes,
    now_ms: int,
) -> bool:
    """Applies what a judged group says about records, in its order; puts what became of each into `outcomes`.

    False when no record has changed.
    """
    items = _items(units, outcomes)
    if not items:
        return False
    work = await Recording.begin(
        tx,
        known_rules,
        list(dict.fromkeys(item.key for item in items)),
        now_ms,
        dks={item.unit.dk for item in items if item.unit.dk},
        writers=_writers(items),
    )
    keys = {item.stamp_key for item in items if item.unit.dk and item.fact.stamp.boot_id}
    taking = _Taking(work=work, offsets=await boots.offsets(tx, sorted(keys)), now_ms=now_ms)
    set_back: set[tuple[int, str | None]] = set()
    for item in items:
        if item.outcome.code == SEQ_CONFLICT:
            set_back.add(item.stream_key)
            continue
        refused = _SET_BACK if item.stream_key in set_back else taking.one(item)
        if refused is not None:
            _retract(changes, item, refused, now_ms)
            item.outcomes[item.index] = msgspec.structs.replace(
                item.outcome, status="failed", code=refused.code, detail=refused.detail
            )
    return await work.save()


def _teller(news: set[str]) -> str:
    """The instance whose copy it is: the one writer that has written in it."""
    return next(iter(news)) if len(news) == 1 else ""


def _items(units: Sequence[Unit], outcomes: Sequence[list[Outcome]]) -> list[_Item]:
    found = []
    for unit, results in zip(units, outcomes, strict=True):
        for index, fact in enumerate(unit.facts):
            if not isinstance(fact, MessageFact) or fact.record is None:
                continue
            if results[index].status == "synced" or results[index].code == SEQ_CONFLICT:
                found.append(_Item(unit=unit, fact=fact, record=fact.record, outcomes=results, index=index))
    return found


def _retract(changes: Changes, item: _Item, refused: Refused, now_ms: int) -> None:
    """Keeps as refused what had been judged to be kept."""
    dk, fact = item.unit.dk, item.fact
    changes.messages = [row for row in changes.messages if row[:3] != (dk, item.user_id, fact.item_id)]
    changes.rejected = [row for row in changes.rejected if row[:2] != (dk, fact.item_id) or row[5] != fact.digest]
    if dk:
        changes.rejected.append(rows.rejected(dk, fact, refused.code, refused.detail, now_ms))


def _writers(items: Sequence[_Item]) -> set[str]:
    """Writers that have to be known; the one of a device that sends plain fields can be nobody else's."""
    found: set[str] = set()
    for item in items:
        if isinstance(item.record, RecordPush):
            found.update(*((writer, writer.partition("~")[0]) for writer in item.record.state.version))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Taking:
    work: Recording
    offsets: dict[tuple[int, str], Bounds]
    now_ms: int

    def one(self, item: _Item) -> Refused | None:
        """Applies one item; why not, if not."""
        entry = self.work.entry(item.key)
        dk = item.unit.dk
        author = device_author(dk, self.work.device_id(dk)) if dk else user_author(item.unit.user_id)
        if entry.purged:
            return _PURGED
        if not self._may(entry, item, author):
            return _NOT_YOURS
        try:
            if isinstance(item.record, RecordPush):
                return self._pushed(entry, item, item.record, author)
            return self._plain(entry, item, item.record, author)
        except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            # What the rules stumble over would come again for ever, and hold up all that is behind it.
            log.exception("record.failed", type=entry.key[0], device=author.dk)
            return _BROKEN

    def _may(self, entry: Entry, item: _Item, author: Author) -> bool:
        if item.unit.dk:
            return self.work.entitled(entry, item.unit.dk)
        mine = ("user", item.unit.user_id)
        if entry.kept is None and not entry.changed:
            return mine in record.scopes(*item.key, {}) if item.record.type == "profile" else True
        return author.writer in entry.state.version or mine in entry.added or entry.scopes.get(mine) is False

    def _pushed(self, entry: Entry, item: _Item, push: RecordPush, author: Author) -> Refused | None:
        offset, stamp = self.offsets.get(item.stamp_key), item.fact.stamp
        taken = rules.taken_in(
            push,
            entry.rule,
            entry.state,
            lambda writer: self._own(writer, author.dk),
            lambda state: rules.judge(state, stamp, offset, self.now_ms),
        )
        if isinstance(taken, Refused):
            return taken
        state, news = taken
        self.work.claim(news, author, self.work.device_id(author.dk))
        news_here = self.work.change(entry, state, author, user_id=item.user_id, told=push.state, teller=_teller(news))
        self._tell(item, news_here, author)
        return None

    def _plain(self, entry: Entry, item: _Item, plain: Plain, author: Author) -> Refused | None:
        moment = rules.moment_of(item.fact.stamp, self.offsets.get(item.stamp_key), self.now_ms)
        try:
            state = rules.beside(entry.state, entry.rule, plain, author.writer, moment)
            rules.check_size(state, entry.state)
        except Refusal as refusal:
            return rules.refused(refusal)
        name = self.work.device_id(author.dk) if author.dk else f"a user ({author.actor[5:13]})"
        self.work.claim([author.writer], author, name)
        self._tell(item, self.work.change(entry, state, author, user_id=item.user_id), author)
        return None

    def _own(self, writer: str, dk: int) -> bool:
        # Under another name of its writer a device would take another's for its own that the cloud has.
        owner = self.work.owner(writer) or self.work.owner(writer.partition("~")[0])
        return rules.claimable(writer) and (owner is None or owner.dk == dk)

    def _tell(self, item: _Item, news: list[Decision], author: Author) -> None:
        def own(writer: str) -> bool:
            owner = self.work.owner(writer)
            return writer == author.writer or (bool(author.dk) and owner is not None and owner.dk == author.dk)

        found = rules.resolution(news, own, self.work.names)
        if found is not None:
            item.outcomes[item.index] = msgspec.structs.replace(
                item.outcome, status="conflict", resolution=found, detail=found.detail
            )
