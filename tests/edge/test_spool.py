"""The spool directory: what is moved in is taken in once, line by line; what is bad, hostile or too much is not."""

from __future__ import annotations

import asyncio
import json
import os
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pisyncd.activities.spool import QUIET_S, Spool
from pisyncd.core.errors import StorageBusy
from pisyncd.outbox import Outbox, open_outbox
from pisyncd.sources import refused

from .intake_rig import OTHER, USER, event, new_id
from .outbox_rig import FakeClock


class Place:
    """The directory, and the activity that watches it."""

    def __init__(self, root: Path, outbox: Outbox, clock: FakeClock) -> None:
        self.root = root
        self.directory = root / "intake"
        self.refused = self.directory / "rejected"
        self.outbox = outbox
        self.clock = clock
        self.spool = Spool(outbox, self.directory)

    def move_in(self, name: str, *lines: Any) -> Path:
        """A file that appears whole, as a rename makes it. Lines that are no text become JSON."""
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        aside = self.root / f"aside-{len(list(self.root.iterdir()))}"
        aside.write_text(text)
        return aside.rename(self.directory / name)

    async def settle(self) -> None:
        """Steps until there is nothing to do at once."""
        while await self.spool.step() == 0.0:
            pass

    async def owed(self) -> list[Any]:
        """The bodies of what waits, in their order; losses are not among them."""
        items = await self.outbox.messages.batch(1_000_000)
        return [json.loads(bytes(item.itemData)) for item in items if item.itemType != "loss"]

    def reasons(self) -> list[tuple[int, str]]:
        found = [json.loads(line) for path in self.refused.glob("*.reasons") for line in path.read_text().splitlines()]
        return [(reason["line"], reason["code"]) for reason in found]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    clock = FakeClock()
    async with open_outbox(tmp_path / "state" / "outbox.db", clock) as outbox:  # type: ignore[arg-type]
        made = Place(tmp_path, outbox, clock)
        await made.spool.step()
        yield made
        made.spool.close()


def tracked(number: int, **more: Any) -> dict[str, Any]:
    return {"eventType": "read", "eventData": {"n": number}, "user_id": USER, **more}


async def test_a_file_that_is_moved_in_is_taken_at_once_and_removed(place: Place) -> None:
    one = event(event_version=1, user_id=USER)
    path = place.move_in(
        "a.jsonl", tracked(1), "", one, tracked(2, user_id=OTHER), tracked(3, metadata={"priority": 9})
    )
    await place.settle()
    assert not path.exists()
    urgent, first, second, viewed = await place.owed()
    assert [each["eventData"]["n"] for each in (urgent, first, second)] == [3, 1, 2]
    assert (first["userId"], second["userId"], viewed["user_id"]) == (USER, OTHER, USER)
    assert place.reasons() == []
    assert await place.outbox.spooled.names() == []


async def test_a_move_wakes_the_activity(place: Place) -> None:
    place.move_in("a.jsonl", tracked(1))
    await asyncio.wait_for(place.spool.wake.wait(30), 30)
    await place.settle()
    assert len(await place.owed()) == 1


async def test_what_is_written_there_has_to_be_quiet_first(place: Place) -> None:
    path = place.directory / "slow.jsonl"
    path.write_text(json.dumps(tracked(1)) + "\n")
    assert await place.spool.step() == pytest.approx(QUIET_S)
    place.clock.pass_s(QUIET_S - 1)
    with path.open("a") as file:
        file.write(json.dumps(tracked(2)) + "\n")
    await place.settle()
    assert await place.owed() == []
    place.clock.pass_s(QUIET_S)
    await place.settle()
    assert len(await place.owed()) == 2
    assert not path.exists()


async def test_lines_without_an_id_are_told_apart_and_the_same_file_again_adds_nothing(place: Place) -> None:
    blur = {"event_type": "PAUSE_BLUR", "session_id": new_id(), "payload": {"state": "blur"}, "user_id": USER}
    lines = [tracked(1), tracked(1), blur, blur]
    place.move_in("a.jsonl", *lines)
    await place.settle()
    assert len(await place.owed()) == 4
    place.move_in("a.jsonl", *lines)
    place.move_in("copy.jsonl", *lines)
    await place.settle()
    assert len(await place.owed()) == 4
    place.move_in("b.jsonl", *lines, tracked(9))
    await place.settle()
    assert len(await place.owed()) == 9, "another file that only begins the same"


