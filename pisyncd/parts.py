"""The composition root of the device: which parts there are, and how they are wired to each other."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pisyncd import config as settings
from pisyncd import meters
from pisyncd.activities.clerk import Clerk
from pisyncd.activities.cycle import SyncCycle
from pisyncd.activities.finisher import Finisher
from pisyncd.activities.janitor import Janitor
from pisyncd.activities.lanes import Lanes
from pisyncd.activities.orders import Orders
from pisyncd.activities.preparing import Preparer, PrepareRules
from pisyncd.activities.prober import Prober
from pisyncd.activities.receiver import Receiver
from pisyncd.activities.rescuer import Rescuer
from pisyncd.activities.sampler import Sampler
from pisyncd.activities.sender import Sender
from pisyncd.activities.spool import REFUSED, Spool
from pisyncd.activities.syncnow import SyncNow
from pisyncd.activities.uploader import Lane
from pisyncd.activities.watchdog import Watchdog
from pisyncd.activities.watcher import Watcher
from pisyncd.activities.way import Way, WayRules
from pisyncd.config import Config
from pisyncd.core import backoff, link, plan, pull, transfer, vitals
from pisyncd.device import RunningDevice
from pisyncd.gateway import describing
from pisyncd.meters import Goodput
from pisyncd.outbox import Outbox
from pisyncd.renewing import Renewing
from pisyncd.runtime.activity import Activity, Pulse, Soon, Stop, beat
from pisyncd.runtime.notify import Notifier
from pisyncd.uplink import Uplink

SPOOL = "spool"
OUTGOING = "outgoing"
ARRIVED_S = 1.0
WRITTEN_S = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What one run is made of."""

    device: RunningDevice
    activities: Sequence[Activity]
    finisher: Finisher
    uplink: Uplink
    way: Way
    lanes: Lanes
    janitor: Janitor

    async def load(self) -> None:
        """Goes on where the last run left off. Before the activities begin."""
        await self.way.load()
        await self.lanes.load()
        await self.janitor.sweep_spool()


def compose(config: Config, token: str, outbox: Outbox, stop: Stop, notifier: Notifier, *, once: bool) -> Parts:
    """The parts of one run; `once`: of one cycle that ends by itself."""
    clock = outbox.db.clock
    pulse = Pulse(clock.boottime_ms)
    way = Way(outbox, _way_rules(config))
    uplink = _uplink(config, token, outbox, way)
    lanes = _lanes(config, outbox, way, uplink, stop)
    sender = _sender(config, outbox, way, uplink, once=once)
    receiver = _receiver(config, outbox, way, uplink, stop, sender, once=once)
    cycle = _cycle(config, outbox, lanes, sender, receiver, once=once)
    watcher = _watcher(config, outbox, way, pulse, once=once)
    prober = Prober(uplink, way, timeout_s=config.probe.timeout_s, owed=outbox.anything_owed)
    prober.looked = receiver.occasion
    janitor = Janitor(outbox, config.state_dir / SPOOL, config.intake_dir / REFUSED)
    clerk = _clerk(config, outbox, sender)
    spool = Spool(outbox, config.intake_dir)
    device = RunningDevice(
        config=config,
        clock=clock,
        outbox=outbox,
        way=way,
        lanes=lanes,
        watcher=watcher,
        cycle=cycle,
        pulse=pulse,
        prober=prober,
        spool=spool,
        receiver=receiver,
        sync_now=SyncNow(outbox, way, sender, receiver, stop),
    )
    sampler = Sampler(outbox, config.state_dir, told=sender.wake.set)
    orders = Orders(
        outbox,
        sampler,
        config.state_dir / OUTGOING,
        sync=device.sync,
        queued=way.rouse,
        describe=functools.partial(describing.parts, device, outbox),
    )
    sender.asked = orders.ask
    sender.renewed = Renewing(config, uplink, token).take
    finisher = Finisher(
        outbox=outbox,
        watcher=watcher,
        lanes=lanes,
        way=way,
        cycle=cycle,
        sender=sender,
        stop=stop,
        tries_max=config.sync.retries_max,
        settle_s=config.settle.force_s,
        spool=spool,
        receiver=receiver,
    )
    sender.forgotten = functools.partial(_forgotten, lanes, outbox)
    sender.stopping = lambda: bool(stop)
    lanes.doubted = finisher.look_again if once else watcher.look_again
    own: list[Activity] = [] if once else [spool, sampler, orders]
    itself = settings.own_token(config)
    if itself is not None and itself.token == token and not itself.accepted:
        # Only the few that are not in yet need it.
        from pisyncd.activities.enroller import Enroller

        told = functools.partial(setattr, device, "enrolment_fault")
        accepted = functools.partial(prober.asked, curious=False)
        own.append(Enroller(config, token, chance=random.random, accepted=accepted, told=told))
    activities: list[Activity] = [
        prober,
        *(
            Lane(number, lanes, stop, stall_s=config.transfer.stall_s)
            for number in range(1, config.transfer.parallel_max + 1)
        ),
        Rescuer(uplink),
        sender,
        receiver,
        cycle,
        finisher if once else watcher,
        janitor,
        clerk,
        *own,
        Watchdog(pulse, notifier, device.status_line, deadline_s=config.watchdog.deadline_s),
    ]
    return Parts(
        device=device,
        activities=activities,
        finisher=finisher,
        uplink=uplink,
        way=way,
        lanes=lanes,
        janitor=janitor,
    )


def _sender(config: Config, outbox: Outbox, way: Way, uplink: Uplink, *, once: bool) -> Sender:
    messages = config.messages
    outbox.messages.queue_max = messages.queue_max
    return Sender(outbox, uplink, way, batch_items=messages.batch_items, timeout_s=messages.timeout_s, patient=not once)


