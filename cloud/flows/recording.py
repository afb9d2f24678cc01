"""Records as one transaction changes them: read at once, changed in memory, written at once with what comes of it.

What comes of a change: its place in the feed, whom the record concerns now, the decisions that it brought up or
settled, what webhooks tell of it, and, unless a device made it, an entry in the audit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cloud.flows import announcing, audit
from cloud.flows.announcing import Happening
from cloud.rules import exporting
from cloud.rules import records as rules
from cloud.rules.records import Key, Scope
from cloud.store import records as store
from cloud.store.db import Tx
from cloud.store.records import Kept, Writer
from pisyncd.core import admitting, deciding, explain, merge, record, recordwire, wire
from pisyncd.core.deciding import Decision
from pisyncd.core.merge import View
from pisyncd.core.record import EMPTY, State, TypeRule

CONFLICT = "conflict.detected"
_DEVICE = "device:"


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes a record. `actor`: 'key:NAME', 'device:ID', 'user:SHA-256' or 'webhook:NAME'; `writer`: in which
    writer, '' for the cloud's own; `dk`: the device, 0 for others."""

    actor: str
    writer: str = ""
    dk: int = 0


def device_author(dk: int, device_id: str) -> Author:
    """A device that speaks without versions: the cloud writes for it, in a writer of the device's own."""
    return Author(f"device:{device_id}", rules.user_writer(f"device:{device_id}"), dk)


def user_author(user_id: str) -> Author:
    """A user, who stands everywhere by the SHA-256 of the id."""
    actor = f"user:{exporting.user_hash(user_id)}"
    return Author(actor, rules.user_writer(actor))


@dataclass(kw_only=True, slots=True)
class Entry:
    """One record while it is changed. `news`: the decisions that have come up, and by whose report; `echo`: whose
    copy of it is alike, 'WRITER:VERSION', '' for nobody's."""

    key: Key
    rule: TypeRule
    kept: Kept | None
    state: State
    view: View
    scopes: dict[Scope, bool]
    before: View
    added: set[Scope] = field(default_factory=set)
    author: Author | None = None
    echo: str = ""
    decisions: dict[str, Decision] = field(default_factory=dict)
    news: dict[str, tuple[Decision, int]] = field(default_factory=dict)

    @property
    def purged(self) -> bool:
        """Removed for good, with all that it said."""
        return self.kept is not None and self.kept.purged

    @property
    def changed(self) -> bool:
        """Whether there is something to write."""
        return self.state != (self.kept.state if self.kept else EMPTY)


