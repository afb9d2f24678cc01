"""What an observation makes of the link."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisyncd.core import link
from pisyncd.core.link import Link, Rule

RULE = Rule(doubts_until_down=2, interval_s=60, idle_interval_s=3600, quick_s=1)
observations = st.sampled_from(["no-interface", "interface", "proven", "portal", "no-answer", "cloud-busy"])


def run(*seen, start=None):
    state = start or Link()
    for each in seen:
        state = link.observe(state, each, each, RULE, portal_url="http://portal" if each == "portal" else None)
    return state


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        ([], "link"),
        (["proven"], "full"),
        (["proven", "no-answer"], "full"),
        (["proven", "no-answer", "no-answer"], "limited"),
        (["proven", "no-answer", "proven", "no-answer"], "full"),
        (["proven", "portal"], "portal"),
        (["proven", "no-interface"], "none"),
        (["no-interface", "interface"], "link"),
        (["no-answer"], "limited"),
        (["portal", "proven"], "full"),
        (["cloud-busy", "cloud-busy"], "limited"),
        (["proven", "cloud-busy", "cloud-busy"], "limited"),
    ],
)
def test_table(seen, state):
    assert run(*seen).state == state


@given(st.lists(observations, max_size=20))
def test_only_proof_makes_it_full_and_only_a_portal_has_an_address(seen):
    judged = run(*seen)
    if judged.state == "full":
        assert "proven" in seen
    assert (judged.portal_url is not None) == (judged.state == "portal")


@given(st.lists(observations, max_size=20), st.floats(0, 1, exclude_max=True), st.booleans())
def test_the_next_probe_always_comes_and_never_at_once(seen, chance, owed):
    wait = link.next_probe_s(run(*seen), owed, RULE, chance)
    assert 0.5 <= wait <= 3600 * 1.25


def test_after_an_outage_the_probes_grow_rarer_up_to_the_interval():
    state, waits = run("proven", "no-answer"), []
    for _ in range(10):
        state = run("no-answer", start=state)
        waits.append(link.next_probe_s(state, True, RULE, 0.99))
    assert waits == sorted(waits)
    assert waits[0] <= 1
    assert 55 <= waits[-1] <= 60


def test_with_nothing_owed_probes_are_rare():
    assert link.next_probe_s(run("proven"), False, RULE, 0.5) == 3600
    assert link.next_probe_s(run("proven"), True, RULE, 0.5) == 60
