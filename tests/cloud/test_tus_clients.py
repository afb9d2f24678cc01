"""Clients that others wrote: tuspy and tus-js-client."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tusclient.client import TusClient

from tests.cloud.conftest import Cloud
from tests.cloud.tus_helpers import Device, sha256

TUS_JS = "tus-js-client@4.3.1"

SCRIPT = """
const fs = require('fs'), tus = require('tus-js-client');
const job = JSON.parse(process.argv[2]);
const common = {endpoint: job.endpoint, headers: job.headers, metadata: job.metadata, chunkSize: job.chunk,
  retryDelays: [0, 100], urlStorage: new tus.FileUrlStorage(job.storage), fingerprint: async () => job.storage,
  onError: error => { console.error(String(error)); process.exit(1); }};
const bytes = fs.readFileSync(job.file);
const stream = () => require('stream').Readable.from([bytes], {objectMode: false});
const source = () => job.options.uploadLengthDeferred ? stream() : bytes;
function resume() {
  const upload = new tus.Upload(source(), {...common, ...job.options,
    onSuccess: () => { console.log(JSON.stringify({url: upload.url})); process.exit(0); }});
  upload.findPreviousUploads().then(found => {
    if (job.cutAfter && !found.length) { console.error('nothing to resume'); process.exit(2); }
    if (found.length) upload.resumeFromPreviousUpload(found[0]);
    upload.start();
  });
}
if (job.cutAfter) {
  let cut = false;
  const first = new tus.Upload(source(), {...common, ...job.options, onProgress: sent => {
    if (!cut && sent >= job.cutAfter) { cut = true; first.abort().then(resume); }
  }});
  first.start();
} else resume();
"""


@pytest.fixture
async def lite(cloud_lite: Cloud) -> Device:
    return await Device.enroll(cloud_lite)


@pytest.fixture(scope="session")
def tus_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which node finds tus-js-client."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("takes node and npm")
    where = tmp_path_factory.mktemp("tus-js")
    quick = ["--fetch-retries=0", "--fetch-timeout=15000"]
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", *quick, "--prefix", str(where), TUS_JS]
    if subprocess.run(install, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("npm cannot fetch tus-js-client here")
    (where / "upload.cjs").write_text(SCRIPT)
    return where


async def with_js(where: Path, device: Device, data: bytes, **job: object) -> str:
    """Uploads with tus-js-client; gives the upload's address."""
    file = where / "file"
    file.write_bytes(data)
    storage = where / f"urls-{os.urandom(4).hex()}.json"
    told = {
        "endpoint": device.cloud.url + "/api/files",
        "headers": device.auth,
        "file": str(file),
        "storage": str(storage),
        "chunk": 300_000,
        "metadata": {"filename": "r/x", "filetype": "text/plain"},
        "options": {},
        **job,
    }
    node = await asyncio.create_subprocess_exec(
        "node", str(where / "upload.cjs"), json.dumps(told), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=where
    )
    out, errors = await asyncio.wait_for(node.communicate(), 60)
    assert node.returncode == 0, errors.decode()
    return str(json.loads(out)["url"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"uploadDataDuringCreation": True},
        {"parallelUploads": 3, "metadataForPartialUploads": {}},
        {"uploadLengthDeferred": True},
        {"overridePatchMethod": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
async def test_tus_js_client_uploads(lite: Device, tus_js: Path, options: dict[str, object]) -> None:
    data = os.urandom(1_000_000)
    await with_js(tus_js, lite, data, options=options)
    assert sha256((await lite.download("r/x")).body) == sha256(data)
    assert set(await lite.listed()) == {"r/x"}


async def test_tus_js_client_uploads_an_empty_file(lite: Device, tus_js: Path) -> None:
    await with_js(tus_js, lite, b"")
    assert (await lite.download("r/x")).body == b""


async def test_tus_js_client_resumes(lite: Device, tus_js: Path) -> None:
    data = os.urandom(3_000_000)
    await with_js(tus_js, lite, data, cutAfter=700_000)
    assert sha256((await lite.download("r/x")).body) == sha256(data)


async def test_tuspy_uploads_with_checksums_and_resumes(lite: Device, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    file = tmp_path / "file"
    file.write_bytes(data)

    def upload() -> str:
        client = TusClient(lite.cloud.url + "/api/files", headers=lite.auth)
        first = client.uploader(
            str(file), chunk_size=200_000, metadata={"path": "r/x", "sha256": sha256(data)}, upload_checksum=True
        )
        first.upload(stop_at=400_000)
        again = client.uploader(str(file), chunk_size=200_000, url=first.url, upload_checksum=True)
        assert again.offset == 400_000
        again.upload()
        return str(first.url)

    url = await asyncio.to_thread(upload)
    assert (await lite.head(url.removeprefix(lite.cloud.url))).state == "published"
    assert sha256((await lite.download("r/x")).body) == sha256(data)