class Recording:
    """See the module. `begin` locks all records until the end of the transaction."""

    def __init__(self, tx: Tx, now_ms: int) -> None:
        self._tx = tx
        self._now_ms = now_ms
        self._entries: dict[Key, Entry] = {}
        self._writers: dict[str, Writer] = {}
        self._claimed: dict[str, Writer] = {}
        self._subscriptions: dict[int, set[Scope]] = {}
        self._devices: dict[int, str] = {}

    @classmethod
    async def begin(
        cls,
        tx: Tx,
        known_rules: record.Rules,
        keys: Collection[Key],
        now_ms: int,
        *,
        dks: Collection[int] = (),
        writers: Iterable[str] = (),
    ) -> Recording:
        """Reads the records `keys`, whose types have to be known, and what is known of `dks` and `writers`."""
        self = cls(tx, now_ms)
        await store.lock(tx)
        kept = await store.known(tx, keys)
        scopes = await store.scopes(tx, keys)
        names = set(writers).union(*(one.state.version for one in kept.values()))
        self._writers = await store.writers(tx, sorted(names))
        self._subscriptions = await store.subscriptions(tx, dks)
        self._devices = await store.device_ids(tx, dks)
        for key in keys:
            self._entries[key] = _entry(key, known_rules[key[0]], kept.get(key), scopes[key])
        return self

    def entry(self, key: Key) -> Entry:
        """A record as it is by now."""
        return self._entries[key]

    def entitled(self, entry: Entry, dk: int) -> bool:
        """Whether a device may change a record: it is new, the device wrote it, or subscribes to whom it concerns."""
        if entry.kept is None and not entry.changed:
            return True
        if entry.scopes.get(("device", self._devices[dk])) is False or ("device", self._devices[dk]) in entry.added:
            return True
        holding = {**entry.scopes, **_moved(entry)} if entry.changed else entry.scopes
        return any(holding.get(scope) is False for scope in self._subscriptions[dk])

    def owner(self, writer: str) -> Writer | None:
        """Whose a writer is; None: nobody's yet."""
        return self._writers.get(writer)

    def claim(self, writers: Iterable[str], author: Author, name: str) -> None:
        """Makes those that nobody has the author's."""
        for writer in writers:
            if writer not in self._writers:
                self._writers[writer] = self._claimed[writer] = Writer(dk=author.dk, name=name)

    @property
    def names(self) -> dict[str, str]:
        """What a person calls the writers."""
        return {name: writer.name for name, writer in self._writers.items()}

    def device_id(self, dk: int) -> str:
        """Its public id."""
        return self._devices[dk]

    def change(
        self, entry: Entry, state: State, author: Author, *, user_id: str = "", told: State = EMPTY, teller: str = ""
    ) -> list[Decision]:
        """Takes a new state; gives the decisions that it brought up. `user_id`: whom it concerns beside its fields;
        `told`: the copy of a device's instance, the writer `teller`."""
        if state == entry.state:
            return []
        # Reckoned before anything is taken: what cannot be shown must leave the record as it was.
        view = merge.view(state, entry.rule)
        now = {one.id: one for one in deciding.decisions(*entry.key, state, entry.rule)}
        news = [decision for found, decision in now.items() if found not in entry.decisions]
        entry.state, entry.author, entry.view, entry.decisions = state, author, view, now
        alike = bool(teller) and admitting.shows_alike(told, state)
        entry.echo = f"{teller}:{record.canonical(state.version).decode()}" if alike else ""
        if author.dk:
            entry.added.add(("device", self._devices[author.dk]))
            entry.added.update(scope for scope in self._subscriptions[author.dk] if scope[0] == "site")
        if user_id:
            entry.added.add(("user", user_id))
        entry.news |= {decision.id: (decision, author.dk) for decision in news}
        return news

    async def save(self) -> bool:
        """Writes everything; False when nothing has changed."""
        changed = [entry for entry in self._entries.values() if entry.changed]
        if not changed:
            return False
        await store.add_writers(self._tx, self._claimed)
        rows = [(_kept(entry, self._now_ms), entry.view.fields, entry.echo) for entry in changed]
        await store.save(self._tx, rows)
        moved = {entry.key: _moved(entry) for entry in changed}
        await store.save_scopes(self._tx, moved.items())
        users = {entry.key: _user(entry, moved[entry.key]) for entry in changed}
        news = await self._save_conflicts(changed)
        await self._settle(changed)
        await self._announce(changed, news, users)
        for entry in changed:
            await self._note(entry)
        return True

    async def _save_conflicts(self, changed: list[Entry]) -> list[tuple[Decision, str]]:
        """Keeps the decisions that are new; gives them, each with its sentence."""
        found = {id_: each for entry in changed for id_, each in entry.news.items()}
        known = await store.known_conflicts(self._tx, sorted(found))
        names = self.names
        news = [
            (decision, explain.sentence(decision, names), dk)
            for id_, (decision, dk) in found.items()
            if id_ not in known
        ]
        await self._tx.bulk("add_conflicts", [store.conflict_row(*each, self._now_ms) for each in news])
        return [(decision, sentence) for decision, sentence, _ in news]

    async def _announce(self, changed: list[Entry], news: list[tuple[Decision, str]], users: Mapping[Key, str]) -> None:
        """Tells endpoints, if there is one that wants it: making what they get costs more than the rest."""
        kinds = {_kind(entry) for entry in changed} | ({CONFLICT} if news else set())
        wanted = await announcing.wanted(self._tx, kinds)
        told = [_happening(entry, users[entry.key], self._now_ms) for entry in changed if _kind(entry) in wanted]
        if CONFLICT in wanted:
            told += [_conflict(*each, users[each[0].type, each[0].record_id]) for each in news]
        await announcing.announce(self._tx, told, self._now_ms)

    async def _settle(self, changed: list[Entry]) -> None:
        """Open conflicts whose sides have been seen, or among which another one has come, are over."""
        rows = []
        opened = await store.open_conflicts(
            self._tx, [entry.key for entry in changed if entry.kept is not None or entry.news]
        )
        for entry in changed:
            for found in opened.get(entry.key, set()) - entry.decisions.keys():
                assert entry.author is not None
                successor = next((each for each in entry.decisions.values() if each.open), None)
                how: dict[str, Any] = {"by": "write", "version": entry.state.version}
                if successor is not None:
                    how = {"by": "successor", "conflictId": successor.id}
                rows.append((self._now_ms, entry.author.actor, msgspec.json.encode(how).decode(), found))
        await self._tx.bulk("resolve_conflicts", rows)

    async def _note(self, entry: Entry) -> None:
        assert entry.author is not None
        if entry.author.actor.startswith(_DEVICE):
            return
        await audit.record(
            self._tx,
            now_ms=self._now_ms,
            actor=entry.author.actor,
            action=f"record.{_verb(entry)}",
            target=audit.target_of(*entry.key),
            detail={"etag": record.etag(entry.state)},
            before_hash=record.digest(entry.kept.state) if entry.kept else None,
            after_hash=record.digest(entry.state),
        )


