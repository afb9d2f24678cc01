"""Copies of records on two real outboxes and a cloud in a few lines: random writes, deliveries that are lost half way,
restarts, full fetches and a cloud that is set back. In the end all show the same, and nothing that was written is owed
to nobody."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pisyncd.core import admitting, merge, record, recordwire
from pisyncd.core.edits import Delete, Edit, Patch, Put
from pisyncd.core.merge import Pen
from pisyncd.core.record import State
from pisyncd.core.recordwire import Change, Changes
from pisyncd.outbox import Outbox, open_outbox
from pisyncd.outbox.instance import Board

from .outbox_rig import FakeClock

KEYS = [("progress", "p"), ("assessment", "a"), ("profile", "u")]
FIELDS = st.dictionaries(st.sampled_from(["percent", "attempts", "x", "y"]), st.integers(0, 9), max_size=2)
DEVICES = st.sampled_from([0, 1])

Key = tuple[str, str]


class Cloud:
    """The join of what came, and the order in which it changed. What is set back loses its newest writes."""

    def __init__(self) -> None:
        self.epoch = 0
        self.states: dict[Key, State] = {}
        self.order: dict[Key, int] = {}
        self.head = 0

    def write(self, key: Key, fields: dict[str, int], at_ms: int) -> None:
        pen = Pen.of_cloud(f"c-{self.epoch:04x}", at_ms)
        self.keep(key, merge.put(self.states.get(key, record.EMPTY), record.BUILT_IN[key[0]], fields, pen))

    def keep(self, key: Key, state: State) -> None:
        if self.states.get(key) != state:
            self.head += 1
            self.states[key], self.order[key] = state, self.head

    def take(self, pushed: recordwire.Pushed, own: frozenset[str]) -> None:
        key = pushed.type, pushed.id
        known = self.states.get(key, record.EMPTY)
        incoming = admitting.admitted(record.checked_state(bytes(pushed.state)), known, own.__contains__)
        judged = admitting.judged(incoming, known, lambda write: (write.at_ms, write.clock | 2))
        self.keep(key, merge.join(known, judged))

    def page(self, cursor: str, limit: int) -> Changes | None:
        """None: the cursor is of before the cloud was set back."""
        epoch, _, after = cursor.partition(".") if cursor else (str(self.epoch), "", "0")
        if int(epoch) != self.epoch:
            return None
        behind = sorted((at, key) for key, at in self.order.items() if at > int(after))
        shown = behind[:limit]
        changes = [Change(type=key[0], id=key[1], state=self.states[key]) for _, key in shown]
        place = shown[-1][0] if shown else int(after)
        more = len(behind) > limit
        return Changes(changes=changes, cursor=f"{self.epoch}.{place}", more=more, rules_etag="")


class RecordsMachine(RuleBasedStateMachine):
    """Two devices and a cloud; `backup` is what the cloud may be set back to."""

    def __init__(self) -> None:
        super().__init__()
        # In memory: that nothing is lost by a power cut is shown elsewhere.
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.runner = asyncio.Runner()
        self.cloud = Cloud()
        self.backup: dict[Key, State] = {}
        self.clocks = [FakeClock(), FakeClock(wall=1_600_000_000_000, sure=True)]
        self.stacks: list[AsyncExitStack] = []
        self.outboxes: list[Outbox] = []
        for number in (0, 1):
            self.stacks.append(AsyncExitStack())
            self.outboxes.append(self.open(number))

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def open(self, number: int) -> Outbox:
        path, board = self.directory / f"{number}.db", Board(serial=str(number))
        opening = open_outbox(path, self.clocks[number], board)  # type: ignore[arg-type]
        outbox: Outbox = self.run(self.stacks[number].enter_async_context(opening))
        outbox.records.confirm()
        return outbox

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            # Connections that stay open would keep the whole run from ending.
            for stack in self.stacks:
                self.run(stack.aclose())
            self.runner.close()
            shutil.rmtree(self.directory)

    @rule(device=DEVICES, key=st.sampled_from(KEYS), fields=FIELDS, how=st.sampled_from(["put", "patch", "delete"]))
    def write(self, device: int, key: Key, fields: dict[str, int], how: str) -> None:
        records = self.outboxes[device].records
        edit: Edit = Put(fields) if how == "put" else Patch(fields, create=True)
        if how == "delete" and self.run(records.read(*key)) is not None:
            edit = Delete()
        self.clocks[device].pass_s(1)
        self.run(records.write(*key, edit))

    @rule(key=st.sampled_from(KEYS), fields=FIELDS)
    def write_in_the_cloud(self, key: Key, fields: dict[str, int]) -> None:
        self.cloud.write(key, fields, 1_650_000_000_000 + self.cloud.head)

    @rule(device=DEVICES, most=st.integers(1, 3), answered=st.booleans())
    def deliver(self, device: int, most: int, answered: bool) -> None:
        """Some of what waits; the answer may be lost."""
        outbox = self.outboxes[device]
        items = [each for each in self.run(outbox.messages.batch(most)) if "record-" in (each.stream or "")]
        for item in items:
            self.cloud.take(recordwire.decode_pushed(bytes(item.itemData)), outbox.instance.mine)
        if answered and items:
            self.run(outbox.messages.accept_through({item.stream: item.seq for item in items}))

    @rule(device=DEVICES, limit=st.integers(1, 3))
    def fetch(self, device: int, limit: int) -> None:
        self.pull(device, limit)

    def pull(self, device: int, limit: int) -> bool:
        """One page; True when it was the last."""
        records = self.outboxes[device].records
        if not self.run(records.cursor()) and not self.run(records.sweeping()):
            self.run(records.repush())
        page = self.cloud.page(self.run(records.cursor()), limit)
        if page is None:
            self.run(records.repush())
            self.run(records.begin_sweep())
            return False
        applied = self.run(records.apply(page, sweeping=self.run(records.sweeping())))
        assert applied.skipped == 0
        return not page.more

    @rule(device=DEVICES)
    def fetch_anew(self, device: int) -> None:
        self.run(self.outboxes[device].records.begin_sweep())

    @rule(device=DEVICES)
    def restart(self, device: int) -> None:
        self.run(self.stacks[device].aclose())
        self.stacks[device] = AsyncExitStack()
        self.clocks[device].reboot()
        self.outboxes[device] = self.open(device)

    @rule()
    def back_up(self) -> None:
        self.backup = dict(self.cloud.states)

    @rule()
    def set_back(self) -> None:
        """The cloud is restored from its backup, as another writer with other cursors."""
        cloud = Cloud()
        cloud.epoch = self.cloud.epoch + 1
        for key, state in self.backup.items():
            cloud.keep(key, state)
        self.cloud = cloud

    @invariant()
    def what_is_shown_is_what_was_written(self) -> None:
        for outbox in self.outboxes:
            for key in KEYS:
                kept = self.run(outbox.records.read(*key))
                if kept is not None:
                    shown = merge.view(kept.state, record.BUILT_IN[key[0]])
                    assert (kept.fields, kept.deleted) == (shown.fields, not shown.present)

    @invariant()
    def a_record_waits_as_long_as_its_message(self) -> None:
        for outbox in self.outboxes:
            ids = {item.id for item in self.run(outbox.messages.batch(10_000))}
            for key in KEYS:
                kept = self.run(outbox.records.read(*key))
                assert kept is None or kept.waiting == (kept.message_id in ids) == (kept.message_id is not None)

    def settle(self) -> None:
        """Everything is delivered and fetched."""
        for _ in range(4):
            for device in (0, 1):
                self.deliver(device, 10_000, True)
                assert any(self.pull(device, 2) for _ in range(20)), "it never comes to the last page"
        for outbox in self.outboxes:
            assert self.run(outbox.records.counts()).waiting == 0
            for key in KEYS:
                kept = self.run(outbox.records.read(*key))
                here = kept.state if kept is not None else record.EMPTY
                assert record.encode(here) == record.encode(self.cloud.states.get(key, record.EMPTY))


TestRecords = RecordsMachine.TestCase
TestRecords.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
