"""Who this device is, and the secret that proves it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from pisyncd.config.schema import DEVICE_ID_PATTERN, Config
from pisyncd.core import errors
from pisyncd.core.wire import token_hash

# PiSync's own application id: the machine-id itself must not leave the machine (machine-id(5)).
APP_ID = uuid.UUID("5b1d2a0e-7c43-4f0f-9a65-1f8f6a0c7d21")
CREDENTIAL = "pisync-token"
#: Where a token that the cloud has given is kept, in the state directory.
KEPT = "token.json"
#: Where a token stands that the device has made for itself.
OWN = "enrolment.json"
_TOKEN_BYTES_MAX = 4096


class OwnToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that the device made; `accepted`: the cloud has let it in."""

    token: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,4096}$(?!\n)")]
    accepted: bool = False


class KeptToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token given by the cloud; `of`: the hash of the configured one whose place it takes."""

    of: str
    token: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,4096}$(?!\n)")]


def default_device_id(root: Path = Path("/")) -> str | None:
    """The hardware's serial number, else a name made from the machine-id; None where there is neither."""
    serial = _read(root / "proc/device-tree/serial-number").strip("\0 \n\t")
    # Some boards report zeros; two of them must not become one device.
    if re.match(DEVICE_ID_PATTERN, serial) and serial.strip("0"):
        return serial
    machine_id = _read(root / "etc/machine-id").strip()
    if re.fullmatch(r"[0-9a-f]{32}", machine_id) and machine_id.strip("0"):
        return app_specific(machine_id)
    return None


def app_specific(machine_id: str) -> str:
    """A stable name that does not give the machine-id away, as `systemd-id128 machine-id --app-specific=` makes it."""
    digest = bytearray(hmac.new(bytes.fromhex(machine_id), APP_ID.bytes, hashlib.sha256).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x40
    digest[8] = digest[8] & 0x3F | 0x80
    return digest.hex()


def read_token(config: Config, environ: Mapping[str, str]) -> str:
    """The device's token. Raises ConfigError.

    The one that the cloud has given in the place of the configured one counts before it; a person who configures
    another one afterwards wins.
    """
    configured = first_token(config, environ)
    kept = _kept(config)
    return kept.token if kept is not None and kept.of == token_hash(configured) else configured


def store_token(config: Config, environ: Mapping[str, str], token: str) -> None:
    """Keeps a token that the cloud has given in the place of the configured one; durable when it returns.

    It stands in the state directory: the configured one is in a file of root's. Raises OSError, ConfigError.
    """
    kept = KeptToken(of=token_hash(first_token(config, environ)), token=token)
    write_secret(config.state_dir / KEPT, msgspec.json.encode(kept))


def first_token(config: Config, environ: Mapping[str, str]) -> str:
    """The token from before the cloud gave any: configured, or made here. Raises ConfigError."""
    try:
        return configured_token(config, environ)
    except errors.ConfigError as error:
        own = own_token(config, make=True) if error.code == "token-missing" else None
        if own is None:
            raise
        return own.token


def own_token(config: Config, *, make: bool = False) -> OwnToken | None:
    """The token that a device with its fleet's key has made for itself; None where there is no such key, and none was
    made yet. With `make` it is made, and durable. Raises ConfigError when it cannot be kept."""
    if config.cloud.fleet_key_file is None:
        return None
    path = config.state_dir / OWN
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=OwnToken)
    if not make:
        return None
    own = OwnToken(token=f"pisync_device_{secrets.token_urlsafe(32)}")
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        write_secret(path, msgspec.json.encode(own))
    except OSError as error:
        raise errors.ConfigError(f"{path}: {error.strerror}", code="token-missing", hint=_hint(config)) from error
    return own


def accept_own_token(config: Config) -> None:
    """The cloud has let this device in. Raises OSError."""
    own = own_token(config)
    if own is not None:
        write_secret(config.state_dir / OWN, msgspec.json.encode(msgspec.structs.replace(own, accepted=True)))


def read_fleet_key(config: Config) -> str:
    """The key of cloud.fleet_key_file. Raises ConfigError."""
    assert config.cloud.fleet_key_file is not None
    return read_secret_line(config.cloud.fleet_key_file)


def read_secret_line(path: Path) -> str:
    """The one line of a file. Raises ConfigError."""
    hint = "it has to hold the key in one line, as `pisync-cloud fleet-key create` prints it"
    try:
        line = path.read_bytes()[:_TOKEN_BYTES_MAX].decode("ascii", "replace").strip()
    except OSError as error:
        raise errors.ConfigError(f"{path}: {error.strerror}", code="fleet-key-missing", hint=hint) from error
    if not re.fullmatch(r"[!-~]{8,}", line):
        raise errors.ConfigError(f"{path}: is not a key", code="fleet-key-invalid", hint=hint)
    return line


def forget_token(config: Config) -> None:
    """The configured token counts again. Raises OSError."""
    (config.state_dir / KEPT).unlink(missing_ok=True)


def write_secret(path: Path, content: bytes) -> None:
    """A small file for this user alone, whole or not at all, also after a power cut. Raises OSError."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _kept(config: Config) -> KeptToken | None:
    try:
        raw = (config.state_dir / KEPT).read_bytes()
        return msgspec.json.decode(raw, type=KeptToken)
    except (OSError, msgspec.DecodeError):
        return None


def configured_token(config: Config, environ: Mapping[str, str]) -> str:
    """`cloud.token_file` where it can be read, else the systemd credential. Raises ConfigError.

    The file comes first because a credential keeps the content that it had when the service was started.
    """
    sources = token_sources(config, environ)
    unreadable = []
    for source in sources:
        try:
            raw = source.read_bytes()[: _TOKEN_BYTES_MAX + 1]
        except OSError as error:
            unreadable.append(f"{source}: {(error.strerror or 'cannot be read').lower()}")
            continue
        token = raw.decode("ascii", "replace").strip()
        if not token:
            unreadable.append(f"{source}: is empty")
        elif len(raw) > _TOKEN_BYTES_MAX or not re.fullmatch(r"[!-~]+", token):
            raise errors.ConfigError(f"{source}: is not a token", code="token-invalid", hint=_hint(config))
        else:
            return token
    tried = "; ".join(unreadable) or "neither cloud.token_file nor a systemd credential is set"
    raise errors.ConfigError(f"no token for the cloud: {tried}", code="token-missing", hint=_hint(config))


def _hint(config: Config) -> str:
    return (
        f"run `pisync-cloud enroll {config.device_id}` on the cloud and put the last line that it prints into "
        f"{config.cloud.token_file or 'cloud.token_file'}"
    )


def token_sources(config: Config, environ: Mapping[str, str]) -> list[Path]:
    """Where the token may stand, best first."""
    sources = [config.cloud.token_file] if config.cloud.token_file else []
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        sources.append(Path(directory) / CREDENTIAL)
    return sources


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
