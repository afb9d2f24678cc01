"""How a device stands, as people who look after a fleet need to see it.

state            meaning
new              let in, never heard of
healthy          heard of lately, and its syncs do not fail again and again
expected-quiet   silent, and by its own rhythm and calendar that is normal
overdue          silent for longer than its rhythm makes likely
failing          reachable, but its syncs fail again and again
recovering       back, with a backlog that it works off
muted            a person wants to hear nothing of it for a while; what it would be stands beside
retired          shut out for good
"""

from __future__ import annotations

from typing import Literal, get_args

StateName = Literal["new", "healthy", "expected-quiet", "overdue", "failing", "recovering", "muted", "retired"]
STATES: tuple[StateName, ...] = get_args(StateName)
#: Those that need a person.
TROUBLED: tuple[StateName, ...] = ("failing", "overdue")
