"""`python -m pisyncd.config` prints the example configuration."""

from __future__ import annotations

import sys

from pisyncd.config import example

sys.stdout.write(example.text())
