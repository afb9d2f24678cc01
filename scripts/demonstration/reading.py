"""What the status socket's answer means for the progress shown. No I/O."""

from __future__ import annotations

from typing import Any

from progress import Progress

PATH_SHOWN = 28


def owed(status: dict[str, Any]) -> tuple[int, int]:
    """(files, bytes) not yet in the cloud; what is already across of a transfer under way does not count."""
    files = status["queue"]["files"]
    moved = sum(transfer["offset"] for transfer in status["transfers"])
    return files["count"], max(files["bytes"] - moved, 0)


def messages(status: dict[str, Any]) -> int:
    """How many messages wait."""
    count: int = status["queue"]["messages"]["count"]
    return count


def doing(status: dict[str, Any]) -> str:
    """A few words: the file that moves, or why nothing does."""
    if status["transfers"]:
        moving = status["transfers"][0]
        if moving["files"] > 1:
            return f"bundle of {moving['files']:,} files"
        path = str(moving["path"]).rsplit("/", 1)[-1]
        return path if len(path) <= PATH_SHOWN else path[: PATH_SHOWN - 2] + ".."
    if status["link"]["state"] != "full" and status["queue"]["files"]["count"]:
        return f"link: {status['link']['reason'] or status['link']['state']}"
    settling = sum(root["settling"] for root in status["roots"])
    return f"{settling:,} settling" if settling else ""


def under_way(status: dict[str, Any], failures: list[dict[str, Any]]) -> bool:
    """Whether something is owed that did not fail yet; what failed for the present is owed all the same."""
    postponed = sum(1 for failure in failures if not failure["final"])
    return bool(status["transfers"] or status["queue"]["files"]["count"] > postponed)


def scanned(status: dict[str, Any]) -> bool:
    """Whether every root has been read once and nothing waits to become quiet."""
    return all(root["scanned_ago_s"] is not None and not root["settling"] for root in status["roots"])


class Found:
    """Keeps the totals of a delivery while files come and go."""

    def __init__(self, files: int, size: int) -> None:
        self._files = files
        self._bytes = size
        self._begun = False

    def progress(self, status: dict[str, Any]) -> Progress:
        """The state of the delivery as of `status`; before the first scan everything found is still owed."""
        owed_files, owed_bytes = owed(status)
        self._files = max(self._files, owed_files)
        self._bytes = max(self._bytes, owed_bytes)
        self._begun = self._begun or bool(owed_files) or scanned(status)
        if not self._begun:
            owed_files, owed_bytes = self._files, self._bytes
        rates = [transfer["rate_bps"] for transfer in status["transfers"] if transfer["rate_bps"]]
        return Progress(
            files=self._files,
            bytes=self._bytes,
            owed_files=owed_files,
            owed_bytes=owed_bytes,
            rate_bps=sum(rates) or None,
            now=doing(status),
        )
