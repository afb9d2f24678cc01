"""Every intake endpoint, fuzzed from the API document: no answer is a 5xx, and each is as documented."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

from conftest import StartCloud
from test_learning import SECRET, SESSION, user

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
#: A batch's bad items are told one by one in a 200, so refusal of all is not asked for.
OPTIONS = ("--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "15", "--seed", "7", "--no-color")


async def fuzz(document: str, headers: dict[str, str], work: Path) -> None:
    """Runs schemathesis over the intake paths of an API document."""
    command = [str(SCHEMATHESIS), "run", document, "--include-path-regex", "^/(api/telemetry|v1)/", *OPTIONS]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=work, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text[-8000:]
    assert "9 selected" in text, text[-8000:]


async def test_as_a_device(start_cloud: StartCloud, tmp_path: Path) -> None:
    cloud = await start_cloud(rate_device_items=0, jwt_secret=SECRET)
    device = await cloud.enroll("pi-1")
    headers = {**device, "PiSync-User": str(uuid.uuid4())}
    status, _ = await cloud.call("POST", "/v1/sessions", json=SESSION, headers=headers)
    assert status == 201
    await fuzz(cloud.url + "/api-docs/openapi.json", device, tmp_path)


async def test_as_a_user(start_cloud: StartCloud, postgres_url: str, tmp_path: Path) -> None:
    cloud = await start_cloud(database=postgres_url, rate_user_items=0, jwt_secret=SECRET)
    await fuzz(cloud.url + "/api-docs/openapi.json", user(), tmp_path)
