"""The API document: valid, complete, and the same types that validate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Cloud
from openapi_spec_validator import OpenAPIV31SpecValidator

from cloud.api import docs
from cloud.api.operations import OPERATIONS
from cloud.app import build_app

#: Pages, and what only says that the process lives, are no part of the API.
API = ("/api/", "/v1/", "/metrics")


def shape(path: str) -> str:
    return re.sub(r"\{[^{}]+(\{[^{}]*\})?[^{}]*\}", "{}", path)


async def test_the_document_is_valid_openapi(cloud_lite: Cloud) -> None:
    status, document = await cloud_lite.call("GET", "/api-docs/openapi.json")
    assert status == 200
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


async def test_every_route_is_in_the_document_and_nothing_else(cloud_lite: Cloud) -> None:
    app = build_app(cloud_lite.services)
    routes = {
        (route.method, shape(route.resource.canonical))
        for route in app.router.routes()
        if route.resource is not None and not route.resource.canonical.startswith("/api-docs")
    }
    described = {(one.method, shape(one.path)) for one in OPERATIONS}
    assert described <= routes
    missing = {
        (method, path)
        for method, path in routes - described
        if method not in ("HEAD", "OPTIONS", "*") and path.startswith(API) and not path.endswith("/")
    }
    # tus clients that cannot send PATCH say so in a header; the other is the device path with an s.
    assert missing == {("POST", "/api/files/{}"), ("GET", "/api/devices/{}/sync-history")}


async def test_limits_in_the_document_are_those_that_hold(cloud_lite: Cloud) -> None:
    _, document = await cloud_lite.call("GET", "/api-docs/openapi.json")
    event = document["components"]["schemas"]["SyncEventIn"]
    assert set(event["required"]) == {"device_id", "timestamp", "total_files_synced", "total_errors"}
    assert event["properties"]["total_errors"]["minimum"] == 0
    assert document["components"]["schemas"]["BatchIn"]["properties"]["items"]["maxItems"] == 500


async def test_the_page_needs_nothing_from_another_host(cloud_lite: Cloud) -> None:
    async with cloud_lite.http.get(cloud_lite.url + "/api-docs") as answer:
        text = await answer.text()
        assert answer.status == 200
        assert "http://" not in text
        assert "https://" not in text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_the_page_works_before_its_assets_were_fetched(
    cloud_lite: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "SWAGGER", tmp_path)
    async with cloud_lite.http.get(cloud_lite.url + "/api-docs") as answer:
        assert "/api/sync-event" in await answer.text()
    assert (await cloud_lite.call("GET", "/api-docs/swagger-ui.css"))[0] == 404


@pytest.mark.parametrize("name", ["..%2f..%2fpages.py", "..%2f..%2f..%2fmain.py", ".version", "LICENSE", "%00"])
async def test_only_named_assets_are_served(cloud_lite: Cloud, name: str) -> None:
    assert (await cloud_lite.call("GET", f"/api-docs/{name}"))[0] == 404
