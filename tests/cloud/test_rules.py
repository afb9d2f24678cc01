"""The cloud's decisions, by tables and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.dashboard import words
from cloud.flows.lists import like_pattern
from cloud.rules import admit, intake, streaks, times
from cloud.rules.admit import Knowledge, Unit
from cloud.rules.facts import MessageFact, Place, SyncFact
from cloud.rules.streaks import State
from pisyncd.core import problems, wire

NOW = 1_790_000_000_000


@pytest.mark.parametrize(
    ("files", "errors", "status"),
    [(0, 0, "success"), (5, 0, "success"), (5, 1, "partial"), (1, 99, "partial"), (0, 1, "failed"), (0, 9, "failed")],
)
def test_status_of_a_sync(files: int, errors: int, status: str) -> None:
    assert streaks.sync_status(files, errors) == status


def run_through(statuses: str, notify_after: int = 3) -> tuple[State, list[bool]]:
    state, opened = State(dk=1), []
    for letter in statuses:
        state = streaks.advance(
            state,
            status={"F": "failed", "P": "partial", "S": "success"}[letter],  # type: ignore[arg-type]
            files=1,
            speed_mbps=None,
            error_code=None,
            queue_depth=None,
            occurred_at_ms=NOW,
            now_ms=NOW,
            notify_after=notify_after,
        )
        opened.append(state.alert_opened_at_ms is not None)
    return state, opened


@pytest.mark.parametrize(
    ("statuses", "opened"),
    [
        ("FF", "00"),
        ("FFF", "001"),
        ("FFFFF", "00111"),
        ("FFFS", "0010"),
        ("FFFSFFF", "0010001"),
        ("FFPF", "0000"),
        ("FFFPFFF", "0011111"),
        ("FFFPS", "00110"),
        ("SSS", "000"),
    ],
)
def test_when_a_notification_is_open(statuses: str, opened: str) -> None:
    assert run_through(statuses)[1] == [letter == "1" for letter in opened]


@given(st.text(alphabet="FPS", max_size=60), st.integers(1, 5))
def test_counters_add_up(statuses: str, notify_after: int) -> None:
    state, _ = run_through(statuses, notify_after)
    assert state.events_total == len(statuses)
    assert state.failed_total == statuses.count("F")
    assert state.partial_total == statuses.count("P")
    assert state.consecutive_failures == len(statuses) - len(statuses.rstrip("F"))


DAY = 24 * 3600 * 1000


@pytest.mark.parametrize(
    ("timestamp_ms", "sent_ms", "trusted", "occurred_ms", "flags"),
    [
        (NOW, None, None, NOW, []),
        (NOW - 60_000, NOW, True, NOW - 60_000, []),
        (NOW - 2 * DAY, None, None, NOW - 2 * DAY, ["late"]),
        (NOW + 30_000, None, None, NOW + 30_000, []),
        (NOW + DAY, None, None, NOW, ["clock_suspect", "future", "derived"]),
        (NOW + DAY, NOW + DAY + 5_000, None, NOW - 5_000, ["clock_suspect", "future", "derived"]),
        (0, None, None, NOW, ["clock_suspect", "derived"]),
        (10_000, 70_000, None, NOW - 60_000, ["clock_suspect", "derived"]),
        (10_000, 5_000, None, NOW, ["clock_suspect", "derived"]),
        (NOW - 3 * DAY, NOW - 3 * DAY + 1_000, False, NOW - 1_000, ["clock_suspect", "derived"]),
        (NOW - 60_000, None, False, NOW - 60_000, ["clock_suspect"]),
    ],
)
def test_which_time_an_event_gets(
    timestamp_ms: int, sent_ms: int | None, trusted: bool | None, occurred_ms: int, flags: list[str]
) -> None:
    found = times.judge(timestamp_ms=timestamp_ms, received_ms=NOW, sent_ms=sent_ms, trusted=trusted)
    assert (found[0], times.flag_names(found[1])) == (occurred_ms, flags)


@given(st.integers(-(2**60), 2**60), st.none() | st.integers(-(2**60), 2**60), st.sampled_from([None, True, False]))
def test_an_events_time_is_always_one_that_can_be_shown(
    timestamp_ms: int, sent_ms: int | None, trusted: bool | None
) -> None:
    occurred, _ = times.judge(timestamp_ms=timestamp_ms, received_ms=NOW, sent_ms=sent_ms, trusted=trusted)
    assert times.OLDEST_MS <= occurred <= NOW + times.FUTURE_MS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-08-15T12:30:45Z", 1_692_102_645_000),
        ("2023-08-15T12:30:45.123456Z", 1_692_102_645_123),
        ("2023-08-15t14:30:45+02:00", 1_692_102_645_000),
        ("2023-08-15 12:30:45Z", 1_692_102_645_000),
        ("2023-08-15T12:30:45", None),
        ("2023-08-15", None),
        ("20230815T123045Z", None),
        ("", None),
        ("\u0662\u0660\u0662\u0663-08-15T12:30:45Z", None),
    ],
)
def test_which_times_can_be_read(text: str, expected: int | None) -> None:
    assert wire.from_rfc3339(text) == expected


@given(st.text(max_size=70))
def test_reading_a_time_never_raises(text: str) -> None:
    wire.from_rfc3339(text)


@given(st.lists(st.lists(st.integers(1, 15), min_size=1, max_size=6), max_size=12))
def test_a_stream_is_kept_exactly_once_whatever_the_order(batches: list[list[int]]) -> None:
    """Model: a set of seqs; the mark is its longest unbroken beginning."""
    known, kept = Knowledge(states={1: State(dk=1)}), []
    model: set[int] = set()
    for batch in batches:
        facts = [
            MessageFact(
                item_id=f"m{seq}", digest=bytes([seq]), item_type="progress", body="{}",
                place=Place(stream="event", seq=seq),
            )
            for seq in batch
        ]  # fmt: skip
        outcomes, changes = admit.group([Unit(dk=1, facts=facts)], known, now_ms=NOW, notify_after=3)
        for seq, outcome in zip(batch, outcomes[0], strict=True):
            assert outcome.status == ("duplicate" if seq in model else "synced")
            model.add(seq)
        kept += [row[5] for row in changes.messages]
        mark = next(n for n in range(17) if n + 1 not in model)
        assert known.marks.get((1, "event"), 0) == mark
        assert known.ahead.get((1, "event"), set()) == {seq for seq in model if seq > mark}
    assert sorted(kept) == sorted(model)


@given(st.binary(max_size=200))
def test_an_item_of_any_bytes_becomes_a_fact(raw: bytes) -> None:
    fact = intake.item_fact(raw, intake.Sender(device_id="pi-1", batch_id="b"), 0)
    assert "\0" not in (fact.raw if isinstance(fact, SyncFact) else fact.body)


@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        ("Expected `int`, got `str` - at `$.a.b[2].c`", "/a/b/2/c"),
        ("Expected `int`, got `str` - at `$[...].c`", "/.../c"),
        ("Object missing required field `x` - at `$.items[0]`", "/items/0/x"),
        ("Object missing required field `x`", "/x"),
        ("Expected `object`, got `int`", ""),
    ],
)
def test_where_a_fault_is(message: str, pointer: str) -> None:
    assert problems.pointer(message)[0] == pointer


def test_search_text_is_matched_as_it_is() -> None:
    assert like_pattern("50%_\\X") == "%50\\%\\_\\\\x%"
    assert like_pattern("") is None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 KB"), (5 * 1000**3, "5.0 GB"), (None, "unknown")]
)
def test_sizes_for_people(count: int | None, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7200, "2 hours ago"),
        (200_000, "2 days ago"),
        (-5, "in the future"),
    ],
)
def test_times_for_people(seconds: int, text: str) -> None:
    assert words.ago(NOW - seconds * 1000, NOW) == text


@given(st.binary(min_size=1, max_size=100))
def test_a_path_on_a_page_breaks_no_line_and_no_address(path: bytes) -> None:
    assert words.path_text(path).isprintable()
    assert words.path_url(path).isascii()
