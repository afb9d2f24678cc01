"""Where the gateway answers: a socket of mode 0660 and group pisync, never in another instance's way and gone after the
stop; and, when asked for, a port on the loopback interface for learning events and records.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import structlog
from aiohttp import web

from pisyncd.core.errors import AlreadyRunning, FatalError
from pisyncd.gateway.bodies import BYTES_MAX, Bodies
from pisyncd.gateway.boundary import errors_as_problems
from pisyncd.gateway.browsers import Browsers
from pisyncd.gateway.handlers import Gateway
from pisyncd.gateway.learning import Learning
from pisyncd.gateway.ports import Device
from pisyncd.gateway.records import RecordRoutes
from pisyncd.gateway.sessions import LearnerSessions
from pisyncd.gateway.tokens import Tokens
from pisyncd.outbox import Outbox

log = structlog.get_logger()

MODE = 0o660
LOOPBACK = "127.0.0.1"
# A classroom's applications at once: a connection to a full Unix socket fails where a full port only lets wait.
BACKLOG = 1024
ANSWER_S = 2.0
SHUTDOWN_S = 2.0
# sockaddr_un.sun_path with its final NUL.
PATH_BYTES_MAX = 107


class SocketUnusable(FatalError):
    """The status socket cannot be made."""

    code = "socket-unusable"
    exit_code = 78
    hint = "give runtime_dir a directory that the daemon may write to, with a path of at most 90 bytes"


@contextlib.asynccontextmanager
async def serving(device: Device, outbox: Outbox) -> AsyncIterator[Path | None]:
    """Answers on runtime_dir/pisyncd.sock; gives the path, None when the socket cannot be made.

    Raises AlreadyRunning when another instance answers there.
    """
    bodies = Bodies()
    learning = [
        *Learning(device, outbox, bodies).routes(),
        *LearnerSessions(outbox, bodies).routes(),
        *RecordRoutes(device, outbox, bodies).routes(),
    ]
    async with contextlib.AsyncExitStack() as stack:
        path = await _open_socket(stack, device, [*Gateway(device, outbox).routes(), *learning])
        if device.config.intake.port:
            await _open_port(stack, device, learning)
        yield path


async def _open_socket(stack: contextlib.AsyncExitStack, device: Device, routes: Sequence[web.RouteDef]) -> Path | None:
    path = device.config.socket
    try:
        listener = await bind(path, device.config.gateway.group)
    except SocketUnusable as error:
        # Learners' data is delivered even where nobody can look.
        log.error("gateway.unusable", detail=error.detail, hint=error.hint)
        return None
    # aiohttp leaves the file behind.
    stack.callback(path.unlink, missing_ok=True)
    stack.callback(listener.close)
    app = web.Application(middlewares=[errors_as_problems], client_max_size=BYTES_MAX)
    app.add_routes(routes)
    await web.SockSite(await _runner(stack, app), listener, backlog=BACKLOG).start()
    log.info("gateway.opened", socket=str(path))
    return path


async def _open_port(stack: contextlib.AsyncExitStack, device: Device, routes: Sequence[web.RouteDef]) -> None:
    intake = device.config.intake
    tokens = None if intake.tokens_file is None else Tokens(intake.tokens_file)
    browsers = Browsers(frozenset(intake.origins), tokens)
    app = web.Application(middlewares=[errors_as_problems, browsers.guard], client_max_size=BYTES_MAX)
    app.on_response_prepare.append(browsers.stamp)
    app.add_routes(routes)
    runner = await _runner(stack, app)
    try:
        await web.TCPSite(runner, LOOPBACK, intake.port, backlog=BACKLOG, reuse_address=True).start()
    except OSError as error:
        # The socket and everything else work without it.
        why = (error.strerror or str(error)).lower()
        device.intake_fault = f"port {intake.port} for browsers cannot be opened: {why}"
        log.error("intake.port_unusable", port=intake.port, detail=error.strerror, hint="give intake.port a free port")
        return
    log.info("intake.opened", port=intake.port, origins=len(intake.origins), tokens=tokens is not None)


async def _runner(stack: contextlib.AsyncExitStack, app: web.Application) -> web.AppRunner:
    # aiohttp takes a body that is cut inside a zstd or gzip frame for a whole one, and has no limit for what comes out.
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False, auto_decompress=False
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def bind(path: Path, group: str) -> socket.socket:
    """A listening socket at `path`. What a dead daemon left there is removed, what a live one holds is not."""
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise SocketUnusable(f"{path} is longer than a socket's path can be ({PATH_BYTES_MAX} bytes)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        await _clear(path)
        return _listen(path, group)
    except OSError as error:
        raise SocketUnusable(f"{path}: {(error.strerror or str(error)).lower()}") from error


async def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketUnusable(f"{path} is there and is not a socket", hint=f"look what it is, then remove {path}")
    if await _answers(path):
        raise AlreadyRunning(f"another pisyncd answers on {path}")
    path.unlink(missing_ok=True)
    log.info("gateway.stale_socket_removed", socket=str(path))


async def _answers(path: Path) -> bool:
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_unix_connection(path)
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except TimeoutError:
        # A full backlog: somebody listens, however slowly.
        return True
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _listen(path: Path, group: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # Before it is bound: until it has its group, nobody else may connect.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
        _share(path, group)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _share(path: Path, group: str) -> None:
    try:
        wanted = grp.getgrnam(group).gr_gid
        # Under systemd the group is right from the start, and chown is a call that the sandbox refuses.
        if path.stat().st_gid != wanted:
            os.chown(path, -1, wanted)
    except KeyError:
        log.info("gateway.group_missing", group=group, hint=f"groupadd --system {group} lets its members use pisyncctl")
    except PermissionError:
        log.warning("gateway.group_denied", group=group, hint=f"add the daemon's user to {group}")
    path.chmod(MODE)