async def test_bad_lines_are_kept_with_their_reasons_and_told_once(place: Place) -> None:
    place.move_in(
        "bad.jsonl",
        tracked(1),
        "{",
        {"what": 1},
        tracked(2, user_id="Amina"),
        {"eventType": "read", "eventData": {"email": "x"}},
        {"eventType": "read", "eventData": {"t": ["y" * 150] * 40}},
        event(),
        event("NOT_KNOWN", user_id=USER),
        "\xff",
        tracked(3),
    )
    await place.settle()
    assert [each["eventData"]["n"] for each in await place.owed()] == [1, 3]
    assert place.reasons() == [
        (2, "event-invalid"),
        (3, "event-invalid"),
        (4, "event-invalid"),
        (5, "personal-data"),
        (6, "event-too-large"),
        (7, "user-missing"),
        (8, "event-type-unknown"),
        (9, "event-invalid"),
    ]
    (kept,) = place.refused.glob("*.jsonl")
    assert len(kept.read_text().splitlines()) == 8
    (entry,) = await place.outbox.ledger.newest(5)
    assert (entry["what"], entry["reason"], entry["count"]) == ("lines-refused", "event-invalid", 8)
    assert entry["detail"].startswith("bad.jsonl: 8 of 10 lines, first: line 2 event-invalid:")
    assert place.spool.status.refused == 8


