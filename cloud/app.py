"""The application: routes and the edge around them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from aiohttp import web

from cloud.api import boundary, devices, health, probe, sync_events, telemetry
from cloud.services import SERVICES, Services

_OPTIONAL = ("uploads", "files")


def build_app(services: Services) -> web.Application:
    """An aiohttp application over opened services."""
    app = web.Application(middlewares=[boundary.boundary], client_max_size=services.settings.body_bytes_max)
    app[SERVICES] = services
    app.on_response_prepare.append(boundary.stamp)
    parts: tuple[Any, ...] = (sync_events, devices, telemetry, probe, health)
    for part in parts:
        part.setup(app)
    for name in _OPTIONAL:
        if importlib.util.find_spec(f"cloud.api.{name}") is not None:
            importlib.import_module(f"cloud.api.{name}").setup(app)
    return app