async def _forgotten(lanes: Lanes, outbox: Outbox) -> None:
    """The cloud has lost what it had acknowledged: files are looked at again, records are owed again."""
    await lanes.doubt()
    await outbox.records.repush()


def _receiver(
    config: Config, outbox: Outbox, way: Way, uplink: Uplink, stop: Stop, sender: Sender, *, once: bool
) -> Receiver:
    rule = pull.Rule(
        wait_s=0.0 if once else config.records.wait_s,
        spacing_s=config.sync.interval_s,
        idle_s=config.probe.idle_interval_s,
    )
    receiver = Receiver(
        outbox, uplink, way, stop, rule, types=config.records.types, timeout_s=config.messages.timeout_s
    )
    written = Soon(sender.wake, WRITTEN_S)

    def changed() -> None:
        written.set()
        receiver.noticed()

    outbox.records.changed = changed
    sender.met = receiver.expect
    return receiver


def _clerk(config: Config, outbox: Outbox, sender: Sender) -> Clerk:
    clerk = Clerk(outbox)
    room, intake = config.disk, outbox.intake
    intake.has_room = functools.partial(
        meters.above_floor, config.state_dir, room.free_floor_bytes, room.free_floor_percent
    )
    # The sender waits for company itself; a burst of events need not wake it for each of them.
    intake.arrived = Soon(sender.wake, ARRIVED_S).set
    intake.shed = outbox.db.damaged = clerk.wake.set

    def changed() -> None:
        intake.arrived()
        clerk.wake.set()

    outbox.sessions.changed = changed
    return clerk


def _cycle(
    config: Config, outbox: Outbox, lanes: Lanes, sender: Sender, receiver: Receiver, *, once: bool
) -> SyncCycle:
    def reported() -> None:
        sender.wake.set()
        receiver.occasion()

    cycle = SyncCycle(
        outbox,
        lanes.way,
        lanes.uplink.goodput,
        lanes.counters,
        device_id=config.device_id,
        interval_s=config.sync.interval_s,
        heartbeat_s=config.sync.heartbeat_s,
        scheduled=config.sync.scheduled and not once,
        reported=reported,
        owed=outbox.queue.anything_owed,
    )

    def delivered() -> None:
        cycle.wake.set()
        sender.wake.set()

    lanes.delivered = delivered
    sender.paced = cycle.pace
    return cycle


def _watcher(config: Config, outbox: Outbox, way: Way, pulse: Pulse, *, once: bool) -> Watcher:
    deadline_s = config.watchdog.deadline_s
    return Watcher(
        config.watch,
        config.settle,
        outbox.files,
        outbox.db.clock,
        wake_uploader=way.rouse,
        avoid=[config.state_dir, config.runtime_dir, config.intake_dir],
        # a slow card takes minutes to scan; each batch of a scan is progress
        beat=lambda: None if once else pulse.expect("watcher", deadline_s),
        deadline_s=deadline_s,
    )


def _way_rules(config: Config) -> WayRules:
    return WayRules(
        link=link.Rule(interval_s=config.probe.interval_s, idle_interval_s=config.probe.idle_interval_s),
        backoff=backoff.Policy(
            base_s=config.backoff.base_s,
            cap_s=config.backoff.cap_s,
            quick_retries=config.sync.retries_max,
            quick_s=config.sync.retry_delay_s,
        ),
        chunk=transfer.ChunkRule(
            target_s=config.transfer.chunk_target_s,
            bytes_min=config.transfer.chunk_bytes_min,
            bytes_max=config.transfer.chunk_bytes_max,
            bytes_start=config.transfer.chunk_bytes_start,
        ),
    )


def _uplink(config: Config, token: str, outbox: Outbox, way: Way) -> Uplink:
    return Uplink(
        url=config.cloud.url,
        token=token,
        connect_timeout_s=config.cloud.connect_timeout_s,
        stall_s=config.transfer.stall_s,
        ca_file=config.cloud.ca_file,
        seen=way.observe,
        told_time=outbox.db.clock.confirm,
        goodput=Goodput(),
    )


def _lanes(config: Config, outbox: Outbox, way: Way, uplink: Uplink, stop: Stop) -> Lanes:
    preparer = Preparer(
        outbox,
        {root.name: root.path for root in config.watch} | {vitals.OWN_ROOT: config.state_dir / OUTGOING},
        config.state_dir / SPOOL,
        PrepareRules(
            upload_bytes_max=config.transfer.upload_bytes_max,
            free_floor_bytes=config.disk.free_floor_bytes,
            free_floor_percent=config.disk.free_floor_percent,
            item_base_s=config.backoff.item_base_s,
            item_cap_s=config.backoff.item_cap_s,
            debounce_s=config.settle.debounce_s,
        ),
        random.random,
        _asking(stop),
    )
    rules = plan.Rules(
        file_bytes_max=config.transfer.bundle_file_bytes_max,
        bundle_bytes_max=config.transfer.bundle_bytes_max,
        entries_max=config.transfer.bundle_entries_max,
        target_s=config.transfer.chunk_target_s,
        parallel=config.transfer.parallel_max,
    )
    return Lanes(
        outbox=outbox,
        uplink=uplink,
        way=way,
        preparer=preparer,
        rules=rules,
        device_id=config.device_id,
        compress=config.transfer.compress,
    )


def _asking(stop: Stop) -> Callable[[], bool]:
    """Whether to stop. It is asked after every block of a long read, so asking is progress: hashing 60 GB takes an hour
    on a slow card, and without it the watchdog would end the daemon each time before the end."""

    def stopping() -> bool:
        beat()
        return bool(stop)

    return stopping
