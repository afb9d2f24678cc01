"""The technician's tool. It talks to the daemon over its Unix socket and imports nothing of it, so it starts at once.

exit code | meaning
----------|------------------------------------------------------------------------
0         | all is well: nothing owed, or being sent; the request was taken
1         | something needs a person: `attention`, a failure, a file that is not sent, a refused request
2         | the command line is wrong
69        | the daemon cannot be reached
70        | the daemon could not answer
75        | not delivered yet: offline, paused or waiting
"""

from __future__ import annotations

from pisyncd.ctl.commands import main

__all__ = ["main"]
