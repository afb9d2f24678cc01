"""The states of an upload, and the size of a chunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import transfer
from pisyncd.core.transfer import ChunkRule

RULE = ChunkRule()
STATES = {"pending", "uploading", "complete", "failed", "superseded"}


def test_every_move_leads_to_a_state_and_nothing_leaves_the_two_ends():
    assert {state for state, _ in transfer.TRANSITIONS} | set(transfer.TRANSITIONS.values()) == STATES
    assert not [move for move in transfer.TRANSITIONS if move[0] in ("complete", "superseded")]


@pytest.mark.parametrize(("state", "event"), [("complete", "claimed"), ("pending", "finished"), ("failed", "claimed")])
def test_an_illegal_move_is_refused(state, event):
    with pytest.raises(ValueError, match="cannot be"):
        transfer.follow(state, event)


@given(st.integers(RULE.bytes_min, RULE.bytes_max), st.integers(0, 2**30), st.floats(0, 600))
def test_a_chunk_stays_inside_its_bounds(chunk, sent, elapsed):
    assert RULE.bytes_min <= transfer.chunk_after(RULE, chunk, sent, elapsed) <= RULE.bytes_max
    assert RULE.bytes_min <= transfer.chunk_after_timeout(RULE, chunk) <= chunk


@pytest.mark.parametrize("bytes_per_s", [4_000, 125_000, 1_000_000, 100_000_000])
def test_chunks_converge_on_the_aimed_seconds(bytes_per_s):
    chunk = RULE.bytes_start
    for _ in range(12):
        chunk = transfer.chunk_after(RULE, chunk, chunk, chunk / bytes_per_s)
    ideal = min(max(bytes_per_s * RULE.target_s, RULE.bytes_min), RULE.bytes_max)
    assert chunk == pytest.approx(ideal, rel=0.01)


def test_a_short_last_chunk_says_nothing_about_the_speed():
    assert transfer.chunk_after(RULE, 262_144, 1_000, 5.0) == 262_144


def test_checksums_of_chunks_are_for_fast_links_and_for_uploads_that_broke_once():
    assert transfer.wants_checksum(100_000, 1_000_000, 0)
    assert not transfer.wants_checksum(8_000_000, 30_000, 0)
    assert not transfer.wants_checksum(1, None, 0)
    assert transfer.wants_checksum(8_000_000, 30_000, 1)
