"""Syncthing as a side of a comparison: two instances that talk to each other only, with its waits shortened."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from rig import place
from rig.wait import until

from benchmarks.ground import Ground, free_port
from benchmarks.theirs import Tool

_API_KEY = "benchmark"

_CONFIG = """<configuration version="36">
  <folder id="bench" label="bench" path={path} type={kind} rescanIntervalS="3600" fsWatcherEnabled="true"
          fsWatcherDelayS={delay} ignorePerms="true">
    <device id={own}></device><device id={other}></device>
  </folder>
  <device id={own} name="own"><address>dynamic</address></device>
  <device id={other} name="other" compression="always"><address>{address}</address></device>
  <gui enabled="true" tls="false"><address>{gui}</address><apikey>{key}</apikey></gui>
  <options>
    <listenAddress>{listen}</listenAddress>
    <globalAnnounceEnabled>false</globalAnnounceEnabled><localAnnounceEnabled>false</localAnnounceEnabled>
    <relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled><startBrowser>false</startBrowser>
    <urAccepted>-1</urAccepted><autoUpgradeIntervalH>0</autoUpgradeIntervalH>
    <crashReportingEnabled>false</crashReportingEnabled><reconnectionIntervalS>1</reconnectionIntervalS>
    <setLowPriority>false</setLowPriority><stunServer></stunServer>
  </options>
</configuration>
"""


class Node:
    """One Syncthing instance."""

    def __init__(self, ground: Ground, name: str, side: str, folder: Path, kind: str) -> None:
        """Make its keys and learn its id."""
        self.ground, self.name, self.side, self.folder, self.kind = ground, name, side, folder, kind
        self.home = ground.scratch(f"syncthing-{name}")
        self.gui_port, self.port = free_port(), free_port()
        made = subprocess.run(
            ["syncthing", "generate", "--no-default-folder", f"--home={self.home}"],
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(r"[A-Z0-9]{7}(-[A-Z0-9]{7}){7}", made.stdout + made.stderr)
        if found is None:
            raise RuntimeError(f"syncthing generate said no id: {made.stderr}")
        self.id = found.group()
        self.where = ground.near if side == "near" else ground.far

    def start(self, other: Node, listen_host: str | None, delay_s: int) -> None:
        """Write the configuration and start it."""
        values = {name: quoteattr(str(value)) for name, value in self._attributes(other, delay_s).items()}
        (self.home / "config.xml").write_text(
            _CONFIG.format(
                **values,
                address=f"tcp://{self.ground.host}:{other.port}" if self.side == "near" else "dynamic",
                gui=f"127.0.0.1:{self.gui_port}",
                key=_API_KEY,
                listen=f"tcp://{listen_host}:{self.port}" if listen_host else f"tcp://127.0.0.1:{self.port}",
            )
        )
        self.process = self.ground.serve(
            f"syncthing-{self.name}", ["syncthing", "serve", "--no-browser", f"--home={self.home}"], side=self.side
        )
        self.process.ready("answers", lambda: self.get("/rest/system/ping"), 60)

    def _attributes(self, other: Node, delay_s: int) -> dict[str, object]:
        return {"path": self.folder, "kind": self.kind, "delay": delay_s, "own": self.id, "other": other.id}

    def get(self, path: str, **query: str) -> Any:
        """Return what its REST interface says."""
        address = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        return place.ask(
            lambda: self.where.connect("127.0.0.1", self.gui_port, 10), "GET", address, headers={"X-API-Key": _API_KEY}
        ).json()


def pair(ground: Ground, folder: Path, copy: Path, delay_s: int = 1) -> tuple[Node, Node]:
    """Start a sending and a receiving instance; the sender connects."""
    near = Node(ground, "near", "near", folder, "sendonly")
    far = Node(ground, "far", "far", copy, "receiveonly")
    (copy / ".stfolder").mkdir(exist_ok=True)
    (folder / ".stfolder").mkdir(exist_ok=True)
    far.start(near, ground.host, delay_s)
    near.start(far, None, delay_s)
    return near, far


def complete(node: Node, files: int) -> Callable[[], bool]:
    """Return a check that is true when the receiver holds this many files and needs none."""

    def check() -> bool:
        state = node.get("/rest/db/status", folder="bench")
        return bool(state.get("localFiles", 0) >= files and state.get("needFiles", 1) == 0)

    return check


def send(ground: Ground, patient: bool) -> float:
    """Send the source tree; the time runs from the start of the sender until the receiver has everything."""
    del patient
    copy = ground.scratch("syncthing-copy")
    files = sum(1 for path in ground.source.rglob("*") if path.is_file())
    near = Node(ground, "near", "near", ground.source, "sendonly")
    far = Node(ground, "far", "far", copy, "receiveonly")
    (ground.source / ".stfolder").mkdir(exist_ok=True)
    (copy / ".stfolder").mkdir(exist_ok=True)
    far.start(near, ground.host, 1)
    if ground.network:
        ground.network.restart_schedule()
    started = time.perf_counter()
    try:
        near.start(far, None, 1)
        until("syncthing has sent everything", complete(far, files), within_s=ground.deadline_s, poll_s=0.25)
    finally:
        elapsed = time.perf_counter() - started
        (ground.source / ".stfolder").rmdir()
    return elapsed


SYNCTHING = Tool(name="syncthing", commands=("syncthing",), packages=("syncthing",), send=send)
