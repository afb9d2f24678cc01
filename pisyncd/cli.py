"""The command line of the daemon: run, once, check-config, app-token.

exit code | meaning
----------|--------------------------------------------------------------
0         | run: stopped in good order; once: everything owed is delivered; check-config: all is right;
          | app-token: the token is on standard output
2         | the command line is wrong
70        | an internal fault; the traceback is in the log
75        | once: not everything is delivered, or another pisyncd is running
78        | the configuration is wrong
130       | interrupted from the keyboard
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# First of all, because it keeps what structlog would drag in out of the process.
from pisyncd import log, tcp
from pisyncd.config import Config, advice, configured_token, load, read_fleet_key
from pisyncd.core.errors import ConfigError, FatalError
from pisyncd.runtime import memory

DEFAULT_CONFIG = Path("/etc/pisyncd/pisyncd.yaml")
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130

_EPILOG = """exit codes: 0 done, 2 wrong usage, 70 internal fault, 75 not everything delivered or another pisyncd runs,
78 wrong configuration. Look into a running daemon with pisyncctl."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, do, and give the exit code."""
    arguments = parser().parse_args(argv)
    try:
        config = load(arguments.config, os.environ)
        if arguments.command == "check-config":
            return _check(arguments.config, config)
        if arguments.command == "app-token":
            return _app_token(arguments.name, config)
        log.configure(config.log.level, config.log.format)
        return _start(arguments, config)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        return _give_up(error)


def parser() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    root = argparse.ArgumentParser(
        prog="pisyncd",
        description="Carries learning data from this device to the cloud whenever there is a network.",
        epilog=_EPILOG,
    )
    root.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in (
        ("run", "run until stopped; this is what systemd starts"),
        ("once", "deliver everything owed once, then exit: 0 delivered, 75 not everything"),
        ("check-config", "check the configuration and say everything that is wrong with it"),
        ("app-token", "make a token for an application that uses intake.port; an old one of the name ends"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--config",
            type=Path,
            default=DEFAULT_CONFIG,
            metavar="FILE",
            help=f"configuration file (default {DEFAULT_CONFIG})",
        )
        if name == "app-token":
            command.add_argument("name", metavar="NAME", help="the application's name: letters, digits, . _ -")
    return root


def _check(path: Path, config: Config) -> int:
    print(f"{path}: device {config.device_id} sends to {config.cloud.url}")
    for root in config.watch:
        print(f"  {root.path} as {root.name}, priority {root.priority}")
    if config.intake.port:
        _check_port(config)
    for line in advice(config, os.environ):
        print(f"warning: {line}", file=sys.stderr)
    # After the device's name, which is what the token is asked for with.
    try:
        configured_token(config, os.environ)
    except ConfigError as error:
        if error.code != "token-missing" or config.cloud.fleet_key_file is None:
            raise
        # Without a token the device makes one when it starts, as its own user and not as who looks at the settings.
        read_fleet_key(config)
    if config.cloud.ca_file is not None:
        tcp.authorities(config.cloud.ca_file)
    print("all is right")
    return 0


def _check_port(config: Config) -> None:
    intake = config.intake
    print(f"  learning events on 127.0.0.1:{intake.port}, of pages of {', '.join(intake.origins) or 'no origin'}")
    if intake.tokens_file is None:
        return
    with memory.lean_imports():
        from pisyncd.gateway import tokens
    try:
        print(f"  for applications with a token: {', '.join(tokens.read(intake.tokens_file)) or 'none yet'}")
    except OSError as error:
        print(f"warning: {intake.tokens_file}: {error.strerror}; `pisyncd app-token NAME` makes it", file=sys.stderr)


def _app_token(name: str, config: Config) -> int:
    if config.intake.tokens_file is None:
        hint = "set it, such as `tokens_file: /etc/pisyncd/app-tokens`, and reload the daemon"
        raise ConfigError("intake.tokens_file is not set", code="tokens-file-missing", hint=hint)
    with memory.lean_imports():
        from pisyncd.gateway import tokens
    try:
        token = tokens.add(config.intake.tokens_file, name, owner_like=config.state_dir)
    except OSError as error:
        raise ConfigError(f"{config.intake.tokens_file}: {error.strerror}", hint="run it with sudo") from error
    print(f"{name} may use port {config.intake.port or '(intake.port is not set)'} with this token:", file=sys.stderr)
    print(token)
    return 0


def _start(arguments: argparse.Namespace, config: Config) -> int:
    with memory.lean_imports():
        from pisyncd import daemon

    if arguments.command == "once":
        return asyncio.run(daemon.once(config))
    return asyncio.run(daemon.run(config, config_path=arguments.config))


def _give_up(error: BaseException) -> int:
    fatal = fatal_in(error)
    if fatal is None:
        # structlog is there by now, or the fault is so early that Python's own traceback says more.
        import structlog

        structlog.get_logger().error("daemon.crashed", exc_info=error)
        return EXIT_INTERNAL
    for line in fatal.detail.splitlines():
        print(f"pisyncd: {line}", file=sys.stderr)
    if fatal.hint:
        print(f"pisyncd: {fatal.code}: {fatal.hint}", file=sys.stderr)
    return fatal.exit_code


def fatal_in(error: BaseException) -> FatalError | None:
    """The expected end in an error or in the group of errors that activities ended with; None when it is unexpected."""
    if isinstance(error, FatalError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [fatal_in(each) for each in error.exceptions]
        return found[0] if all(found) else None
    return None


class _Version(argparse.Action):
    """Looks the version up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_args: object, **_more: object) -> None:
        from importlib.metadata import version

        print(f"pisyncd {version('pisync')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
