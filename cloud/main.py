"""Runs the service: opens everything, says where it listens, and drains on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web

from cloud import tracing
from cloud.api.boundary import IN_FLIGHT
from cloud.app import build_app
from cloud.config import Settings
from cloud.services import open_services
from pisyncd.core import link
from pisyncd.core.errors import ConfigError

log = structlog.get_logger()

CLOSE_S = 3.0
SWITCH_S = 0.001


def configure_log(settings: Settings) -> None:
    """Structured lines on stderr; stdout is for the URL."""
    renderer = structlog.processors.JSONRenderer() if settings.log_format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    server = logging.getLogger("aiohttp.server")
    server.handlers, server.propagate = [_ServerLog()], False


class _ServerLog(logging.Handler):
    """What aiohttp says by itself: requests that are not HTTP, in one line each; a stranger may send many."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        detail = f"{type(error).__name__}: {error}" if error else record.getMessage()
        log.info("request.unreadable", detail=" ".join(detail.split())[:200])


def check(settings: Settings) -> None:
    """Refuses what would be unsafe. Raises ConfigError."""
    if settings.open_dashboard and not link.is_loopback(settings.host):
        raise ConfigError(
            "open_dashboard shows everything to whoever can connect",
            hint="use it with --host 127.0.0.1 only, or make a key: `pisync-cloud key create NAME --role viewer`",
        )


def runner_options(settings: Settings) -> dict[str, Any]:
    """How the HTTP server behaves, for the service and for its tests."""
    return {
        "access_log": None,
        "shutdown_timeout": min(CLOSE_S, settings.drain_s),
        "keepalive_timeout": 75.0,
        # aiohttp takes a body that is cut inside a zstd or gzip frame for a whole one; see cloud/api/body.py.
        "auto_decompress": False,
        # A path of 4096 bytes that are not ASCII is three times as long in an address.
        "max_line_size": 16_384,
    }


async def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT. Raises FatalError, StorageBusy, OSError when it cannot begin."""
    check(settings)
    # Reading one batch must not keep the database's thread from the interpreter for the usual 5 ms.
    sys.setswitchinterval(SWITCH_S)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(tracing.running(settings.trace_endpoint))
        services = await stack.enter_async_context(open_services(settings))
        app = build_app(services)
        runner = web.AppRunner(app, **runner_options(settings))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, settings.host, settings.port, backlog=1024, reuse_address=True)
        await site.start()
        url = _url(settings.host, runner)
        log.info("service.started", url=url, database=services.db.dialect, schema=services.schema_version)
        announce(url)
        await stop.wait()
        log.info("service.draining", drain_s=settings.drain_s)
        # aiohttp's own shutdown stops reading at once, which would cut the bodies that are still arriving.
        await site.stop()
        services.feed.release()
        await services.live.release()
        if not await app[IN_FLIGHT].drain(settings.drain_s):
            log.warning("service.drain_cut_short", requests=app[IN_FLIGHT].count)
    log.info("service.stopped")


def _url(host: str, runner: web.AppRunner) -> str:
    address = runner.addresses[0]
    shown = "127.0.0.1" if host in ("0.0.0.0", "") else "[::1]" if host == "::" else host  # noqa: S104 - compared only
    return f"http://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{address[1]}"
