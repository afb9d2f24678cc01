"""What the status socket sees of the running daemon, and what it may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pisyncd.activities.cycle import SyncCycle
from pisyncd.activities.lanes import Lanes
from pisyncd.activities.place import Mode
from pisyncd.activities.prober import Prober
from pisyncd.activities.receiver import Receiver
from pisyncd.activities.spool import Spool
from pisyncd.activities.syncnow import SyncNow
from pisyncd.activities.watcher import Watcher
from pisyncd.activities.way import Way
from pisyncd.config import Config
from pisyncd.gateway.ports import LinkView, RootView, SpoolView, TransferView
from pisyncd.outbox import Outbox
from pisyncd.runtime.activity import Pulse
from pisyncd.runtime.clock import Clock

MODES: dict[Mode, Literal["starting", "watching", "polling", "waiting"]] = {
    "starting": "starting",
    "inotify": "watching",
    "polling": "polling",
    "missing": "waiting",
}
HINTS = {
    "none": "switch the Wi-Fi on, plug the cable in, or bring a hotspot",
    "link": "wait a moment, the cloud is being looked for",
    "portal": "open the portal's page in a browser on this network and sign in",
    "limited": "the network is there but the cloud is not: check DNS, the Internet, cloud.url",
    "full": "",
}


class RunningDevice:
    """Implements gateway.ports.Device over the parts that the composition root made."""

    def __init__(
        self,
        *,
        config: Config,
        clock: Clock,
        outbox: Outbox,
        way: Way,
        lanes: Lanes,
        watcher: Watcher,
        cycle: SyncCycle,
        pulse: Pulse,
        prober: Prober,
        spool: Spool,
        receiver: Receiver,
        sync_now: SyncNow,
    ) -> None:
        self.config = config
        self.clock = clock
        self.config_fault = ""
        self.intake_fault = ""
        self.enrolment_fault = ""
        self._outbox = outbox
        self._way = way
        self._lanes = lanes
        self._watcher = watcher
        self._cycle = cycle
        self._spool = spool
        self._receiver = receiver
        self._sync_now = sync_now
        self.prober = prober
        self.pulse = pulse

    def link(self) -> LinkView:
        now, way = self._outbox.db.now_ms(), self._way
        open_s = max(0.0, (way.breaker.due_at_ms - now) / 1000) if way.breaker.failures else 0.0
        return LinkView(
            state=way.link.state,
            reason=way.link.reason,
            hint=HINTS[way.link.state],
            portal_url=way.link.portal_url,
            since_s=(now - way.link_since_ms) / 1000,
            probed_ago_s=None if way.probed_at_ms is None else (now - way.probed_at_ms) / 1000,
            proven_ago_s=None if way.proven_at_ms is None else (now - way.proven_at_ms) / 1000,
            goodput_bps=self._lanes.uplink.goodput.known_bps,
            backoff_s=open_s,
            backoff_reason=way.breaker_error.detail if way.breaker_error else "",
            fault_code=way.breaker_error.code if way.breaker_error else "",
            fault_hint=way.breaker_error.hint if way.breaker_error else "",
        )

    def transfers(self) -> Sequence[TransferView]:
        return [
            TransferView(
                id=moving.transfer.id, offset=moving.offset, length=moving.transfer.length, rate_bps=moving.rate_bps
            )
            for moving in self._lanes.moving.values()
        ]

    def roots(self) -> Sequence[RootView]:
        return [
            RootView(
                name=root.name,
                path=str(root.path),
                state=MODES[root.mode],
                detail=root.warning,
                hint=root.hint,
                settling=root.settling,
                scanned_ago_s=root.scanned_ago_s,
            )
            for root in self._watcher.status
        ]

    def spool(self) -> SpoolView:
        status = self._spool.status
        return SpoolView(
            path=str(self.config.intake_dir), files=status.files, paused=status.paused, refused=status.refused
        )

    def settling_s(self, root: str, path: bytes) -> float | None:
        return self._watcher.settling_s(root, path)

    def late(self) -> Sequence[str]:
        return self.pulse.late()

    def paused(self) -> bool:
        return self._way.paused

    async def pause(self) -> None:
        await self._way.set_paused(True)

    async def resume(self) -> None:
        await self._way.set_paused(False)

    async def retry(self, file_id: int | None) -> int:
        count = await self._outbox.files.retry(file_id)
        await self._way.reset()
        return count

    def sync(self) -> None:
        self._cycle.ask()
        self.prober.asked(curious=False)
        self._receiver.ask()

    async def sync_record(self, record_type: str, record_id: str) -> str:
        return await self._sync_now.record(record_type, record_id)

    def probe(self) -> None:
        self.prober.asked(curious=True)

    def status_line(self) -> str:
        """One line for `systemctl status`: the link, what moves, what is wrong."""
        parts = [f"link {self._way.link.state}", f"{self._lanes.counters.files_synced} files sent since start"]
        if self._lanes.moving:
            parts.append(f"{len(self._lanes.moving)} transfers under way")
        if self.paused():
            parts.append("paused")
        if self.config_fault:
            parts.append("new configuration refused")
        return ", ".join(parts)

    async def close_cycle(self) -> None:
        """What happened until the end is told."""
        await self._cycle.close()

    def close(self) -> None:
        """Gives back what the watchers hold."""
        self._watcher.close()
        self._spool.close()
