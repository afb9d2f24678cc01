"""scripts/bench: run benchmarks by name and print JSON lines."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

from benchmarks import capture, conflicts, daemon, fleet, ingest, learning, records, transfers, webhooks
from benchmarks.result import Options, Result, Skipped

BENCHMARKS: dict[str, Callable[[Options], Iterator[Result | Skipped]]] = {
    "edge-cases": ingest.edge_cases,
    "history": ingest.history,
    "repeated-failures": ingest.repeated_failures,
    "sync-event": ingest.sync_event,
    "learning-events": learning.learning_events,
    "capture": capture.capture,
    "drain": capture.drain,
    "records-lan": records.records_lan,
    "records-slow": records.records_slow,
    "records-pull": records.records_pull,
    "conflict": conflicts.conflict,
    "webhooks": webhooks.webhooks,
    "standing": fleet.standing,
    "pages": fleet.pages,
    "latency": daemon.latency,
    "sqlite-copies": daemon.sqlite_copies,
    "idle": daemon.idle,
    "lan-5000": transfers.lan_5000,
    "lan-50000": transfers.lan_50000,
    "slow-link": transfers.slow_link,
    "flaky-link": transfers.flaky_link,
    "kill-resend": transfers.kill_resend,
    "big-file": daemon.big_file,
}

PACKAGES = ("rsync", "syncthing", "rclone", "unison", "restic", "lsyncd")


def _install() -> int:
    missing = [name for name in PACKAGES if shutil.which(name) is None]
    if not missing:
        return 0
    print(f"bench: installing {' '.join(missing)} from Debian", file=sys.stderr)
    return subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *missing], check=False).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="which to run; all without a name")
    parser.add_argument("--list", action="store_true", help="print the names and what each measures")
    parser.add_argument("--install", action="store_true", help="get the tools to compare with from Debian first (root)")
    parser.add_argument("--thorough", action="store_true", help="more rounds and more tools to compare with")
    parser.add_argument("--alone", action="store_true", help="measure PiSync only")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 every figure within its limit, 1 one was not, 2 wrong usage, 3 one could not be measured."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        for name, run in BENCHMARKS.items():
            print(f"{name:18} {run.__doc__}")
        return 0
    unknown = sorted(set(arguments.names) - BENCHMARKS.keys())
    if unknown:
        print(f"bench: no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    if arguments.install and _install() != 0:
        return 3
    options = Options(thorough=arguments.thorough, alone=arguments.alone)
    # Without this a stop would leave namespaces, daemons and scratch trees behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    worst = 0
    for name in arguments.names or BENCHMARKS:
        print(f"bench: {name}", file=sys.stderr)
        try:
            for line in BENCHMARKS[name](options):
                print(line.line(), flush=True)
                if isinstance(line, Result) and line.passed is False:
                    worst = max(worst, 1)
        except Exception as error:
            # One benchmark that cannot run must not hide the figures of the others.
            traceback.print_exc()
            print(Skipped(benchmark=name, tool="pisync", reason=f"{type(error).__name__}: {error}"[:500]).line())
            worst = 3
    return worst


if __name__ == "__main__":
    sys.exit(main())
