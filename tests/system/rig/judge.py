"""What "everything is there exactly once, byte for byte" means, in one place."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import trees
from .cloud import Cloud, sha256
from .device import Device


def learning(device: Device) -> Path:
    """Return the directory that the device watches."""
    return device.root / "learning"


def wire_paths(files: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return files of the watched directory by the path that the cloud knows them by."""
    return {b"learning/" + name: content for name, content in files.items()}


def holds(cloud: Cloud, device: Device, files: Mapping[bytes, bytes]) -> bool:
    """Tell whether the cloud has the current content of these files (relative to the watched directory)."""
    stored = cloud.files(device.device_id)
    return all(path in stored and stored[path].sha256 == sha256(content) for path, content in wire_paths(files).items())


def delivered(cloud: Cloud, device: Device) -> None:
    """Raise AssertionError unless the cloud serves the watched directory, whole, and nothing of it twice."""
    want = wire_paths(trees.read(learning(device)))
    have = cloud.files(device.device_id)
    assert set(have) == set(want), f"missing {set(want) - set(have)}, surplus {set(have) - set(want)}"
    for path, content in want.items():
        stored = have[path]
        assert (stored.size, stored.sha256) == (len(content), sha256(content)), path
        assert cloud.content(device.device_id, path) == content, path
        assert stored.versions == 1, f"{path!r} has {stored.versions} versions"
    history_holds(cloud, device)


def history_holds(cloud: Cloud, device: Device) -> list[dict[str, Any]]:
    """Return the sync history after checking that no event is in it twice and no number is left out."""
    history = cloud.history(device.device_id)
    for field in ("event_id", "seq"):
        counts = collections.Counter(event[field] for event in history if event.get(field) is not None)
        assert not [value for value, count in counts.items() if count > 1], (field, history)
    numbers = sorted(event["seq"] for event in history if event.get("seq") is not None)
    assert numbers == list(range(1, len(numbers) + 1)), numbers
    return history
