"""A device that speaks tus by hand, so that a test can do what no client does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from backports import zstd

from pisyncd.core import wire
from tests.cloud.conftest import Cloud

TUS = {"Tus-Resumable": "1.0.0"}
STREAM = {"Content-Type": wire.OFFSET_STREAM}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def checksum(data: bytes, algorithm: str = "sha256") -> dict[str, str]:
    digest = hashlib.new(algorithm, data).digest()
    return {"Upload-Checksum": f"{algorithm} {base64.b64encode(digest).decode()}"}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Any
    body: Any

    @property
    def offset(self) -> int:
        return int(self.headers["Upload-Offset"])

    @property
    def state(self) -> str | None:
        return self.headers.get("Upload-State")

    @property
    def code(self) -> str:
        return str(self.body["code"])


@dataclass
class Device:
    """A device and its requests. Every answer below /api/files is checked for what all of them must carry."""

    cloud: Cloud
    device_id: str
    auth: dict[str, str]

    @classmethod
    async def enroll(cls, cloud: Cloud, device_id: str = "pi-1") -> Device:
        return cls(cloud, device_id, await cloud.enroll(device_id))

    async def send(self, method: str, path: str, *, data: Any = None, headers: dict[str, str] | None = None) -> Reply:
        merged = {**self.auth, **TUS, **(headers or {})}
        merged = {name: value for name, value in merged.items() if value is not None}
        skip = () if data is not None and "Content-Type" in merged else ("Content-Type",)
        async with self.cloud.http.request(
            method, self.cloud.url + path, data=data, headers=merged, skip_auto_headers=skip
        ) as answer:
            raw = await answer.read()
            if path.startswith("/api/files"):
                assert answer.headers["Tus-Resumable"] == "1.0.0"
                assert "no-store" in answer.headers["Cache-Control"]
            is_json = "json" in answer.headers.get("Content-Type", "")
            return Reply(
                answer.status, answer.headers, await answer.json(content_type=None) if is_json and raw else raw
            )

    async def create(
        self,
        length: int | None,
        *,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        **metadata: bytes | None,
    ) -> Reply:
        more = dict(headers or {})
        if length is not None:
            more["Upload-Length"] = str(length)
        if metadata:
            more["Upload-Metadata"] = wire.encode_metadata(metadata)
        if data is not None:
            more = {**STREAM, **more}
        return await self.send("POST", "/api/files", data=data, headers=more)

    async def patch(self, at: str, offset: int, data: Any, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("PATCH", at, data=data, headers={"Upload-Offset": str(offset), **STREAM, **named})

    async def head(self, at: str) -> Reply:
        return await self.send("HEAD", at)

    async def status(self, at: str) -> Any:
        reply = await self.send("GET", at)
        assert reply.status == 200, reply
        return reply.body["data"]

    async def upload(self, data: bytes, **metadata: bytes | None) -> Reply:
        reply = await self.create(len(data), data=data, **metadata)
        assert reply.status == 201, reply
        return reply

    async def download(self, path: str, **headers: str) -> Reply:
        return await self.send("GET", f"/api/devices/{self.device_id}/files/{path}", headers=headers)

    async def listed(self) -> dict[str, Any]:
        reply = await self.send("GET", f"/api/devices/{self.device_id}/files?limit=1000")
        assert reply.status == 200, reply
        return {row["path"]: row for row in reply.body["data"]}

    async def raw(self, method: str, path: str, headers: dict[str, str]) -> Wire:
        """A connection on which the request's head was sent; the body is the test's."""
        where = urlsplit(self.cloud.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        head = {"Host": where.netloc, **self.auth, **TUS, **STREAM, **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
        await writer.drain()
        return Wire(reader, writer)

    async def patching(self, at: str, offset: int, length: int, **headers: str) -> Wire:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.raw("PATCH", at, {"Upload-Offset": str(offset), "Content-Length": str(length), **named})


@dataclass
class Wire:
    """One TCP connection to the cloud."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytes = field(default=b"")

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def cut(self) -> None:
        """The connection is gone, with a reset."""
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()

    async def answer(self) -> bytes:
        """The head of the answer."""
        return await self.reader.readuntil(b"\r\n\r\n")


async def until(ready: Any, *, tries: int = 12_000) -> Any:
    """Polls the service until `ready` gives something true."""
    for _ in range(tries):
        found = await ready()
        if found:
            return found
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


def member(
    path: bytes,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    digest: str | None = None,
    size: int | None = None,
    pax: dict[str, str] | None = None,
) -> tuple[tarfile.TarInfo, bytes]:
    """One member of a bundle; wrong on purpose where the test says so."""
    info = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
    info.size = len(data) if size is None else size
    info.type = kind
    info.pax_headers = {wire.PAX_SHA256: digest or sha256(data), wire.PAX_MTIME: "1700000000123", **(pax or {})}
    info.pax_headers = {key: value for key, value in info.pax_headers.items() if value is not None}
    return info, data


def reused(path: bytes, digest: str, size: int) -> tuple[tarfile.TarInfo, bytes]:
    """A member that refers to a content delivered before."""
    return member(path, digest=digest, pax={wire.PAX_REUSE: "1", wire.PAX_SIZE: str(size)})


def tar_of(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data else None)
    return out.getvalue()


def bundle_of(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    return zstd.compress(tar_of(members), 1)
