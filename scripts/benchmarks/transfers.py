"""How long whole trees take, on a LAN and on a bad link, next to others in the same run."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence

from rig.link import FaultyLink
from rig.wait import until

from benchmarks import netem, ours, trees
from benchmarks.ground import Ground, free_port, loopback, over
from benchmarks.result import Options, Result, Skipped
from benchmarks.syncthing import SYNCTHING
from benchmarks.theirs import PLAIN, RCLONE, RESTIC, RSYNC, RSYNC_DURABLE, UNISON, Tool

Line = Result | Skipped

MB = 1_000_000
SENDING_MB_MAX = 80.0


def compare(
    name: str, ground: Ground, options: Options, tools: Sequence[Tool], our_seconds: float, *, patient: bool = False
) -> Iterator[Line]:
    """Measure the others on the same tree; one that is missing or fails is named with the reason."""
    for tool in () if options.alone else tools:
        missing = tool.missing()
        if missing:
            yield Skipped(benchmark=name, tool=tool.name, reason=missing)
            continue
        before = ground.network.restart_schedule() if ground.network else None
        try:
            seconds = tool.send(ground, patient)
        except (OSError, RuntimeError, AssertionError) as error:
            yield Skipped(benchmark=name, tool=tool.name, reason=f"{type(error).__name__}: {error}"[:500])
            continue
        finally:
            ground.clear()
        details = {}
        if ground.network and before:
            details["up_stream_bytes"] = ground.network.count().up_stream_bytes - before.up_stream_bytes
        yield Result(
            benchmark=name,
            tool=tool.name,
            metric="seconds",
            value=seconds,
            unit="s",
            ratio=our_seconds / seconds,
            details=details,
        )


def _lan(name: str, count: int, total: int, limit_s: float, options: Options, tools: Sequence[Tool]) -> Iterator[Line]:
    with loopback() as ground:
        trees.lan(ground.source, count, total)
        delivery = ours.deliver(ground)
        yield Result(
            benchmark=name,
            metric="seconds",
            value=delivery.seconds,
            unit="s",
            bound="at_most",
            limit=limit_s,
            details={"files": count, "bytes": total, "link": "loopback", "durable": "fsync before the answer"},
        )
        yield Result(
            benchmark=name, metric="peak_rss", value=delivery.peak_mb, unit="MB", bound="at_most", limit=SENDING_MB_MAX
        )
        yield from compare(name, ground, options, tools, delivery.seconds)


def lan_5000(options: Options) -> Iterator[Line]:
    """5,000 files, 195 MB, first time, on loopback."""
    others = [RSYNC, RSYNC_DURABLE, PLAIN, SYNCTHING, UNISON, *([RESTIC, RCLONE] if options.thorough else [])]
    yield from _lan("lan-5000", 5_000, 195 * MB, 9.0, options, others)


def lan_50000(options: Options) -> Iterator[Line]:
    """50,000 files, 268 MB, first time, on loopback."""
    others = [RSYNC, RSYNC_DURABLE, PLAIN, UNISON, *([SYNCTHING, RESTIC] if options.thorough else [])]
    yield from _lan("lan-50000", 50_000, 268 * MB, 45.0, options, others)


SLOW = netem.Shape(rate_bps=1_000_000, delay_s=0.15, loss=0.01)
FLAKY = netem.Shape(rate_bps=1_000_000, delay_s=0.15, loss=0.01, period_s=30.0, down_s=10.0)


def _shape(shape: netem.Shape) -> dict[str, object]:
    return {
        "rate_bps": shape.rate_bps,
        "round_trip_s": shape.delay_s * 2,
        "loss": shape.loss,
        "down_s_of_each_s": [shape.down_s, shape.period_s],
        "congestion": shape.congestion,
        "seed": shape.seed,
    }


def slow_link(options: Options) -> Iterator[Line]:
    """129 files, 4.9 MB, at 1 Mbit/s, 300 ms and 1 % loss."""
    reason = netem.available()
    if reason:
        yield Skipped(benchmark="slow-link", tool="pisync", reason=reason)
        return
    with over(SLOW) as ground:
        trees.slow(ground.source)
        delivery = ours.deliver(ground)
        yield Result(
            benchmark="slow-link",
            metric="seconds",
            value=delivery.seconds,
            unit="s",
            bound="at_most",
            limit=38.0,
            details={**_shape(SLOW), "up_stream_bytes": delivery.up_stream_bytes},
        )
        others = [RSYNC, SYNCTHING, RESTIC, *([RCLONE] if options.thorough else [])]
        yield from compare("slow-link", ground, options, others, delivery.seconds)


def flaky_link(options: Options) -> Iterator[Line]:
    """The same, down 10 s of each 30 s; the bytes are compared with those of the link that is always up."""
    reason = netem.available()
    if reason:
        yield Skipped(benchmark="flaky-link", tool="pisync", reason=reason)
        return
    with over(SLOW) as ground:
        trees.slow(ground.source)
        steady = ours.deliver_running(ground)
    with over(FLAKY) as ground:
        trees.slow(ground.source)
        delivery = ours.deliver_running(ground)
        details = {**_shape(FLAKY), "up_stream_bytes": delivery.up_stream_bytes}
        yield Result(
            benchmark="flaky-link",
            metric="seconds",
            value=delivery.seconds,
            unit="s",
            bound="at_most",
            limit=70.0,
            details=details,
        )
        yield Result(
            benchmark="flaky-link",
            metric="bytes_ratio",
            value=delivery.up_stream_bytes / steady.up_stream_bytes,
            unit="of the same work on the steady link",
            bound="at_most",
            limit=1.03,
            details={**details, "steady_bytes": steady.up_stream_bytes, "steady_seconds": round(steady.seconds, 2)},
        )
        others = [SYNCTHING, RSYNC, RESTIC, *([RCLONE] if options.thorough else [])]
        yield from compare("flaky-link", ground, options, others, delivery.seconds, patient=True)


def kill_resend(options: Options) -> Iterator[Line]:
    """50 MB at 1 MB/s, kill -9 half way: what is sent again."""
    size = 50 * MB
    with loopback() as ground:
        (ground.source / "lesson.mp4").write_bytes(random.Random(9).randbytes(size))
        with FaultyLink(("127.0.0.1", 1)) as link, ours.pair(ground, url=link.url) as (cloud, device):
            link.retarget(cloud.address)
            link.throttle(1 * MB)
            device.begin_once()
            until("half is sent", lambda: link.up_bytes >= size // 2, within_s=120)
            device.kill()
            code = device.once(within_s=300)
            if code != 0:
                raise RuntimeError(f"pisyncd once ended with {code}\n{device.process.tail()}")
            ours.check(cloud, ground.source)
            yield Result(
                benchmark="kill-resend",
                metric="sent_again",
                value=(link.up_bytes - size) / MB,
                unit="MB",
                bound="at_most",
                limit=8 * 1024 * 1024 / MB,
                details={"bytes": size, "rate_bytes_per_s": MB, "limit_is": "one chunk of transfer.chunk_bytes_max"},
            )
        if options.thorough and not options.alone:
            yield from _rclone_killed(ground, size)


def _rclone_killed(ground: Ground, size: int) -> Iterator[Line]:
    missing = RCLONE.missing()
    if missing:
        yield Skipped(benchmark="kill-resend", tool="rclone", reason=missing)
        return
    copy, port = ground.scratch("rclone"), free_port()
    serve = ["rclone", "serve", "webdav", str(copy), f"--addr={ground.host}:{port}"]
    ground.serve("rclone-serve", serve, port=port)
    with FaultyLink(("127.0.0.1", port)) as link:
        link.throttle(1 * MB)
        config = ground.work / "rclone.conf"
        config.write_text(f"[far]\ntype = webdav\nurl = {link.url}\nvendor = other\n")
        command = ["rclone", "copy", f"--config={config}", str(ground.source), "far:"]
        child = ground.serve("rclone", command, side="near")
        until("half is sent", lambda: link.up_bytes >= size // 2, within_s=120)
        child.kill()
        worker = threading.Thread(target=ground.run, args=(command,))
        worker.start()
        worker.join(300)
        yield Result(
            benchmark="kill-resend", tool="rclone", metric="sent_again", value=(link.up_bytes - size) / MB, unit="MB"
        )