async def test_names_links_pipes_and_directories_that_are_not_what_they_seem(place: Place, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the password is swordfish\n")
    os.symlink(secret, place.directory / "link.jsonl")
    os.link(secret, place.directory / "second-name.jsonl")
    os.mkfifo(place.directory / "pipe.jsonl")
    (place.directory / "directory.jsonl").mkdir()
    (place.directory / "directory.jsonl" / "inside.jsonl").write_text(json.dumps(tracked(1)))
    place.move_in(".hidden.jsonl", tracked(1))
    place.move_in("other.txt", tracked(1))
    hostile = os.fsdecode(b"-rf \n\x1b[31m$(x)\xff.jsonl")
    place.move_in(hostile, tracked(1), "bad")
    place.move_in("n" * 240 + ".jsonl", tracked(2), "bad")
    place.clock.pass_s(QUIET_S)
    await place.settle()
    place.clock.pass_s(QUIET_S)
    await place.settle()
    assert sorted(each["eventData"]["n"] for each in await place.owed()) == [1, 2]
    left = {path.name for path in place.directory.iterdir()}
    assert left == {
        "link.jsonl", "second-name.jsonl", "pipe.jsonl", "directory.jsonl", ".hidden.jsonl", "other.txt", "rejected",
    }  # fmt: skip
    assert len(list(place.refused.iterdir())) == 4
    assert not [path for path in place.refused.iterdir() if "swordfish" in path.read_text()]


async def test_a_link_in_the_place_of_the_refused_lines_is_not_followed(place: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place.refused.rmdir()
    place.refused.symlink_to(elsewhere)
    path = place.move_in("a.jsonl", "bad")
    await place.settle()
    assert path.exists()
    assert place.spool.status.paused
    assert list(elsewhere.iterdir()) == []
    place.refused.unlink()
    await place.settle()
    assert not path.exists()
    assert place.spool.status.paused == ""


async def test_a_line_without_end_is_set_aside_in_little_memory(place: Place, tmp_path: Path) -> None:
    size = 64 * 1024 * 1024
    aside = tmp_path / "long"
    with aside.open("wb") as file:
        file.write(json.dumps(tracked(1)).encode() + b"\n")
        for _ in range(size // 2**20):
            file.write(b"x" * 2**20)
        file.write(b"\n" + json.dumps(tracked(2)).encode())
    aside.rename(place.directory / "long.jsonl")
    tracemalloc.start()
    await place.settle()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert [each["eventData"]["n"] for each in await place.owed()] == [1, 2]
    assert place.reasons() == [(2, "line-too-long")]
    (kept,) = place.refused.glob("*.jsonl")
    assert kept.stat().st_size == size + 1


async def test_below_the_floor_files_wait_and_nothing_is_shed(place: Place) -> None:
    place.outbox.intake.has_room = lambda: False
    path = place.move_in("a.jsonl", tracked(1), event(user_id=USER))
    assert await place.spool.step() > 0
    assert path.exists()
    assert "disk-floor" in place.spool.status.paused
    place.outbox.intake.has_room = lambda: True
    await place.settle()
    assert len(await place.owed()) == 2
    assert not await place.outbox.messages.any_shed()
    assert place.spool.status.paused == ""


async def test_with_a_full_queue_behaviour_waits_in_its_file_and_answers_are_taken(place: Place) -> None:
    place.outbox.messages.queue_max = 0
    behaviour = place.move_in("b.jsonl", event(user_id=USER))
    answers = place.move_in("a.jsonl", event("ANSWER_SELECTED", {"position": 1, "selected_index": 1}, user_id=USER))
    await place.settle()
    assert (answers.exists(), behaviour.exists()) == (False, True)
    assert not await place.outbox.messages.any_shed()


async def test_a_disk_without_any_room_keeps_the_file(place: Place) -> None:
    (pages,) = next(iter(await place.outbox.db.reader.execute_fetchall("PRAGMA page_count")))
    await place.outbox.db._writer.execute(f"PRAGMA max_page_count = {pages + 4}")
    lines = [tracked(number) for number in range(2000)]
    path = place.move_in("a.jsonl", *lines)
    await place.settle()
    assert path.exists()
    assert "full" in place.spool.status.paused
    await place.outbox.db._writer.execute("PRAGMA max_page_count = 100000")
    await place.settle()
    assert [each["eventData"]["n"] for each in await place.owed()] == list(range(2000))


async def test_what_was_begun_goes_on_where_it_was(tmp_path: Path) -> None:
    clock = FakeClock()
    lines = [tracked(number) for number in range(450)] + ["bad"]
    async with open_outbox(tmp_path / "outbox.db", clock) as outbox:  # type: ignore[arg-type]
        place = Place(tmp_path, outbox, clock)
        await place.spool.step()
        path = place.move_in("a.jsonl", *lines)
        name = b"a.jsonl"
        await place.spool._advance(name)
        progress = await outbox.spooled.progress(name)
        assert progress is not None
        assert progress.mark.lines == 100
        place.spool.close()
    with path.open("a") as file:
        file.write("\n" + json.dumps(tracked(450)))
    async with open_outbox(tmp_path / "outbox.db", clock) as outbox:  # type: ignore[arg-type]
        place = Place(tmp_path, outbox, clock)
        await place.spool.sweep()
        assert [each["eventData"]["n"] for each in await place.owed()] == list(range(451))
        assert place.reasons() == [(451, "event-invalid")]
        # Another file of that name is another file, also if the first one was taken away half way.
        place.move_in("a.jsonl", *(tracked(1000 + number) for number in range(450)))
        await place.spool._advance(name)
        place.move_in("a.jsonl", *(tracked(2000 + number) for number in range(300)))
        await place.spool.sweep()
        numbers = [each["eventData"]["n"] for each in await place.owed()][451:]
        assert numbers == [*range(1000, 1100), *range(2000, 2300)]
        assert await outbox.spooled.names() == []
        place.spool.close()


async def test_the_directory_may_be_tidied_away(place: Place) -> None:
    place.refused.rmdir()
    place.directory.rmdir()
    await place.settle()
    place.move_in("a.jsonl", tracked(1))
    await place.settle()
    assert len(await place.owed()) == 1
    assert place.directory.stat().st_mode & 0o777 == 0o770


async def test_a_file_that_is_taken_away_is_forgotten(place: Place) -> None:
    path = place.move_in("a.jsonl", *(tracked(number) for number in range(450)))
    await place.spool._advance(b"a.jsonl")
    path.unlink()
    await place.settle()
    assert await place.outbox.spooled.names() == []


async def test_locked_storage_is_trouble_that_passes(place: Place) -> None:
    def busy() -> bool:
        raise StorageBusy("locked", code="storage-locked")

    place.outbox.intake.has_room = busy
    path = place.move_in("a.jsonl", tracked(1))
    await place.settle()
    assert (path.exists(), place.spool.status.paused) == (True, "locked")


async def test_refused_lines_are_kept_to_look_at_within_a_limit(place: Place) -> None:
    for number in range(4):
        path = place.refused / f"{number}.jsonl"
        path.write_text("x" * 100)
        os.utime(path, (number, number))
    assert refused.trim(place.refused, 250) == 2
    assert sorted(path.name for path in place.refused.iterdir()) == ["2.jsonl", "3.jsonl"]
    assert refused.trim(place.root / "nothing", 1) == 0
