"""The trees that are sent, the same on every machine: sizes, and how well they compress, are part of the figure."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

_WRITTEN_AT_S = 1_780_000_000

_LINE = (
    b'{"actor":"learner-%s","verb":"answered","object":"unit-%s/task-%s","result":{"score":%d,"success":true},'
    b'"context":{"platform":"pibook","language":"en"},"id":"%s"}\n'
)


def text(chance: random.Random, size: int) -> bytes:
    """Return learning records as JSON lines; they compress to about a fifth."""
    lines = []
    for _ in range(size // 190 + 1):
        hexes = chance.randbytes(24).hex().encode()
        lines.append(_LINE % (hexes[:3], hexes[3:5], hexes[5:8], hexes[9] % 100, hexes[8:]))
    return b"".join(lines)[:size]


def noise(chance: random.Random, size: int) -> bytes:
    """Return what images and videos look like to a compressor."""
    return chance.randbytes(size)


def _sizes(chance: random.Random, count: int, total: int) -> list[int]:
    """Return `count` sizes that sum to `total`, most of them small, some large."""
    weights = [chance.lognormvariate(0, 1.0) for _ in range(count)]
    scale = total / sum(weights)
    sizes = [max(1, int(weight * scale)) for weight in weights]
    sizes[0] += total - sum(sizes)
    return sizes


def _write(root: Path, files: Iterator[tuple[str, bytes]]) -> None:
    made: set[Path] = set()
    for name, content in files:
        path = root / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(content)
        # Written some time ago, so that nobody waits for it to become quiet.
        os.utime(path, (_WRITTEN_AT_S, _WRITTEN_AT_S))


def lan(root: Path, count: int, total: int, seed: int = 5) -> None:
    """Write `count` files of `total` bytes, half of them text, in folders of a hundred."""
    chance = random.Random(seed)
    sizes = _sizes(chance, count, total)

    def files() -> Iterator[tuple[str, bytes]]:
        for index, size in enumerate(sizes):
            kind: Callable[[random.Random, int], bytes] = text if index % 2 else noise
            yield f"school/{index // 100:04}/file-{index:06}.{'jsonl' if index % 2 else 'jpg'}", kind(chance, size)

    _write(root, files())


def slow(root: Path, seed: int = 7) -> None:
    """Write 129 files, 4.9 MB: 100 logs, 28 images, one video-like file; 3.6 MB when compressed."""
    chance = random.Random(seed)
    logs = _sizes(chance, 100, 1_580_000)
    images = _sizes(chance, 28, 2_320_000)

    def files() -> Iterator[tuple[str, bytes]]:
        for index, size in enumerate(logs):
            yield f"logs/day-{index:03}.jsonl", text(chance, size)
        for index, size in enumerate(images):
            yield f"images/photo-{index:03}.jpg", noise(chance, size)
        yield "video/lesson.mp4", noise(chance, 1_000_000)

    _write(root, files())


def same(left: Path, right: Path) -> bool:
    """Tell whether two trees hold the same files with the same bytes."""

    def names(root: Path) -> set[Path]:
        return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}

    common = names(left)
    return common <= names(right) and all((left / name).read_bytes() == (right / name).read_bytes() for name in common)
