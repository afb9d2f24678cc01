"""What pisyncctl understands, and what each command does and returns."""

from __future__ import annotations

import argparse
import binascii
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from pisyncd.ctl import enroll, recordtext, render, terminal
from pisyncd.ctl.connection import Daemon, Trouble

DEFAULT_SOCKET = "/run/pisyncd/pisyncd.sock"
EXIT_ATTENTION = 1
EXIT_USAGE = 2
EXIT_NOT_DELIVERED = 75
POLL_S = 0.25
PROBE_WAIT_S = 30.0
#: The daemon itself gives up after 20 s.
SYNC_RECORD_S = 25.0
#: What every device and cloud knows; configured types can be asked for by name.
RECORD_TYPES = ("enrollment", "profile", "progress", "assessment")

_EPILOG = """\
exit codes:
  0   all is well: nothing owed, or being sent; the request was taken
  1   something needs a person
  2   the command line is wrong
  69  the daemon cannot be reached
  70  the daemon could not answer
  75  not delivered yet: offline, paused or waiting
"""

Json = dict[str, Any]
Render = Callable[[Json, int], list[str]]
_HEALTH = {"attention": EXIT_ATTENTION, **dict.fromkeys(("offline", "paused", "waiting"), EXIT_NOT_DELIVERED)}
_WHY = {"complete": 0, "gone": 0, "directory": 0, "companion": 0} | dict.fromkeys(
    ("pending", "backing-off", "uploading", "settling", "unseen", "changed", "superseded", "root-missing"),
    EXIT_NOT_DELIVERED,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, ask, print, and give the exit code."""
    terminal.open_closed()
    arguments = parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace, Daemon], int] = arguments.run
        code = run(arguments, Daemon(arguments.socket))
        # what cannot be written is to be known here, not when Python ends
        sys.stdout.flush()
        return code
    except Trouble as trouble:
        _tell(trouble, arguments.json)
        return trouble.exit_code
    except BrokenPipeError:
        # The reader had enough (`pisyncctl queue | head`); Python would complain once more at its end.
        terminal.discard_output()
        return 0
    except OSError as error:
        terminal.discard_output()
        print(f"pisyncctl: the answer cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    root = argparse.ArgumentParser(
        prog="pisyncctl",
        parents=[_common()],
        description="Shows what PiSync on this device does, owes and needs.\nWithout a command: status.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.set_defaults(json=False, socket=os.environ.get("PISYNC_SOCKET") or DEFAULT_SOCKET, run=_status)
    commands = root.add_subparsers(metavar="COMMAND")
    for name, run, text, options in _commands():
        command = commands.add_parser(name, parents=[_common()], help=text, description=text)
        command.set_defaults(run=run)
        for names, more in options:
            command.add_argument(*names, **more)
    return root


def _common() -> argparse.ArgumentParser:
    # One for each parser: set_defaults on a shared one would let a command's default overrule what stands before it.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON for scripts")
    common.add_argument(
        "--socket", metavar="PATH", default=argparse.SUPPRESS, help=f"the daemon's socket (default {DEFAULT_SOCKET})"
    )
    return common


def _commands() -> list[tuple[str, Callable[[argparse.Namespace, Daemon], int], str, list[Any]]]:
    limit = (("--limit",), {"type": int, "metavar": "N", "default": None, "help": "how many to show (1-500)"})
    skip = (("--skip",), {"type": int, "metavar": "N", "default": None, "help": "leave out the first N"})
    before = (("--before",), {"type": int, "metavar": "ID", "default": None, "help": "only older than this cycle"})
    path = (("path",), {"metavar": "PATH", "help": "a file: absolute, or root-name/path, or below a root"})
    target = (("target",), {"nargs": "?", "default": "all", "metavar": "all|ID|PATH", "help": "what (default all)"})
    wait = (("--wait",), {"type": float, "metavar": "SECONDS", "default": 0.0, "help": "wait for its end"})
    after = (("--after",), {"metavar": "ID", "default": None, "help": "only behind this one"})
    kind = (("type",), {"nargs": "?", "metavar": "TYPE", "help": "enrollment, profile, progress, assessment, ..."})
    name = (("id",), {"nargs": "?", "metavar": "ID", "help": "one record of this type"})
    gone = (("--deleted",), {"action": "store_true", "help": "deleted ones, too"})
    pace = (("--interval",), {"type": float, "metavar": "SECONDS", "default": 1.0, "help": "pace (default 1)"})
    count = (("--count",), {"type": int, "metavar": "N", "default": 0, "help": "stop after N views"})
    return [
        ("status", _status, "is it online, what is owed, what is wrong, what to do", []),
        ("queue", _queue, "what waits, first in line first", [limit, skip]),
        ("why", _why, "why a file is where it is", [path]),
        ("history", _history, "the last sync cycles", [limit, before]),
        ("failures", _failures, "what could not be sent and what to do", [limit]),
        ("retry", _retry, "try failed files again now", [target]),
        ("sync", _sync, "start a sync cycle now; with TYPE and ID, sync one record", [kind, name, wait]),
        (
            "records",
            _records,
            "records kept here, those of a type, or one with its conflicts",
            [kind, name, limit, after, gone],
        ),
        ("pause", _pause, "stop sending, until resumed", []),
        ("resume", _resume, "go on sending", []),
        ("probe", _probe, "look at the network now and say what is found", []),
        ("enroll", _enroll, "let this device in at the cloud, by a one-time code or a fleet's key", enroll.options()),
        ("watch", _watch, "a live view; end it with Ctrl-C", [pace, count]),
    ]


def _enroll(arguments: argparse.Namespace, _daemon: Daemon) -> int:
    _show(arguments, enroll.enroll(arguments), enroll.told)
    return 0


def _status(arguments: argparse.Namespace, daemon: Daemon) -> int:
    answer = daemon.get("/status")
    _show(arguments, answer, render.status)
    return _HEALTH.get(answer["verdict"], 0)


def _queue(arguments: argparse.Namespace, daemon: Daemon) -> int:
    answer = daemon.get("/queue", limit=arguments.limit, skip=arguments.skip)
    _show(arguments, answer, render.queue)
    totals = answer["totals"]
    return EXIT_NOT_DELIVERED if totals["files"]["count"] or totals["messages"]["count"] else 0


def _why(arguments: argparse.Namespace, daemon: Daemon) -> int:
    answer = daemon.get("/why", path=_path(arguments.path))
    _show(arguments, answer, render.why)
    return _WHY.get(answer["code"], EXIT_ATTENTION)


def _history(arguments: argparse.Namespace, daemon: Daemon) -> int:
    _show(arguments, daemon.get("/history", limit=arguments.limit, before=arguments.before), render.history)
    return 0


def _failures(arguments: argparse.Namespace, daemon: Daemon) -> int:
    answer = daemon.get("/failures", limit=arguments.limit)
    _show(arguments, answer, render.failures)
    return EXIT_ATTENTION if answer["total"] else 0


def _retry(arguments: argparse.Namespace, daemon: Daemon) -> int:
    target = arguments.target
    if target == "all":
        body: Json = {"all": True}
    elif target.isascii() and target.isdigit():
        body = {"id": int(target)}
    else:
        # Base64, because JSON cannot hold a name that is not UTF-8.
        body = {"path_b64": binascii.b2a_base64(_path(target), newline=False).decode("ascii")}
    _show(arguments, daemon.post("/retry", body), render.done)
    return 0


def _records(arguments: argparse.Namespace, daemon: Daemon) -> int:
    if arguments.type is None:
        records = daemon.get("/status")["records"]
        types = {each: daemon.get(_place(each), limit=1)["pagination"]["total"] for each in RECORD_TYPES}
        _show(arguments, {"types": types, "records": records}, recordtext.overview)
        return EXIT_ATTENTION if records["open_conflicts"] else EXIT_NOT_DELIVERED if records["waiting"] else 0
    deleted = "true" if arguments.deleted else None
    if arguments.id is None:
        after = None if arguments.after is None else os.fsencode(arguments.after)
        query = {"limit": arguments.limit, "cursor": after, "deleted": deleted}
        answer = daemon.get(_place(arguments.type), **query)
        _show(arguments, answer, recordtext.page)
        return max(map(_record_code, answer["data"]), default=0)
    answer = daemon.get(_place(arguments.type, arguments.id), deleted=deleted)
    _show(arguments, answer, recordtext.one)
    return _record_code(answer["data"])


def _sync_record(arguments: argparse.Namespace, daemon: Daemon) -> int:
    try:
        answer = daemon.post(f"{_place(arguments.type, arguments.id)}/sync", timeout_s=SYNC_RECORD_S)
    except Trouble as trouble:
        if trouble.code in ("offline", "paused", "timeout", "stopping"):
            trouble.exit_code = EXIT_NOT_DELIVERED
        raise
    _show(arguments, answer, recordtext.one)
    return _record_code(answer["data"])


def _record_code(record: Json) -> int:
    if record["sync_status"] == "refused" or any(each["open"] for each in record["conflicts"]):
        return EXIT_ATTENTION
    return EXIT_NOT_DELIVERED if record["sync_status"] == "pending" else 0


def _place(*names: str) -> str:
    return "/".join(("/api/records", *(quote(os.fsencode(name), safe="") for name in names)))


def _sync(arguments: argparse.Namespace, daemon: Daemon) -> int:
    if arguments.type is not None:
        if arguments.id is None:
            raise Trouble("one record is named by TYPE and ID", "`pisyncctl sync progress prog_1`", EXIT_USAGE, "usage")
        return _sync_record(arguments, daemon)
    before = daemon.get("/status") if arguments.wait else {}
    answer = daemon.post("/sync")
    if not arguments.wait:
        _show(arguments, answer, render.done)
        return 0
    newest = [cycle["id"] for cycle in before["cycles"][:1]]
    after = _await(daemon, lambda status: [cycle["id"] for cycle in status["cycles"][:1]] != newest, arguments.wait)
    _show(arguments, after, render.status)
    delivered = not after["queue"]["files"]["count"] and not after["queue"]["messages"]["count"]
    return 0 if delivered else EXIT_NOT_DELIVERED


def _pause(arguments: argparse.Namespace, daemon: Daemon) -> int:
    _show(arguments, daemon.post("/pause"), render.done)
    return 0


def _resume(arguments: argparse.Namespace, daemon: Daemon) -> int:
    _show(arguments, daemon.post("/resume"), render.done)
    return 0


def _probe(arguments: argparse.Namespace, daemon: Daemon) -> int:
    began = time.monotonic()
    daemon.post("/probe")

    def looked(status: Json) -> bool:
        ago = status["link"]["probed_ago_s"]
        return ago is not None and ago <= time.monotonic() - began

    link = _await(daemon, looked, PROBE_WAIT_S)["link"]
    _show(arguments, link, render.link)
    return 0 if link["state"] == "full" else EXIT_NOT_DELIVERED


def _watch(arguments: argparse.Namespace, daemon: Daemon) -> int:
    from pisyncd.ctl import watch

    return watch.run(daemon, as_json=arguments.json, interval_s=arguments.interval, count=arguments.count)


def _await(daemon: Daemon, reached: Callable[[Json], bool], seconds: float) -> Json:
    """The first status for which `reached` holds, or the last one when the time is over."""
    end = time.monotonic() + seconds
    while True:
        status = daemon.get("/status")
        if reached(status) or time.monotonic() >= end:
            return status
        time.sleep(POLL_S)


def _path(text: str) -> bytes:
    # A name that is there, seen from here, means that file; else it may be a wire path or lie below a root.
    raw = os.fsencode(text)
    return os.path.realpath(b".") + b"/" + raw if not raw.startswith(b"/") and os.path.lexists(raw) else raw


def _show(arguments: argparse.Namespace, answer: Json, shape: Render) -> None:
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(terminal.printable(shape(answer, terminal.columns()))))


def _tell(trouble: Trouble, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"code": trouble.code, "detail": trouble.detail, "hint": trouble.hint}, indent=2))
        return
    print(f"pisyncctl: {trouble.detail}", file=sys.stderr)
    if trouble.hint:
        print(f"pisyncctl: {trouble.hint}", file=sys.stderr)
