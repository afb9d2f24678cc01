"""What Prometheus is told is what the service judges by: the same alerts, the same numbers, and they fire."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_alerts import BEYOND, LIMITS, RATES, RULES, rule

ROOT = Path(__file__).parents[2]
RULES_FILE = ROOT / "config" / "alerts.yaml"


def rule_file() -> list[dict[str, Any]]:
    loaded = yaml.safe_load(RULES_FILE.read_text("utf-8"))
    return [one for group in loaded["groups"] for one in group["rules"]]


def prometheus_alerts() -> dict[str, dict[str, Any]]:
    return {one["alert"]: one for one in rule_file() if "alert" in one}


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text).groups()  # type: ignore[union-attr]
    return float(int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit])


def test_the_rules_have_the_form_that_prometheus_reads() -> None:
    """What promtool would say, for where there is none."""
    loaded = yaml.safe_load(RULES_FILE.read_text("utf-8"))
    assert set(loaded) == {"groups"}
    names = [group["name"] for group in loaded["groups"]]
    assert len(names) == len(set(names))
    for group in loaded["groups"]:
        assert set(group) <= {"name", "interval", "rules", "limit", "labels", "query_offset"}
        assert seconds(group["interval"])
        for one in group["rules"]:
            kind = {"alert", "for", "labels", "annotations"} if "alert" in one else {"record", "labels"}
            assert set(one) <= {"expr", *kind}
            assert isinstance(one["expr"], str)
            assert balanced(one["expr"])
            assert set(map(type, one.get("labels", {}).values())) <= {str}
            assert set(map(type, one.get("annotations", {}).values())) <= {str}


def balanced(expression: str) -> bool:
    bare = re.sub(r'"[^"]*"', "", expression)
    return all(bare.count(left) == bare.count(right) for left, right in ("()", "{}", "[]"))


def test_both_have_the_same_alerts() -> None:
    assert set(prometheus_alerts()) == {one.name for one in RULES}


@pytest.mark.parametrize("name", BEYOND)
def test_both_have_the_same_numbers(name: str) -> None:
    told, own = prometheus_alerts()[name], rule(name)
    assert seconds(told["for"]) == LIMITS.for_s
    assert {seconds(window) for window in re.findall(r"\[(\w+)\]", told["expr"])} <= {LIMITS.window_s}
    comparison, *rest = re.split(r"\n\s*and ", told["expr"])
    sign, number = re.findall(r"([<>])\s*([\d.]+)\s*$", comparison.strip())[0]
    assert (sign, float(number)) == (">" if own.fires == "above" else "<", own.threshold)
    leasts = [float(found) for part in rest for found in re.findall(r">= (\d+)\s*$", part.strip())]
    assert leasts == ([20.0] if name in RATES and name != "PisyncSyncSlow" else [])


def test_every_alert_says_what_to_do_there_and_here_and_in_the_document() -> None:
    document = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    for name, told in prometheus_alerts().items():
        assert set(told["annotations"]) == {"summary", "action"}
        assert told["labels"]["severity"] in ("critical", "warning", "info")
        assert rule(name).hint
        assert f"`{name}`" in document


@pytest.fixture
def promtool() -> Iterator[str]:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not here; the structure is checked by the tests above")
    yield found


def test_promtool_takes_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(RULES_FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 rules found" in done.stdout


#: Counters per 15 s that make each alert fire, as Prometheus' own tests write series.
SERIES: dict[str, list[tuple[str, str]]] = {
    "PisyncQueueHigh": [("pisync_queue_pending_items", "501x60")],
    "PisyncDeviceQueueHigh": [("pisync_devices_queue_active_max_items", "501x60")],
    "PisyncSuccessLow": [
        ('pisync_ingest_items_total{outcome="synced"}', "0+80x60"),
        ('pisync_ingest_items_total{outcome="duplicate"}', "0+14x60"),
        ('pisync_ingest_items_total{outcome="failed"}', "0+3x60"),
        ('pisync_ingest_items_total{outcome="conflict"}', "0+3x60"),
    ],
    "PisyncSyncSlow": [
        ("pisync_sync_duration_seconds_sum", "0+21x60"),
        ("pisync_sync_duration_seconds_count", "0+2x60"),
    ],
    "PisyncConflictsHigh": [
        ('pisync_ingest_items_total{outcome="synced"}', "0+89x60"),
        ('pisync_ingest_items_total{outcome="conflict"}', "0+11x60"),
    ],
    "PisyncRejectionsHigh": [
        ('pisync_ingest_items_total{outcome="synced"}', "0+94x60"),
        ('pisync_ingest_items_total{outcome="failed"}', "0+6x60"),
    ],
    "PisyncInsertFailures": [
        ("pisync_insert_failures_total", "0+2x60"),
        ("pisync_inserts_total", "0+100x60"),
    ],
    "PisyncExportFailing": [("pisync_export_ranges_failing", "1x60")],
    "PisyncBatchesSmall": [("pisync_batch_items_sum", "0+15x60"), ("pisync_batch_items_count", "0+10x60")],
    "PisyncBatchesLarge": [("pisync_batch_items_sum", "0+4500x60"), ("pisync_batch_items_count", "0+10x60")],
}
#: Also beyond their thresholds in these series.
COMPANIONS = {"PisyncConflictsHigh": {"PisyncSuccessLow"}, "PisyncRejectionsHigh": {"PisyncSuccessLow"}}


def with_labels(series: str) -> str:
    name, _, labels = series.rstrip("}").partition("{")
    return f'{name}{{{labels}{"," if labels else ""}job="pisync",instance="cloud"}}'


def case(name: str) -> dict[str, Any]:
    """Fires after 10 minutes, not yet after 4; a machine that stands still fires nothing."""
    standing = {name, *COMPANIONS.get(name, set())}
    series = [{"series": with_labels(one), "values": values.replace("x", "+0x") if "+" not in values else values}
              for one, values in SERIES[name]]  # fmt: skip
    queries = [
        {"expr": f'count(ALERTS{{alertname="{each}", alertstate="firing"}}) or vector(0)', "eval_time": at,
         "exp_samples": [{"labels": "{}", "value": value}]}
        for each in BEYOND
        for at, value in (("4m", 0), ("10m", int(each in standing)))
    ]  # fmt: skip
    return {"name": name, "interval": "15s", "input_series": series, "promql_expr_test": queries}


def test_promtool_fires_each_alert_on_what_it_is_for_and_no_other(promtool: str, tmp_path: Path) -> None:
    tests = {"rule_files": [str(RULES_FILE)], "evaluation_interval": "15s", "tests": [case(name) for name in BEYOND]}
    path = tmp_path / "alerts.test.yaml"
    path.write_text(yaml.safe_dump(tests), "utf-8")
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_fires_nothing_where_nothing_happens(promtool: str, tmp_path: Path) -> None:
    still = [{"series": with_labels(one), "values": "0+0x60"} for series in SERIES.values() for one, _ in series]
    unique = list({one["series"]: one for one in still}.values())
    query = {"expr": "count(ALERTS) or vector(0)", "eval_time": "12m", "exp_samples": [{"labels": "{}", "value": 0}]}
    only = {"interval": "15s", "input_series": unique, "promql_expr_test": [query]}
    path = tmp_path / "still.test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES_FILE)], "tests": [only]}), "utf-8")
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
