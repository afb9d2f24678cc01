"""The demonstration behind scripts/demo: what it is asked for, and its course."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import course
import stage
import summary
import weather
from progress import Screen
from watched import Watched

from pisyncd.core.units import size

ROOM_FLOOR_BYTES = 600_000_000
EXIT_NOT_DELIVERED = 1
EXIT_TROUBLE = 2
EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    screen = Screen()
    try:
        with _running(options, screen) as run:
            return _once(run, options) if options.once else run.until_interrupted()
    except stage.Trouble as trouble:
        screen.close()
        print(f"demo: {trouble}", file=sys.stderr)
        return EXIT_TROUBLE
    except KeyboardInterrupt:
        screen.close()
        print("demo: stopped", file=sys.stderr)
        return EXIT_INTERRUPTED if options.once else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Watch DIR with a device and deliver it to a private cloud, both on this machine.",
        epilog="Without DIR a sample tree is made first. Nothing is ever written into DIR. Ctrl-C stops everything.",
    )
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the folder to deliver")
    parser.add_argument("--once", action="store_true", help="deliver, verify, print a summary, exit 0 only if complete")
    parser.add_argument("--keep", action="store_true", help="keep the cloud's data and the logs afterwards")
    parser.add_argument("--port", type=_port, help="port of the cloud on 127.0.0.1 (default: a free one)")
    parser.add_argument("--cut", action="store_true", help="cut the link, then kill the daemon half way")
    return parser


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return int(text)


@contextlib.contextmanager
def _running(options: argparse.Namespace, screen: Screen) -> Iterator[course.Course]:
    """Everything started, and stopped in reverse order whatever happens."""
    given = _checked(options.dir) if options.dir is not None else None
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(stage.place(keep=options.keep))
        watched = given or _sample(at.base / "school", stack)
        survey = Watched.of(watched)
        _has_room(survey, at.base)
        play = stage.Stage(at)
        stack.callback(play.stop)
        screen.say("starting a private cloud")
        play.start_cloud(options.port)
        play.enroll()
        link = stack.enter_context(weather.link(play, wanted=options.cut))
        play.configure(watched=_utf8(watched, at.base), name=survey.name, url=link.url, exclude=survey.exclude)
        stack.callback(play.device.stop)
        screen.say(f"starting pisyncd, watching {os.fsencode(watched).decode('utf-8', 'backslashreplace')}")
        play.start_device()
        run = course.Course(play=play, watched=survey, screen=screen, link=link, writer=_writer(given, watched, stack))
        run.greet()
        yield run


def _checked(given: str) -> Path:
    if not given:
        raise stage.Trouble("DIR is empty; name a folder, or leave it out for a sample tree")
    path = Path(given).expanduser()
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    try:
        path = path.resolve(strict=True)
        next(os.scandir(path), None)
    except NotADirectoryError:
        raise stage.Trouble(f"{shown} is not a folder; name the folder that holds it") from None
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its links go round in a circle"
        raise stage.Trouble(f"cannot watch {shown}: {reason}") from None
    if path == stage.RUNS:
        raise stage.Trouble(f"{shown} is where the demonstration keeps its own data; name another folder")
    return path


def _sample(into: Path, stack: contextlib.ExitStack) -> Path:
    command = [sys.executable, str(stage.ROOT / "scripts/sample_tree"), str(into)]
    made = stage.Process("sample_tree", command, into.parent / "sample.log")
    made.start()
    stack.callback(made.kill)
    if made.wait() != 0:
        raise stage.Trouble(f"the sample tree could not be made:\n{made.tail()}")
    print(f"made a sample tree: {made.tail().strip()}", flush=True)
    return into


def _writer(given: Path | None, watched: Path, stack: contextlib.ExitStack) -> stage.Process | None:
    """A small application that keeps writing to the sample's database; none for somebody's own folder."""
    if given is not None:
        return None
    command = [sys.executable, str(stage.ROOT / "scripts/sample_tree"), "--keep-writing"]
    writer = stage.Process("writer", [*command, str(watched / "database/learning.db")], watched.parent / "writer.log")
    writer.start()
    stack.callback(writer.stop)
    return writer


def _has_room(watched: Watched, base: Path) -> None:
    free = shutil.disk_usage(base).free
    needed = watched.size + ROOM_FLOOR_BYTES
    if needed > free:
        raise stage.Trouble(
            f"the private cloud keeps a copy of the folder and needs {size(needed)} in {stage.RUNS};"
            f" {size(free)} are free. Free some room, or name a smaller folder"
        )


def _utf8(watched: Path, base: Path) -> Path:
    """A path that YAML can hold: one that is not UTF-8 is reached through a link beside the configuration."""
    try:
        str(watched).encode()
    except UnicodeEncodeError:
        link = base / "watched"
        link.symlink_to(watched)
        return link
    return watched


def _once(run: course.Course, options: argparse.Namespace) -> int:
    result = run.deliver()
    kept = run.play.at.base if options.keep else None
    for text in summary.lines(result, told=run.link.told, kept=kept):
        run.screen.say(text)
    return 0 if result.complete else EXIT_NOT_DELIVERED


if __name__ == "__main__":
    raise SystemExit(main())
