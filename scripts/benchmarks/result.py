"""One JSON line per measured figure, each with the machine that it was measured on."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
from pathlib import Path
from typing import Any, Literal

from pisyncd import __version__


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How much to do: `thorough` more rounds and tools, `alone` no other tools."""

    thorough: bool = False
    alone: bool = False


Bound = Literal["at_most", "at_least", "equal", "none"]


@functools.cache
def machine() -> dict[str, Any]:
    """Return what a reader needs to compare figures: processor, cores, memory, kernel, Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_mb": memory_kb // 1000,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """A figure. `ratio` is value / limit for our own figures and ours / theirs for those of another tool."""

    benchmark: str
    metric: str
    value: float
    unit: str
    tool: str = "pisync"
    bound: Bound = "none"
    limit: float | None = None
    ratio: float | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Tell whether the figure is within its limit, or None when it has none."""
        if self.limit is None or self.bound == "none":
            return None
        if self.bound == "equal":
            return self.value == self.limit
        return self.value <= self.limit if self.bound == "at_most" else self.value >= self.limit

    def line(self) -> str:
        """Return the figure as one line of JSON."""
        ratio = self.ratio
        if ratio is None and self.limit:
            ratio = self.value / self.limit
        return json.dumps(
            {
                "benchmark": self.benchmark,
                "metric": self.metric,
                "tool": self.tool,
                "value": round(self.value, 4),
                "unit": self.unit,
                "bound": self.bound,
                "limit": self.limit,
                "ratio": None if ratio is None else round(ratio, 3),
                "pass": self.passed,
                "details": self.details,
                "version": __version__,
                "machine": machine(),
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """Something that could not be measured, and why."""

    benchmark: str
    tool: str
    reason: str

    def line(self) -> str:
        """Return the reason as one line of JSON."""
        return json.dumps(
            {
                "benchmark": self.benchmark,
                "tool": self.tool,
                "skipped": self.reason,
                "version": __version__,
                "machine": machine(),
            }
        )
