"""The export's directory: what readers see is complete, durable and never half of anything.

    <root>/.lock                                            one exporter at a time
    <root>/.tmp/...                                         being written; no reader's glob matches these names
    <root>/<dataset>/event_date=YYYY-MM-DD/part-A-B.parquet published, replaced as a whole or removed
    <root>/<dataset>/_manifest.json                         exactly the published files

Every function blocks and is meant for a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from cloud.store.blobs import StorageFull, sync_directory
from pisyncd.core.errors import StorageBusy, TransientError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_COPY_BYTES = 1 << 20


class AlreadyExporting(TransientError):
    """Another export is running."""

    code = "already-exporting"
    hint = "wait until it has ended; `pisync-cloud export --status` tells how far it is"


@contextlib.contextmanager
def storage_faults() -> Iterator[None]:
    """Every failure of the file system passes: StorageFull when there is no room, otherwise StorageBusy."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(retry_after_s=60, hint="make room where export_dir is") from error
        raise StorageBusy(f"the export cannot be written: {error}", hint="look at export_dir and its rights") from error


class ExportDir:
    """A directory of Parquet files. `free_floor_bytes` is left free for everything else on its disk."""

    def __init__(self, root: Path, *, free_floor_bytes: int = 0) -> None:
        self.root = root
        self._temporary = root / ".tmp"
        self._floor = free_floor_bytes

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else exports here meanwhile, and leftovers are gone. Raises AlreadyExporting, StorageBusy."""
        with storage_faults():
            self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
            fd = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyExporting from error
            with storage_faults():
                shutil.rmtree(self._temporary, ignore_errors=True)
                self._temporary.mkdir(mode=0o750, exist_ok=True)
            yield
        finally:
            os.close(fd)

    def temporary(self, name: str) -> Path:
        """Where a file is written before it gets its own name."""
        return self._temporary / f"{name.replace('/', '_')}.unfinished"

    def path(self, dataset: str, relative: str) -> Path:
        """Where a published file is."""
        return self.root / dataset / relative

    def require_room(self) -> None:
        """Raises StorageFull when the free floor is reached."""
        with storage_faults():
            status = os.statvfs(self._temporary)
        if status.f_bavail * status.f_frsize < self._floor:
            raise StorageFull(retry_after_s=60, hint="make room where export_dir is, or lower free_floor_bytes")

    def seal(self, temporary: Path) -> tuple[int, str]:
        """Makes a written file durable; gives its bytes and SHA-256 as they are on disk."""
        digest = hashlib.sha256()
        with storage_faults(), temporary.open("rb") as file:
            os.fsync(file.fileno())
            while data := file.read(_COPY_BYTES):
                digest.update(data)
            return file.tell(), digest.hexdigest()

    def publish(self, temporary: Path, dataset: str, relative: str) -> None:
        """Gives a sealed file its name, durably; one with that name is replaced."""
        target = self.path(dataset, relative)
        with storage_faults():
            for parent in (self.root / dataset, target.parent):
                if not parent.is_dir():
                    parent.mkdir(mode=0o750, exist_ok=True)
                    sync_directory(parent.parent)
            temporary.replace(target)
            sync_directory(target.parent)

    def others(self, dataset: str, name: str, keep: Collection[str]) -> list[str]:
        """Files named `name` in any partition that are not in `keep`: what a range had and no longer has."""
        with storage_faults():
            base = self.root / dataset
            found = (str(path.relative_to(base)) for path in base.glob(f"event_date=*/{name}"))
            return sorted(path for path in found if path not in keep)

    def remove(self, dataset: str, relatives: Collection[str]) -> None:
        """Removes published files, durably."""
        with storage_faults():
            for relative in relatives:
                path = self.path(dataset, relative)
                path.unlink(missing_ok=True)
                sync_directory(path.parent)
                with contextlib.suppress(OSError):
                    path.parent.rmdir()

    def write_manifest(self, dataset: str, content: bytes) -> None:
        """Replaces the dataset's manifest."""
        temporary = self.temporary(f"{dataset}-manifest")
        with storage_faults():
            temporary.write_bytes(content)
        self.seal(temporary)
        self.publish(temporary, dataset, "_manifest.json")

    def has_manifest(self, dataset: str) -> bool:
        """Whether this directory has ever been exported to."""
        with storage_faults():
            return self.path(dataset, "_manifest.json").is_file()
