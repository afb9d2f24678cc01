"""`pisyncctl enroll`: lets this device in by a code, or by a fleet's key. It talks to the cloud, not to the daemon.

The token is made here and is durable before the cloud hears of it; whatever is lost on the way, the same command again
goes on where it was.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pisyncd.ctl.connection import Trouble

EXIT_REFUSED = 1
EXIT_LATER = 75
DEFAULT_CONFIG = "/etc/pisyncd/pisyncd.yaml"
DEFAULT_TARGET = "/etc/pisyncd/token"


def options() -> list[Any]:
    """What may stand behind the command."""
    return [
        (("--code",), {"metavar": "CODE", "help": "a one-time code, as `pisync-cloud code` prints it"}),
        (("--fleet-key-file",), {"metavar": "FILE", "help": "file with the fleet's key, for a prepared card"}),
        (("--cloud",), {"metavar": "URL", "help": "its address, where the settings do not say it"}),
        (("--config",), {"metavar": "FILE", "default": DEFAULT_CONFIG, "help": f"settings ({DEFAULT_CONFIG})"}),
        (
            ("--token-file",),
            {"metavar": "FILE", "help": f"where it goes (cloud.token_file, or {DEFAULT_TARGET})"},
        ),
    ]


def enroll(arguments: argparse.Namespace) -> dict[str, Any]:
    """{"device_id", "state": "accepted", "token_file"}. Raises Trouble: refused, or to be asked again later."""
    import asyncio

    # Only here: the other commands start at once because they import nothing of the daemon.
    from pisyncd import config as settings
    from pisyncd import enrolling, log
    from pisyncd.config.identity import write_secret
    from pisyncd.core.errors import FatalError, PiSyncError, TransientError

    if (arguments.code is None) == (arguments.fleet_key_file is None):
        raise Trouble("give either --code or --fleet-key-file", "`pisyncctl enroll --help`", 2, "usage")
    # What the uplink logs is for the journal.
    log.configure("error", "keyvalue")
    try:
        device_id, cloud, configured = _who(Path(arguments.config), arguments.cloud)
        target = Path(arguments.token_file or configured or DEFAULT_TARGET)
        pending = target.with_name(f"{target.name}.new")
        key = settings.read_secret_line(Path(arguments.fleet_key_file)) if arguments.fleet_key_file else ""
        token = _begun(pending) or enrolling.new_token()
        write_secret(pending, token.encode() + b"\n")
        found = asyncio.run(_ask(cloud, device_id, token, arguments.code or "", key))
        if found.state == "pending":
            raise Trouble(
                f"{device_id} waits until somebody at the cloud accepts it",
                f"`pisync-cloud accept {device_id}` there, then the same command here again",
                EXIT_LATER,
                "enrolment-pending",
            )
        write_secret(target, token.encode() + b"\n")
        pending.unlink(missing_ok=True)
    except OSError as error:
        hint = "run it as root: `sudo pisyncctl enroll ...`"
        raise Trouble(f"{error.filename}: {error.strerror}", hint, EXIT_REFUSED, "token-file-unwritable") from error
    except TransientError as error:
        raise Trouble(error.detail, error.hint or "ask again later", EXIT_LATER, error.code) from error
    except FatalError as error:
        raise Trouble(error.detail, error.hint, error.exit_code, error.code) from error
    except PiSyncError as error:
        raise Trouble(error.detail, error.hint, EXIT_REFUSED, error.code) from error
    return {"device_id": device_id, "state": "accepted", "token_file": str(target)}


def _who(path: Path, url: str | None) -> tuple[str, Any, Path | None]:
    """(device id, cloud, configured file of the token). A device without settings goes by its hardware's name."""
    from pisyncd import config as settings
    from pisyncd import enrolling
    from pisyncd.core.errors import ConfigError

    if url is not None and not path.exists():
        device_id = settings.default_device_id()
        if device_id is None:
            raise ConfigError("this hardware has no serial number", hint="write device_id into the settings")
        return device_id, enrolling.Cloud(url=url), None
    config = settings.load(path, os.environ)
    cloud = enrolling.Cloud(url=url or config.cloud.url, ca_file=config.cloud.ca_file)
    return config.device_id, cloud, config.cloud.token_file


async def _ask(cloud: Any, device_id: str, token: str, code: str, key: str) -> Any:
    from pisyncd import enrolling

    found = await enrolling.ask(cloud, device_id, token, code=code, fleet_key=key)
    if found.state == "accepted":
        await enrolling.prove(cloud, token)
    return found


def _begun(pending: Path) -> str:
    """The token of an attempt before, whose answer may have been lost."""
    try:
        return pending.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def told(answer: dict[str, Any], _width: int) -> list[str]:
    """For people."""
    return [
        f"{answer['device_id']} is let in; its token is in {answer['token_file']}",
        "next: `sudo systemctl restart pisyncd`, then `pisyncctl status`",
    ]
