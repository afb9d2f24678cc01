"""Who wants to hear of syncs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

NAMES = ("sync:start", "sync:complete", "sync:failed")
Handler = Callable[[Any], Any]


class Handlers:
    """Handlers by event name. What a handler raises is counted and goes no further."""

    def __init__(self) -> None:
        self._by_name: dict[str, tuple[Handler, ...]] = dict.fromkeys(NAMES, ())
        self._counting = itertools.count(1)
        self.errors = 0

    def on(self, name: str, handler: Handler) -> Callable[[], None]:
        """Calls `handler(result)` at every `name`; gives a function that ends it. Raises ValueError, TypeError."""
        if name not in self._by_name:
            raise ValueError(f"there is {', '.join(NAMES)}, not {name!r}")
        if not callable(handler):
            raise TypeError(f"a handler is called; {handler!r} cannot be")
        self._by_name[name] = (*self._by_name[name], handler)

        def off() -> None:
            self._by_name[name] = tuple(each for each in self._by_name[name] if each is not handler)

        return off

    def emit(self, name: str, result: Any) -> None:
        """In the caller's thread. Never raises."""
        for handler in self._by_name[name]:
            try:
                handler(dict(result))
            except Exception:
                self.failed()

    def failed(self) -> None:
        """One more handler did not do what it should."""
        self.errors = next(self._counting)
