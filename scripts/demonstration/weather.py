"""The way from the device to the cloud: direct, or through a proxy that breaks at set points of the delivery."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import stage

THROTTLE_BYTES_PER_S = 8_000_000
CUT_AT = 0.25
KILL_AT = 0.55
CUT_FOR_S = 4.0


@dataclass(kw_only=True)
class Link:
    """The address that the device is given, and what goes wrong on the way (nothing by default)."""

    url: str
    told: list[str] = field(default_factory=list)

    def advance(self, done: float, say: Callable[[str], object]) -> None:
        """Called often with the delivered part, 0 to 1."""


@dataclass(kw_only=True)
class BreakingLink(Link):
    """Cuts the link once, brings it back, and kills the daemon once."""

    play: stage.Stage
    proxy: object
    cut_at: float | None = None
    killed: bool = False

    def advance(self, done: float, say: Callable[[str], object]) -> None:
        now = time.monotonic()
        if self.cut_at is None and done >= CUT_AT:
            self.proxy.down()  # type: ignore[attr-defined]
            self.cut_at = now
            self._tell(f"a link that is cut for {CUT_FOR_S:.0f} s", say)
        elif self.cut_at and now - self.cut_at >= CUT_FOR_S:
            self.proxy.up()  # type: ignore[attr-defined]
            self.cut_at = 0.0
            say("*** the link is back")
        elif self.cut_at == 0.0 and not self.killed and done >= KILL_AT:
            self.killed = True
            self._tell("pisyncd killed (SIGKILL), as by a power cut, and started again", say)
            self.play.device.kill()
            self.play.start_device()

    def _tell(self, what: str, say: Callable[[str], object]) -> None:
        self.told.append(what)
        say(f"*** {what}")


@contextlib.contextmanager
def link(play: stage.Stage, *, wanted: bool) -> Iterator[Link]:
    """The device's way to the cloud; with `wanted` through a proxy of limited speed that breaks."""
    if not wanted:
        yield Link(url=play.url)
        return
    sys.path.insert(0, str(stage.ROOT))
    # asyncio would print a traceback for each connection that is cut on purpose.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    from tests.system.rig.link import FaultyLink

    with FaultyLink(("127.0.0.1", play.port)) as proxy:
        proxy.throttle(THROTTLE_BYTES_PER_S)
        yield BreakingLink(url=proxy.url, play=play, proxy=proxy)
