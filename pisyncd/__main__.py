"""`python -m pisyncd` is the command `pisyncd`."""

from __future__ import annotations

import sys

from pisyncd.cli import main

sys.exit(main())
