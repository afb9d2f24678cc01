"""What is sent next."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import plan
from pisyncd.core.plan import Bundle, Nothing, Resume, Rules, Single

RULES = Rules()


@dataclass(frozen=True)
class Begun:
    id: int


@dataclass(frozen=True)
class File:
    id: int
    size: int = 1000
    kind: str = "file"


def choose(begun=(), waiting=(), *, busy=(), rules=RULES, goodput_bps=None):
    return plan.next_upload(list(begun), list(waiting), busy=set(busy), rules=rules, goodput_bps=goodput_bps)


def test_what_is_begun_is_finished_first():
    assert choose([Begun(7)], [File(1)]) == Resume(Begun(7))


def test_what_another_lane_holds_is_left_alone():
    assert choose([Begun(7)], [File(2)], busy=[7]) == Single(File(2))
    assert choose([Begun(7)], [], busy=[7]) == Nothing()


def test_small_files_travel_together_and_a_single_one_alone():
    assert choose(waiting=[File(1)]) == Single(File(1))
    decision = choose(waiting=[File(1), File(2), File(3)])
    assert isinstance(decision, Bundle)
    assert [each.id for each in decision.versions] == [1, 2, 3]


def test_the_head_of_the_queue_decides():
    large, database = File(1, size=5_000_000), File(2, kind="sqlite")
    assert choose(waiting=[large, File(3), File(4)]) == Single(large)
    assert choose(waiting=[database, File(3), File(4)]) == Single(database)
    taken = choose(waiting=[File(3), large, database, File(4)])
    assert [each.id for each in taken.versions] == [3, 4]


def test_a_full_disk_means_no_spool_and_so_no_bundle():
    assert choose(waiting=[File(1), File(2)], rules=Rules(spool=False)) == Single(File(1))


def test_a_bundle_fits_the_speed_of_the_link():
    assert plan.bundle_bytes(RULES, None) == RULES.bytes_start
    assert plan.bundle_bytes(RULES, 125_000) == 125_000 * 15 * 2 // 4
    assert plan.bundle_bytes(RULES, 1e9) == RULES.bundle_bytes_max
    assert plan.bundle_bytes(RULES, 100) == RULES.bytes_start // 2


@given(
    st.lists(st.integers(0, 3_000_000), max_size=200),
    st.integers(1, 50),
    st.one_of(st.none(), st.floats(1, 1e9)),
)
def test_a_bundle_keeps_to_its_bounds_and_to_the_order(sizes, entries_max, goodput):
    waiting = [File(number, size) for number, size in enumerate(sizes)]
    rules = Rules(entries_max=entries_max)
    decision = choose(waiting=waiting, rules=rules, goodput_bps=goodput)
    if isinstance(decision, Bundle):
        ids = [each.id for each in decision.versions]
        assert ids == sorted(ids)
        assert 1 < len(ids) <= entries_max
        assert all(each.size <= rules.file_bytes_max for each in decision.versions)
    else:
        assert not waiting or isinstance(decision, Single)
