"""`python -m pisyncd.ctl` is the command `pisyncctl`."""

from __future__ import annotations

import sys

from pisyncd.ctl.commands import main

sys.exit(main())
