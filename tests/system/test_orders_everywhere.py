"""People ask at the cloud, the daemon does it: a bundle for support arrives, and the machine tells of itself."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

from conftest import MakeDevice
from rig import judge, trees
from rig.cloud import Cloud
from rig.wait import until


def test_a_support_bundle_and_vitals_reach_the_cloud(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud, settings={"settle": {"debounce_s": 0.1}})
    operator = shared_cloud.key(f"orders-{device.device_id}", "operator")
    at = f"/api/devices/{device.device_id}/commands"
    body = json.dumps({"kind": "support-bundle"}).encode()
    asked = shared_cloud.ask("POST", at, key=operator, body=body, Content_Type="application/json")
    assert asked.status == 202, asked.body
    device.start()
    trees.write(judge.learning(device), {b"notes.txt": b"first"})

    def command() -> Any:
        return shared_cloud.data_of(at)[0]

    until("the command is answered", lambda: command()["state"] == "done")
    path = command()["detail"].encode()
    until("the bundle arrives", lambda: path in shared_cloud.files(device.device_id))
    with tarfile.open(fileobj=io.BytesIO(shared_cloud.content(device.device_id, path))) as archive:
        content = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    token = (device.root / "token").read_text().strip().encode()
    assert not [name for name, raw in content.items() if token in raw]
    assert json.loads(content["status.json"])["device_id"] == device.device_id
    told = shared_cloud.data_of(f"/api/devices/{device.device_id}")
    assert told["vitals"]["memory_total_bytes"] > 0
    assert told["vitals"]["version"]
    assert device.stop() == 0


def test_a_new_token_is_taken_over_and_survives_a_restart(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud, settings={"settle": {"debounce_s": 0.1}})
    first = (device.root / "token").read_text().strip()
    admin = shared_cloud.key(f"rotating-{device.device_id}", "admin")
    asked = shared_cloud.ask("POST", f"/api/devices/{device.device_id}/token", key=admin)
    assert asked.status == 202, asked.body
    device.start()
    trees.write(judge.learning(device), {b"one.txt": b"with the old token"})
    kept = device.root / "state" / "token.json"
    until("the new token is kept", kept.exists)
    second = json.loads(kept.read_bytes())["token"]
    assert second != first
    trees.write(judge.learning(device), {b"two.txt": b"with the new token"})
    until("files go on arriving", lambda: b"learning/two.txt" in shared_cloud.files(device.device_id))
    device.kill()
    device.start()
    trees.write(judge.learning(device), {b"three.txt": b"after a restart"})
    until("files arrive after a restart", lambda: b"learning/three.txt" in shared_cloud.files(device.device_id))
    assert device.stop() == 0
    assert shared_cloud.ask("GET", "/api/device/config", key=second).status == 200
