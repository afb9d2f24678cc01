"""Where a transfer is measured: this machine's loopback, or the two ends of an emulated link."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rig import place
from rig.cloud import free_port
from rig.process import Child

from benchmarks import netem

__all__ = ["Ground", "free_port", "loopback", "over"]


class Namespace:
    """One end of an emulated link, as a place to run processes in."""

    def __init__(self, network: netem.Network, side: netem.Side) -> None:
        """Take one side of a network."""
        self._network = network
        self._side: netem.Side = side

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs there."""
        return self._network.command(self._side, arguments)

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Open a connection from there."""
        with self._network.inside(self._side):
            return socket.create_connection((host, port), timeout=timeout_s)


@dataclasses.dataclass(kw_only=True)
class Ground:
    """Two places, the address of the far one, a source tree and a scratch directory on the same disk."""

    near: place.Place
    far: place.Place
    host: str
    source: Path
    work: Path
    network: netem.Network | None = None
    deadline_s: float = 600.0
    children: list[Child] = dataclasses.field(default_factory=list)

    def scratch(self, name: str) -> Path:
        """Return an empty directory of this name."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def serve(self, name: str, arguments: Sequence[str], *, side: str = "far", port: int | None = None) -> Child:
        """Start a process that ends with the ground; with `port`, wait until it listens."""
        where = self.far if side == "far" else self.near
        child = Child(name, self.work / f"{name}.log")
        self.children.append(child)
        child.start(where.command(arguments), {"HOME": str(self.work)})
        if port is not None:
            child.ready("listens", lambda: self._listens(where, port), 30)
        return child

    def _listens(self, where: place.Place, port: int) -> bool:
        host = self.host if where is self.far else "127.0.0.1"
        where.connect(host, port, 2).close()
        return True

    def run(self, arguments: Sequence[str], *, check: bool = True) -> float:
        """Run a command at the near end and return how long it took, in seconds."""
        started = time.perf_counter()
        done = subprocess.run(
            self.near.command(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=self.deadline_s,
            check=False,
            env={**os.environ, "HOME": str(self.work)},
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]!r}")
        return time.perf_counter() - started

    def run_until_done(self, arguments: Sequence[str]) -> float:
        """Run a command again until it succeeds and return how long that took, in seconds."""
        started = time.perf_counter()
        while time.perf_counter() - started < self.deadline_s:
            before = time.perf_counter()
            with contextlib.suppress(RuntimeError):
                self.run(arguments)
                return time.perf_counter() - started
            # A tool that fails at once (no route) must not spin.
            time.sleep(max(0.0, 1.0 - (time.perf_counter() - before)))
        raise TimeoutError(f"{arguments[0]} did not finish in {self.deadline_s:g} s")

    def clear(self) -> None:
        """End everything that was started here."""
        for child in self.children:
            child.kill()
        self.children.clear()


@contextlib.contextmanager
def _work() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pisync-bench-", dir=os.environ.get("PISYNC_BENCH_DIR")))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def loopback() -> Iterator[Ground]:
    """Give this machine's own loopback as both ends."""
    with _work() as work:
        here = place.Here()
        ground = Ground(near=here, far=here, host="127.0.0.1", source=work / "source", work=work)
        ground.source.mkdir()
        try:
            yield ground
        finally:
            ground.clear()


@contextlib.contextmanager
def over(shape: netem.Shape) -> Iterator[Ground]:
    """Give the two ends of an emulated link."""
    with _work() as work, netem.Network(shape) as network:
        near, far = Namespace(network, "near"), Namespace(network, "far")
        source = work / "source"
        source.mkdir()
        ground = Ground(near=near, far=far, host=netem.FAR_ADDRESS, source=source, work=work, network=network)
        try:
            yield ground
        finally:
            ground.clear()
