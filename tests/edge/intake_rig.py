"""What the tests of learning events share: an application beside the device, and a look into the outbox."""

from __future__ import annotations

import json
import uuid
from typing import Any

import aiohttp
import msgspec

from pisyncd.core import wire

from .gateway_rig import Rig

USER = "0b9d3d1a-52c4-4b9a-9f6e-6f2f0a3a9b01"
OTHER = "0b9d3d1a-52c4-4b9a-9f6e-6f2f0a3a9b02"
NAMED = {"PiSync-User": USER}
TRACK = {
    "eventType": "interview_completed",
    "eventData": {"score": 85},
    "metadata": {"clientTimestamp": "2024-01-20T10:30:00Z", "userAgent": "Firefox", "eventId": "evt_1", "priority": 9},
}


def new_id() -> str:
    return str(uuid.uuid4())


class App:
    """An application: on the socket, or on a port with what it sends there."""

    def __init__(self, rig: Rig, *, port: int = 0, headers: dict[str, str] | None = None) -> None:
        self._base = f"http://127.0.0.1:{port}" if port else "http://localhost"
        connector = None if port else aiohttp.UnixConnector(str(rig.socket), limit=0)
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=False)

    async def __aenter__(self) -> App:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """(status, JSON or bytes, headers). A body of bytes goes as it is."""
        data = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            named.setdefault("Content-Type", "application/json")
        async with self._session.request(method, self._base + path, data=data, headers=named) as answer:
            raw = await answer.read()
            is_json = answer.content_type.endswith("json") and bool(raw)
            return answer.status, json.loads(raw) if is_json else raw, answer.headers

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        return (await self.ask("POST", path, body, **headers))[:2]


def event(event_type: str = "QUESTION_VIEWED", payload: Any = None, **more: Any) -> dict[str, Any]:
    """An event of envelope v1."""
    return {
        "event_type": event_type,
        "session_id": new_id(),
        "payload": {"position": 1} if payload is None else payload,
        **more,
    }


async def waiting(rig: Rig) -> list[wire.Item]:
    """All messages but the device's own reports, in the order of sending."""
    return [item for item in await rig.outbox.messages.batch(100_000) if not (item.stream or "").startswith("event-")]


def data(item: wire.Item) -> Any:
    return msgspec.json.decode(bytes(item.itemData))
