from hypothesis import given, settings
from hypothesis import strategies as st

from pisyncd.core.unsettled import IN_ALL_MAX, IN_DIRECTORY_MAX, Unsettled


def unsettled() -> Unsettled:
    return Unsettled(debounce_s=10.0, force_s=60.0)


def paths(found: Unsettled, now_s: float) -> list[bytes]:
    return [path for path, _ in found.due(now_s)]


def test_a_file_is_due_when_it_is_quiet_and_at_last_when_forced() -> None:
    notes = unsettled()
    notes.note(b"a", 0.0)
    assert notes.next_s(0.0) == 10.0
    for now_s in range(5, 60, 5):
        notes.note(b"a", float(now_s))
    assert notes.next_s(55.0) == 5.0
    assert paths(notes, 59.9) == []
    assert paths(notes, 60.0) == [b"a"]


def test_what_was_dealt_with_is_dropped_unless_it_is_another_matter_by_now() -> None:
    notes = unsettled()
    notes.note(b"a", 0.0)
    ((path, entry),) = notes.due(10.0)
    notes.drop(path, entry)
    assert not notes
    assert notes.next_s(10.0) is None
    notes.note(b"a", 11.0)
    notes.drop(path, entry)
    assert len(notes) == 1


def test_a_crowded_directory_collapses_to_itself_and_a_crowd_to_the_root() -> None:
    notes = unsettled()
    for index in range(IN_DIRECTORY_MAX + 1):
        notes.note(b"d/%d" % index, float(index) / 100)
    ((path, entry),) = notes.due(11.3)
    assert (path, entry.whole, entry.first_s) == (b"d", True, 0.0)
    notes.note(b"d/sub/more", 20.0)
    assert len(notes) == 1
    assert entry.due_s == 30.0
    for index in range(IN_ALL_MAX + 1):
        notes.note(b"%d/x" % index, 21.0)
    ((path, entry),) = notes.due(60.0)
    assert (path, entry.whole, entry.first_s, entry.last_s) == (b"", True, 0.0, 21.0)


def test_names_that_begin_alike_are_not_below_each_other() -> None:
    notes = unsettled()
    notes.note(b"dx/a", 0.0)
    notes.note_whole(b"d", 0.0)
    notes.note(b"dy/a", 0.0)
    assert len(notes) == 3
    notes.note(b"d/a", 0.0)
    assert len(notes) == 3


def test_a_scan_that_finds_fresh_files_keeps_what_was_first() -> None:
    notes = unsettled()
    notes.wait(b"a", 100.0, 130.0, 4.0)
    assert notes.next_s(130.0) == 4.0
    entry = notes.get(b"a")
    assert entry is not None
    assert (entry.first_s, entry.last_s) == (100.0, 130.0)
    notes.note_whole(b"", 130.0)
    notes.wait(b"b", 130.0, 135.0, 9.0)
    assert notes.next_s(135.0) == 9.0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=2), st.integers(0, 400), st.floats(0, 20), st.booleans()), max_size=900
    )
)
def test_it_stays_bounded_and_nothing_waits_beyond_force(events: list[tuple[bytes, int, float, bool]]) -> None:
    notes = unsettled()
    now_s = 0.0
    first_s: dict[bytes, float] = {}
    for directory, index, gap_s, kept_open in events:
        now_s += gap_s / 10
        path = directory.replace(b"/", b"_") + b"/%d" % index
        first_s.setdefault(path, now_s)
        notes.note(path, now_s, kept_open=kept_open)
        assert len(notes) <= IN_ALL_MAX + 1
        for due, entry in notes.due(now_s):
            notes.drop(due, entry)
            covered = [each for each in first_s if each == due or (entry.whole and each.startswith(due))]
            assert all(entry.first_s <= first_s[each] for each in covered)
            first_s = {each: at for each, at in first_s.items() if each not in covered}
    assert all(notes.get(path) is not None for path in first_s)
    for _, entry in notes.due(float("inf")):
        assert entry.due_s <= entry.first_s + 60.0 + 1e-6
