"""On the path of a process under test: its wall clock is off by so many seconds. Monotonic clocks are left alone."""

import os
import time

_OFF_S = int(os.environ.get("PISYNC_TEST_CLOCK_OFF_S", "0"))
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _OFF_S
time.time_ns = lambda: _time_ns() + _OFF_S * 1_000_000_000