def _entry(key: Key, rule: TypeRule, kept: Kept | None, scopes: dict[Scope, bool]) -> Entry:
    state = kept.state if kept else EMPTY
    view = merge.view(state, rule)
    decisions = {one.id: one for one in deciding.decisions(*key, state, rule)}
    return Entry(key=key, rule=rule, kept=kept, state=state, view=view, scopes=scopes, before=view, decisions=decisions)


def _kept(entry: Entry, now_ms: int) -> Kept:
    return Kept(
        type=entry.key[0],
        id=entry.key[1],
        state=entry.state,
        deleted=entry.view.deleted,
        purged=False,
        change=0,
        created_at_ms=entry.kept.created_at_ms if entry.kept else now_ms,
        updated_at_ms=now_ms,
    )


def _moved(entry: Entry) -> dict[Scope, bool]:
    had = record.scopes(*entry.key, entry.before.fields) if entry.before.present else set()
    has = record.scopes(*entry.key, entry.view.fields)
    return rules.scopes_after(entry.scopes, had, has, entry.added, deleted=entry.view.deleted)


def _user(entry: Entry, moved: Mapping[Scope, bool]) -> str:
    """The user whom a record concerns; '' for none."""
    now = {**entry.scopes, **moved}
    return min((value for (kind, value), gone in now.items() if kind == "user" and not gone), default="")


def _verb(entry: Entry) -> str:
    if entry.view.deleted:
        return "deleted"
    return "updated" if entry.before.present else "created"


def _kind(entry: Entry) -> str:
    family = entry.key[0] if entry.key[0] in record.BUILT_IN else recordwire.ITEM_TYPE
    return f"{family}.{_verb(entry)}"


def _happening(entry: Entry, user_id: str, now_ms: int) -> Happening:
    record_type, record_id = entry.key
    data: dict[str, Any] = {
        "type": record_type,
        "id": record_id,
        "fields": dict(entry.view.fields),
        "deleted": entry.view.deleted,
        "version": entry.state.version,
        "etag": record.etag(entry.state),
        "last_updated_at": wire.rfc3339(now_ms),
    }
    return Happening(type=_kind(entry), resource_type=record_type, resource_id=record_id, data=data, user_id=user_id)


def _conflict(decision: Decision, explanation: str, user_id: str) -> Happening:
    data = {**msgspec.to_builtins(decision), "open": decision.open, "explanation": explanation}
    return Happening(
        type=CONFLICT,
        resource_type=decision.type,
        resource_id=decision.record_id,
        data=data,
        user_id=user_id,
    )
