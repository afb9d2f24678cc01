"""The same work done by others, where they are installed, so that a ratio comes from one run on one machine."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import trees
from benchmarks.ground import Ground, free_port


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tool:
    """Another tool: the commands and Debian packages it needs, and how it sends the ground's source tree.

    `send` returns the seconds that it took; with `patient` true it tries again until everything has arrived.
    """

    name: str
    commands: tuple[str, ...]
    packages: tuple[str, ...]
    send: Callable[[Ground, bool], float]

    def missing(self) -> str | None:
        """Return why it cannot run here, or None."""
        absent = [command for command in self.commands if shutil.which(command) is None]
        if not absent:
            return None
        return f"{', '.join(absent)} not installed; scripts/bench --install gets {' '.join(self.packages)} from Debian"


class WrongCopyError(RuntimeError):
    """The other tool said that it was done, and the copy is not the same."""


def _send(ground: Ground, command: list[str], patient: bool) -> float:
    return ground.run_until_done(command) if patient else ground.run(command)


def _checked(ground: Ground, copy: Path, seconds: float) -> float:
    if not trees.same(ground.source, copy):
        raise WrongCopyError(str(copy))
    return seconds


def rsync(ground: Ground, patient: bool, *more: str) -> float:
    """Send with rsync -az to an rsync daemon; -a alone on loopback, where compression only costs."""
    copy, port = ground.scratch("rsync"), free_port()
    config = ground.work / "rsyncd.conf"
    config.write_text(
        f"use chroot = no\nreverse lookup = no\nuid = root\ngid = root\n"
        f"[copy]\npath = {copy}\nread only = no\nignore nonreadable = no\n"
    )
    daemon = ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={port}", f"--address={ground.host}"]
    ground.serve("rsyncd", daemon, port=port)
    how = ["-az"] if ground.network else ["-a"]
    how += [*more, *(["--partial", "--timeout=10"] if patient else [])]
    return _checked(
        ground,
        copy,
        _send(ground, ["rsync", *how, f"{ground.source}/", f"rsync://{ground.host}:{port}/copy/"], patient),
    )


def rsync_durable(ground: Ground, patient: bool) -> float:
    """The same with --fsync: what is done is on the disk, as with PiSync."""
    return rsync(ground, patient, "--fsync")


def rclone(ground: Ground, patient: bool) -> float:
    """Send with rclone copy to rclone serve webdav, eight transfers at once."""
    copy, port = ground.scratch("rclone"), free_port()
    config = ground.work / "rclone.conf"
    config.write_text(f"[far]\ntype = webdav\nurl = http://{ground.host}:{port}\nvendor = other\n")
    ground.serve("rclone-serve", ["rclone", "serve", "webdav", str(copy), f"--addr={ground.host}:{port}"], port=port)
    command = ["rclone", "copy", f"--config={config}", "--transfers=8", "--checkers=8", str(ground.source), "far:"]
    return _checked(ground, copy, _send(ground, command, patient))


def unison(ground: Ground, patient: bool) -> float:
    """Send with unison over its own socket."""
    copy, port = ground.scratch("unison"), free_port()
    program = "unison-text" if shutil.which("unison-text") else "unison"
    ground.serve("unison-server", [program, "-socket", str(port), "-host", ground.host], port=port)
    roots = [str(ground.source), f"socket://{ground.host}:{port}/{copy}"]
    command = [program, *roots, "-batch", "-auto", "-confirmbigdel=false", "-ui", "text", "-contactquietly"]
    return _checked(ground, copy, _send(ground, command, patient))


def restic(ground: Ground, patient: bool) -> float:
    """Back up with restic to rclone serve restic; the repository is made before the clock starts."""
    store, port = ground.scratch("restic"), free_port()
    password = ground.work / "restic-password"
    password.write_text("benchmark")
    serve = ["rclone", "serve", "restic", str(store), f"--addr={ground.host}:{port}"]
    ground.serve("restic-server", serve, port=port)
    repository = ["-r", f"rest:http://{ground.host}:{port}/", f"--password-file={password}"]
    ground.run_until_done(["restic", *repository, "init"])
    if ground.network:
        ground.network.restart_schedule()
    return _send(ground, ["restic", *repository, "backup", "--no-cache", str(ground.source)], patient)


def plain_copy(ground: Ground, patient: bool) -> float:
    """Copy on the same disk with fsync of each file: what the disk alone costs. Not over a link."""
    del patient
    copy = ground.scratch("plain-copy")
    script = (
        "import os,sys,shutil\n"
        "s,d=sys.argv[1:]\n"
        "for f,_,ns in os.walk(s):\n"
        "  t=os.path.join(d,os.path.relpath(f,s)); os.makedirs(t,exist_ok=True)\n"
        "  for n in ns:\n"
        "    with open(os.path.join(f,n),'rb') as a, open(os.path.join(t,n),'wb') as b:\n"
        "      shutil.copyfileobj(a,b); b.flush(); os.fsync(b.fileno())\n"
    )
    return _checked(ground, copy, ground.run([sys.executable, "-c", script, os.fspath(ground.source), os.fspath(copy)]))


RSYNC = Tool(name="rsync", commands=("rsync",), packages=("rsync",), send=rsync)
RSYNC_DURABLE = Tool(name="rsync-fsync", commands=("rsync",), packages=("rsync",), send=rsync_durable)
RCLONE = Tool(name="rclone", commands=("rclone",), packages=("rclone",), send=rclone)
UNISON = Tool(name="unison", commands=("unison",), packages=("unison",), send=unison)
RESTIC = Tool(name="restic", commands=("restic", "rclone"), packages=("restic", "rclone"), send=restic)
PLAIN = Tool(name="copy-fsync", commands=(), packages=(), send=plain_copy)
