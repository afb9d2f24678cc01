"""The device's intake, fuzzed from the cloud's API document: the wire is the same at both ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conftest import MakeDevice
from rig.cloud import Cloud, free_port
from rig.process import BIN

from cloud.api import docs

CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"


def test_whatever_is_sent_no_answer_is_a_5xx(shared_cloud: Cloud, make_device: MakeDevice, tmp_path: Path) -> None:
    port, tokens = free_port(), tmp_path / "app-tokens"
    tokens.touch(mode=0o600)
    device = make_device(shared_cloud, settings={"intake": {"port": port, "tokens_file": str(tokens)}})
    made = subprocess.run(
        [str(BIN / "pisyncd"), "app-token", "fuzz", "--config", str(device.config)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    device.start()
    document = tmp_path / "openapi.json"
    document.write_bytes(docs.document())
    done = subprocess.run(
        [
            str(BIN / "schemathesis"), "run", str(document), "--url", f"http://127.0.0.1:{port}",
            "--include-path-regex", "^/(api/telemetry/(track|batch|status)$|v1/)", "--checks", CHECKS,
            "--phases", "coverage,fuzzing", "--max-examples", "15", "--seed", "7", "--no-color",
            "--header", f"Authorization: Bearer {made.stdout.split()[-1]}",
        ],
        capture_output=True, text=True, check=False, timeout=900, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:]
    assert "8 selected" in done.stdout, done.stdout[-4000:]
    assert "gateway.failed" not in device.process.log.read_text()
