"""What docs/export.md tells people to type into DuckDB works as it stands; the tables are those of the files."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
from export_helpers import Store, Warehouse, export

from cloud.config import Settings
from cloud.rules import exporting
from cloud.store import drivers

DOC = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
BLOCKS = re.findall(r"```sql duckdb\n(.*?)```", DOC, re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
async def test_the_statements_for_duckdb(tmp_path: Path, number: int) -> None:
    url = str(tmp_path / "pisync.db")
    warehouse = Warehouse(tmp_path / "export")
    async with drivers.opened(url) as db:
        store = Store(url)
        await store.add_world()
        await store.add_events(0, 100)
        await export(db, warehouse.root)
    with duckdb.connect() as duck:
        rows = duck.execute(BLOCKS[number].replace("/srv/export", str(warehouse.root))).fetchall()
    assert rows
    if "count(DISTINCT id)" in BLOCKS[number]:
        assert rows == [(100, 100)]


@pytest.mark.parametrize("dataset", [exporting.ATTEMPT_EVENTS, exporting.BOOTS])
def test_the_tables_for_snowflake_have_the_columns_of_the_files(dataset: exporting.Dataset) -> None:
    found = re.search(rf"CREATE TABLE {dataset.name} \((.*?)\n\)", DOC, re.S)
    assert found is not None
    named = [column.split()[0] for column in re.split(r",\s+(?![0-9])", found[1].strip())]
    assert named == [name for name, _ in dataset.columns]
    if dataset.day:
        merge = re.search(r"INSERT \((.*?)\) VALUES \((.*?)\);", DOC, re.S)
        assert merge is not None
        assert re.findall(r"\w+", merge[1]) == named
        assert re.findall(r"s\.(\w+)", merge[2]) == named


def test_the_settings_are_as_told() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+)", DOC, re.M))
    defaults = Settings()
    assert told == {
        name: str(getattr(defaults, name)) for name in ("export_interval_s", "export_rows_max", "telemetry_keep_days")
    }
    assert defaults.export_dir == ""
