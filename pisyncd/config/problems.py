"""What is wrong with a configuration, all of it, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pisyncd.core import errors


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing to correct. `line` counts from 1; None when it is not about a line of the file."""

    source: str
    line: int | None
    key: str
    detail: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line is not None else self.source
        return f"{where}: {self.key}: {self.detail}" if self.key else f"{where}: {self.detail}"


class InvalidConfig(errors.ConfigError):
    """The configuration is not valid."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "\n".join(str(problem) for problem in problems),
            hint="correct the lines named above, then try `pisyncd check-config`",
        )


class Problems:
    """Collects problems, so that a person corrects them in one go."""

    def __init__(self, path: Path) -> None:
        self._source = str(path)
        self.found: list[Problem] = []

    def in_file(self, line: int | None, key: str, detail: str) -> None:
        """Record what stands at `line` of the file."""
        self.found.append(Problem(source=self._source, line=line, key=key, detail=detail))

    def in_environment(self, variable: str, detail: str) -> None:
        """Record a variable that cannot be used."""
        self.found.append(Problem(source="environment", line=None, key=variable, detail=detail))

    def raise_if_any(self) -> None:
        """Raise InvalidConfig, in the order of the file."""
        if self.found:
            raise InvalidConfig(sorted(self.found, key=lambda problem: problem.line or 0))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean `interval_s`?`, or what is known when nothing is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(names)}"
