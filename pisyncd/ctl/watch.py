"""The live view. rich draws it where it is installed, plain terminal codes where it is not, plain lines into a pipe."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator

from pisyncd.ctl import render, terminal
from pisyncd.ctl.connection import Daemon, Trouble

_CLEAR = "\x1b[H\x1b[2J"
_SCREEN_ON, _SCREEN_OFF = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"

Draw = Callable[[list[str]], None]


def run(daemon: Daemon, *, as_json: bool, interval_s: float, count: int) -> int:
    """Show the status again and again, `count` times (0: until Ctrl-C). A daemon that is being restarted is waited for.

    Gives the exit code of the last view: 0, or 69 when the daemon did not answer.
    """
    exit_code, shown = 0, 0
    with contextlib.suppress(KeyboardInterrupt), _canvas(as_json) as draw:
        while True:
            lines, exit_code = _view(daemon, as_json)
            draw(lines)
            shown += 1
            if shown == count:
                break
            time.sleep(max(0.1, interval_s))
    return exit_code


def _view(daemon: Daemon, as_json: bool) -> tuple[list[str], int]:
    try:
        answer = daemon.get("/status")
    except Trouble as trouble:
        if as_json:
            return [json.dumps({"code": trouble.code, "detail": trouble.detail})], trouble.exit_code
        return [f"{trouble.detail}; trying again", trouble.hint], trouble.exit_code
    if as_json:
        return [json.dumps(answer)], 0
    return terminal.printable(render.status(answer, terminal.columns())), 0


@contextlib.contextmanager
def _canvas(as_json: bool) -> Iterator[Draw]:
    if as_json or not sys.stdout.isatty():
        yield lambda lines: print("\n".join(lines), flush=True)
        return
    try:
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        with _plain_screen() as draw:
            yield draw
        return
    with Live(screen=True, auto_refresh=False) as live:
        yield lambda lines: live.update(Text("\n".join(lines)), refresh=True)


@contextlib.contextmanager
def _plain_screen() -> Iterator[Draw]:
    def draw(lines: list[str]) -> None:
        sys.stdout.write(_CLEAR + "\r\n".join(lines) + "\r\n")
        sys.stdout.flush()

    sys.stdout.write(_SCREEN_ON)
    try:
        yield draw
    finally:
        sys.stdout.write(_SCREEN_OFF)
        sys.stdout.flush()
