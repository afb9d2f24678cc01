"""Trees of files, the same for the same seed."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

ODD_NAMES: dict[bytes, bytes] = {
    b"latin-1-\xe9t\xe9.txt": b"not UTF-8\n",
    b"new\nline.txt": b"a newline\n",
    b"n" * 255: b"255 bytes\n",
    b"empty": b"",
    b" leading and trailing ": b"spaces\n",
    b"percent%2Fslash%00.txt": b"percent\n",
    b"quote\"'`$;&|.txt": b"shell\n",
    "schüler-学习.json".encode(): b"{}",
    b"-rf": b"dash\n",
    b"tab\tbell\x07.txt": b"control\n",
    b"back\\slash": b"backslash\n",
}


def noise(chance: random.Random, size: int) -> bytes:
    """Return bytes that no compression makes smaller."""
    return chance.randbytes(size)


def log_lines(chance: random.Random, size: int) -> bytes:
    """Return about `size` bytes of learning records, which compress to about a third."""
    lines: list[bytes] = []
    length = 0
    while length < size:
        line = json.dumps(
            {
                "actor": f"learner-{chance.randrange(400)}",
                "verb": chance.choice(("answered", "viewed", "completed", "paused")),
                "object": f"unit-{chance.randrange(60)}/task-{chance.randrange(2000)}",
                "score": round(chance.random(), 12),
                "duration_ms": chance.randrange(90_000),
                "id": f"{chance.getrandbits(128):032x}",
            }
        ).encode()
        lines.append(line)
        length += len(line) + 1
    return b"\n".join(lines)[:size]


def write(root: Path, files: dict[bytes, bytes]) -> None:
    """Write files by raw relative path, making directories as needed."""
    for name, content in files.items():
        path = os.fsencode(root) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)


def small(seed: int, count: int = 12, largest: int = 300_000) -> dict[bytes, bytes]:
    """Return a small tree: mostly small files that do not compress, one of `largest` bytes, one empty."""
    chance = random.Random(seed)
    files = {
        f"unit-{chance.randrange(3)}/file-{index:03}.bin".encode(): noise(chance, chance.randrange(1, 20_000))
        for index in range(count - 2)
    }
    files[b"large.bin"] = noise(chance, largest)
    files[b"empty.bin"] = b""
    return files


def read(root: Path) -> dict[bytes, bytes]:
    """Return every regular file below `root` by raw relative path."""
    found: dict[bytes, bytes] = {}
    top = os.fsencode(root)
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, top)] = file.read()
    return found
