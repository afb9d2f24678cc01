"""Parquet by pyarrow, which takes 40 MB and comes with `pisync[export]`: it is imported here, when it is used first.

Every function blocks and is meant for a thread. zstd, row groups of up to 100 000 rows.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cloud.rules.exporting import Dataset
from cloud.store.exportdir import storage_faults
from pisyncd.core.errors import ConfigError, PermanentError

GROUP_ROWS = 100_000
GROUP_BYTES = 16 * 1024**2


class Unexportable(PermanentError):
    """A row of this range does not fit into Parquet."""

    code = "range-unexportable"
    hint = "nothing is lost, other ranges go on; the error says what it is, please report it"


def available() -> bool:
    """Whether pyarrow is installed; it is not imported."""
    return importlib.util.find_spec("pyarrow") is not None


def require() -> None:
    """Raises ConfigError when pyarrow is not installed."""
    if not available():
        raise ConfigError(
            "the export needs pyarrow, which is not installed",
            code="export-unavailable",
            hint="install it from the checkout: pip install -c requirements.lock '.[cloud,export]'",
        )


def _arrow() -> Any:
    return importlib.import_module("pyarrow")


def _parquet() -> Any:
    return importlib.import_module("pyarrow.parquet")


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    pa = _arrow()
    try:
        with storage_faults():
            yield
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise Unexportable(f"{type(error).__name__}: {error}") from error


def _schema(dataset: Dataset) -> Any:
    pa = _arrow()
    kinds = {"text": pa.string(), "int": pa.int64(), "time": pa.timestamp("ms", tz="UTC"), "flag": pa.bool_()}
    return pa.schema([(name, kinds[kind]) for name, kind in dataset.columns])


class _Part:
    def __init__(self, path: Path, schema: Any) -> None:
        self.path = path
        self.rows = 0
        self.waiting: list[Any] = []
        # Not the default of Arrow: its own schema in the footer makes some readers see other types than Parquet's.
        self.writer: Any = _parquet().ParquetWriter(path, schema, compression="zstd", store_schema=False)


class Partitions:
    """Writes the rows of one range, a file for each day. `place` says where; `room` is asked before each row group."""

    def __init__(self, dataset: Dataset, place: Callable[[str], Path], room: Callable[[], None]) -> None:
        with _faults():
            self._schema = _schema(dataset)
        self._place = place
        self._room = room
        self._parts: dict[str, _Part] = {}
        self._waiting_rows = 0
        self._waiting_bytes = 0

    def add(self, day: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Rows of one day. Raises Unexportable, StorageFull, StorageBusy."""
        pa = _arrow()
        with _faults():
            arrays = [pa.array(columns[field.name], type=field.type) for field in self._schema]
            batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
            self._part(day).waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
            self._flush()

    def _part(self, day: str) -> _Part:
        if day not in self._parts:
            self._parts[day] = _Part(self._place(day), self._schema)
        return self._parts[day]

    def _flush(self) -> None:
        self._room()
        with _faults():
            for part in self._parts.values():
                if part.waiting:
                    table = _arrow().Table.from_batches(part.waiting)
                    part.writer.write_table(table, row_group_size=GROUP_ROWS)
                    part.rows += table.num_rows
                    part.waiting = []
        self._waiting_rows = self._waiting_bytes = 0

    def finish(self, *, even_empty: bool = False) -> dict[str, tuple[Path, int]]:
        """Ends all files; gives path and rows by day, the rows as they are read back. Raises as `add` does."""
        if even_empty and not self._parts:
            with _faults():
                self._part("")
        self._flush()
        found: dict[str, tuple[Path, int]] = {}
        with _faults():
            for day, part in self._parts.items():
                part.writer.close()
                found[day] = (part.path, _counted(part.path, part.rows))
        return found

    def abandon(self) -> None:
        """Ends all files, whatever state they are in; their remains are removed with the directory they are in."""
        for part in self._parts.values():
            with contextlib.suppress(Exception):
                part.writer.close()


def _counted(path: Path, written: int) -> int:
    rows = int(_parquet().read_metadata(path).num_rows)
    if rows != written:
        raise OSError(f"{path.name} holds {rows} rows, {written} were written")
    return rows


def copy_without(source: Path, target: Path, through: Callable[[str], int], room: Callable[[], None]) -> int:
    """Copies a file without the rows whose ord is at most `through(user_id)`; gives the rows that are left.

    When there is nothing to leave out there is no target. Raises FileNotFoundError when there is no source, otherwise
    as Partitions does.
    """
    pa, pq = _arrow(), _parquet()
    if not source.is_file():
        raise FileNotFoundError(source)
    with _faults(), pq.ParquetFile(source) as file:
        if not any(_unwanted(file.read_row_group(i, columns=["ord", "user_id"]), through) for i in _groups(file)):
            return int(file.metadata.num_rows)
        left = 0
        with pq.ParquetWriter(target, file.schema_arrow, compression="zstd", store_schema=False) as writer:
            for index in _groups(file):
                room()
                table = file.read_row_group(index)
                gone = _unwanted(table, through)
                if gone:
                    table = table.filter(pa.array([i not in gone for i in range(table.num_rows)]))
                if table.num_rows:
                    writer.write_table(table, row_group_size=GROUP_ROWS)
                left += table.num_rows
        return _counted(target, left)


def _groups(file: Any) -> range:
    return range(file.num_row_groups)


def _unwanted(table: Any, through: Callable[[str], int]) -> set[int]:
    users = table.column("user_id")
    limits = {user: through(user) for user in users.unique().to_pylist() if user}
    if not any(limits.values()):
        return set()
    rows = zip(users.to_pylist(), table.column("ord").to_pylist(), strict=True)
    return {index for index, (user, place) in enumerate(rows) if user and place <= limits[user]}


def release() -> None:
    """Gives memory back to the system that Arrow keeps for the next time."""
    _arrow().default_memory_pool().release_unused()
