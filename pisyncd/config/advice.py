"""What is allowed but unwise."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from urllib.parse import urlsplit

from pisyncd.config.identity import token_sources
from pisyncd.config.schema import Config

_LOCAL = ("localhost", "127.0.0.1", "::1")


def advice(config: Config, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Warnings for a person, one line each: a token in the open, in a file or on the way, and a missing root."""
    return (*_token_mode(config, environ), *_clear_text(config), *_missing_roots(config))


def _token_mode(config: Config, environ: Mapping[str, str]) -> list[str]:
    found = []
    for source in token_sources(config, environ):
        try:
            mode = source.stat().st_mode
        except OSError:
            continue
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            found.append(f"{source} can be read by every user of this machine: chmod 0600 {source}")
    return found


def _clear_text(config: Config) -> list[str]:
    parts = urlsplit(config.cloud.url)
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        return [f"{config.cloud.url} is not encrypted: who listens can read the token; use https://"]
    return []


def _missing_roots(config: Config) -> list[str]:
    return [f"{root.path} is not there now; it is waited for" for root in config.watch if not root.path.is_dir()]
