"""Which writer this database on this board is, and by which name its streams go.

A copied card in another board is a new writer that begins new streams: two that count alike under one name would
overwrite each other. So is one that goes on as another device: the cloud takes a writer from one device alone. A
database that was set back is noticed by the cloud; then `renew` makes it a new one, too.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from pisyncd.core import record
from pisyncd.outbox.db import Database, queries

log = structlog.get_logger()

_sql = queries("books", in_thread=True)
_reading = queries("books")

OUTBOX_ID = "outbox_id"
INSTANCE = "instance"
PAST_MAX = 200
_VIRTUAL = ("lo", "veth", "docker", "br-", "virbr", "tap", "tun", "wg")
_GIVEN_AT_RANDOM = 0x02  # the bit of a MAC address that says that no maker has given it


class Board(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What tells this machine from others; each is '' or empty where it cannot be read.

    `device` is as what the cloud knows it: a writer is one device's there.
    """

    machine: str = ""
    serial: str = ""
    macs: tuple[str, ...] = ()
    device: str = ""

    @property
    def hardware(self) -> str:
        """The surest of it: 'serial:1000...', else 'macs:b8:27:...', '' where there is neither (a container)."""
        return f"serial:{self.serial}" if self.serial else f"macs:{','.join(self.macs)}" if self.macs else ""

    def is_same(self, other: Board) -> bool:
        """Whether both can be one machine. What was not read at one of the times tells nothing."""
        if self.device and other.device and self.device != other.device:
            return False
        if self.serial and other.serial:
            return self.serial == other.serial
        if self.macs and other.macs:
            # A network adapter that was plugged in or taken out makes no new board.
            mine, others = set(self.macs), set(other.macs)
            return mine <= others or others <= mine
        return not self.machine or not other.machine or self.machine == other.machine


def read_board(root: Path = Path("/")) -> Board:
    """This machine; `root` is another place for `etc`, `proc` and `sys`. Never raises for what is not there."""
    macs: set[str] = set()
    with contextlib.suppress(OSError):
        for card in (root / "sys/class/net").iterdir():
            if not card.name.startswith(_VIRTUAL) and (address := _mac(_text(card / "address"))):
                macs.add(address)
    return Board(
        machine=_text(root / "etc/machine-id"),
        serial=_text(root / "proc/device-tree/serial-number"),
        macs=tuple(sorted(macs)),
    )


def _mac(text: str) -> str:
    try:
        octets = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return ""
    if len(octets) != 6 or octets[:3] == b"\0\0\0" or octets[0] & (_GIVEN_AT_RANDOM | 1):
        return ""
    return text.lower()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().strip(b"\0 \t\r\n").decode("ascii", "replace")[:200]
    except OSError:
        return ""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """`past`: what this database has written as before."""

    id: str
    board: Board
    past: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Begun:
    outbox_id: str
    kept: _Kept


class Instance:
    """`id` is the writer, `outbox_id` stands in the names of new streams."""

    def __init__(self, db: Database, begun: _Begun) -> None:
        self._db = db
        self._take(begun)

    def _take(self, begun: _Begun) -> None:
        self.outbox_id = begun.outbox_id
        self._kept = begun.kept
        self.mine = frozenset({begun.kept.id, *begun.kept.past})

    @property
    def id(self) -> str:
        """The writer that this is: 'd-5f0c8e21aa03b7c4'."""
        return self._kept.id

    def is_mine(self, writer: str) -> bool:
        """Whether this database has written as this one, by whichever name."""
        return writer.partition("~")[0] in self.mine

    async def renew(self, reason: str) -> None:
        """From now on another writer, with new streams: this database has been set back. What waits stays as it is.

        Raises StorageBusy.
        """
        before = self._kept
        self._take(await self._db.write(lambda db: _begin(db, before.board, (before.id, *before.past))))
        log.warning("instance.changed", reason=reason, before=before.id, now=self.id)

    def belongs_to(self, db: sqlite3.Connection, device: str) -> None:
        """Notes as which device the cloud knows it. Inside of Database.write."""
        board = msgspec.structs.replace(self._kept.board, device=device)
        kept = msgspec.structs.replace(self._kept, board=board)
        _sql.set_cursor(db, name=INSTANCE, value=msgspec.json.encode(kept).decode())
        self._take(_Begun(outbox_id=self.outbox_id, kept=kept))

    def remember(self, db: sqlite3.Connection, past: tuple[str, ...]) -> None:
        """Those were this one, too (a salvaged database). Inside of Database.write."""
        kept = msgspec.structs.replace(self._kept, past=(*self._kept.past, *past)[:PAST_MAX])
        _sql.set_cursor(db, name=INSTANCE, value=msgspec.json.encode(kept).decode())
        self._take(_Begun(outbox_id=self.outbox_id, kept=kept))


def _nothing(_db: sqlite3.Connection) -> None:
    pass


async def open_instance(
    db: Database, board: Board, changed: Callable[[sqlite3.Connection], None] = _nothing
) -> Instance:
    """As what this database goes on; as a new one when board or device is another. Raises StorageBusy.

    `changed` is called in the transaction by which it becomes another device.
    """
    outbox_id = await _reading.get_cursor(db.reader, name=OUTBOX_ID)
    kept = decode(await _reading.get_cursor(db.reader, name=INSTANCE))
    if kept is None:
        return Instance(db, await db.write(lambda tx: _begin(tx, board, (), outbox_id)))
    if not kept.board.is_same(board):
        return await _open_as_another(db, kept, board, changed)
    found = Instance(db, _Begun(outbox_id=str(outbox_id), kept=kept))
    if board.device != kept.board.device and board.device:
        await db.write(lambda tx: found.belongs_to(tx, board.device))
    return found


async def _open_as_another(
    db: Database, kept: _Kept, board: Board, changed: Callable[[sqlite3.Connection], None]
) -> Instance:
    renamed = bool(board.device and kept.board.device) and board.device != kept.board.device

    def work(tx: sqlite3.Connection) -> _Begun:
        if renamed:
            changed(tx)
        return _begin(tx, board, (kept.id, *kept.past))

    found = Instance(db, await db.write(work))
    reason = "another-device" if renamed else "another-board"
    log.warning("instance.changed", reason=reason, before=kept.id, now=found.id)
    return found


def decode(text: object) -> _Kept | None:
    """What the cursor `instance` holds; None when it is nothing of the kind."""
    try:
        return msgspec.json.decode(text, type=_Kept) if isinstance(text, str) else None
    except (msgspec.DecodeError, UnicodeError):
        return None


def _begin(db: sqlite3.Connection, board: Board, past: tuple[str, ...], outbox_id: str | None = None) -> _Begun:
    """A new one. Its epoch is chance, for a database that is set back twice must not be the same one twice."""
    if outbox_id is None:
        outbox_id = secrets.token_hex(4)
        _sql.forget_streams(db)
    writer = record.instance_id(outbox_id, board.machine, board.hardware, secrets.token_hex(8))
    kept = _Kept(id=writer, board=board, past=past[:PAST_MAX])
    _sql.set_cursor(db, name=OUTBOX_ID, value=outbox_id)
    _sql.set_cursor(db, name=INSTANCE, value=msgspec.json.encode(kept).decode())
    return _Begun(outbox_id=outbox_id, kept=kept)
