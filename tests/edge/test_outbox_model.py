"""The outbox against a dict: random verbs, restarts in between, and what must hold after each."""

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pisyncd.core import transfer
from pisyncd.core.errors import Rejected
from pisyncd.outbox import open_outbox

from .outbox_rig import FakeClock, digest, sighting

PATHS = [b"a", b"b", b"c", b"\xff\n"]


class OutboxMachine(RuleBasedStateMachine):
    """`seen` is the newest version of each path; `delivered` what the cloud has; `given_up` what was refused."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.stack = AsyncExitStack()
        self.seen, self.delivered, self.given_up = {}, {}, {}
        self.begun = {}
        self.counter = 0
        self.appended = 0
        self.accepted = 0
        self.open()

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def open(self):
        self.stack = AsyncExitStack()
        self.outbox = self.run(self.stack.enter_async_context(open_outbox(self.directory / "outbox.db", self.clock)))
        self.run(self.watch_moves())

    async def watch_moves(self):
        """Whatever statement changes a state is written down; the table goes with the connection."""
        async with self.outbox.db.transaction() as tx:
            await tx.execute("CREATE TEMP TABLE moves (old TEXT, new TEXT)")
            await tx.execute(
                "CREATE TEMP TRIGGER moved AFTER UPDATE OF state ON main.files WHEN old.state <> new.state "
                "BEGIN INSERT INTO moves VALUES (old.state, new.state); END"
            )

    async def moves(self):
        async with self.outbox.db.transaction() as tx:
            return {tuple(row) for row in await tx.execute_fetchall("SELECT DISTINCT old, new FROM moves")}

    def teardown(self):
        self.run(self.stack.aclose())
        self.runner.close()
        shutil.rmtree(self.directory)

    @rule(path=st.sampled_from(PATHS))
    def change(self, path):
        self.counter += 1
        self.seen[path] = self.counter
        self.given_up.pop(path, None)
        self.run(self.outbox.files.add([sighting(path, self.counter)]))
        self.appended += 1

    @rule(path=st.sampled_from(PATHS))
    def see_again(self, path):
        if path in self.seen:
            added = self.run(self.outbox.files.add([sighting(path, self.seen[path])]))
            assert added.unchanged == 1

    @rule(most=st.integers(1, 4))
    def claim(self, most):
        waiting = self.run(self.outbox.files.next_in_turn(most))
        if not waiting:
            return
        members = [(each, digest(each.mtime_ns)) for each in waiting]
        made = self.run(
            self.outbox.files.claim(members, kind="bundle", spool="s", length=9, sha256=digest(1), priority=5)
        )
        self.begun[made.id] = {each.path: each.mtime_ns for each in waiting}

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def finish(self, data):
        number = data.draw(st.sampled_from(sorted(self.begun)))
        carried = self.begun.pop(number)
        made = self.run(self.outbox.files.transfer(number))
        count = self.run(self.outbox.files.complete(made, bytes_sent=1, duration_ms=1))
        self.appended += 1
        current = {path: version for path, version in carried.items() if self.seen[path] == version}
        assert count == len(current)
        self.delivered |= carried

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def give_back(self, data):
        number = data.draw(st.sampled_from(sorted(self.begun)))
        self.begun.pop(number)
        self.run(self.outbox.files.give_back(self.run(self.outbox.files.transfer(number))))

    @rule()
    def refuse_first(self):
        waiting = self.run(self.outbox.files.next_in_turn(1))
        if waiting:
            self.run(self.outbox.files.fail(waiting, Rejected()))
            self.given_up[waiting[0].path] = waiting[0].mtime_ns

    @rule()
    def retry_all(self):
        self.run(self.outbox.files.retry())
        self.given_up.clear()

    @rule(data=st.data())
    def acknowledge(self, data):
        items = [each for each in self.run(self.outbox.messages.batch(500)) if each.stream.startswith("event")]
        if items:
            item = data.draw(st.sampled_from(items))
            assert self.run(self.outbox.messages.accept_through({item.stream: item.seq})) > 0
            self.accepted = item.seq

    @rule(reboot=st.booleans())
    def restart(self, reboot):
        self.run(self.stack.aclose())
        if reboot:
            self.clock.reboot()
        self.open()

    @invariant()
    def every_newest_version_is_owed_delivered_or_listed(self):
        for path, version in self.seen.items():
            rows = self.run(self.outbox.queue.versions("r", path))
            state = {row["mtime_ns"]: row["state"] for row in rows}
            if path in self.given_up:
                assert state[version] == "failed"
            elif any(carried.get(path) == version for carried in self.begun.values()):
                assert state[version] == "uploading"
            elif self.delivered.get(path) == version:
                assert state[version] == "complete"
            else:
                assert state[version] == "pending"

    @invariant()
    def every_move_is_one_of_the_rules(self):
        assert self.run(self.moves()) <= {(old, new) for (old, _), new in transfer.TRANSITIONS.items()}

    @invariant()
    def no_path_is_on_its_way_twice(self):
        waiting = {each.path for each in self.run(self.outbox.files.next_in_turn(100))}
        for carried in self.begun.values():
            assert not waiting & set(carried)

    @invariant()
    def messages_are_numbered_without_a_gap(self):
        items = [each for each in self.run(self.outbox.messages.batch(500)) if each.stream.startswith("event")]
        assert [each.seq for each in items] == list(range(self.accepted + 1, self.appended + 1))


OutboxMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestOutbox = OutboxMachine.TestCase
