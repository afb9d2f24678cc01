"""Pages: the module is served, and only pages of listed origins may send events and read the answers."""

from __future__ import annotations

from conftest import StartCloud

PAGE = "https://learn.example.org"


async def test_the_module_is_served_and_not_sent_twice(start_cloud: StartCloud) -> None:
    cloud = await start_cloud()
    async with cloud.http.get(cloud.url + "/telemetry.js") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/javascript"
        assert "export class TelemetryService" in await answer.text()
        tag = answer.headers["ETag"]
    async with cloud.http.get(cloud.url + "/telemetry.js", headers={"If-None-Match": tag}) as answer:
        assert answer.status == 304


async def test_only_listed_origins_may_send_and_read(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(browser_origins=f"{PAGE}, https://other.example.org/")
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    async with cloud.http.options(cloud.url + "/v1/telemetry/events", headers=asked) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "PiSync-User" in answer.headers["Access-Control-Allow-Headers"]
    async with cloud.http.options(
        cloud.url + "/v1/telemetry/events", headers={**asked, "Origin": "https://evil.example"}
    ) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers
    async with cloud.http.post(cloud.url + "/api/telemetry/track", json={}, headers={"Origin": PAGE}) as answer:
        assert answer.status == 401
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    async with cloud.http.get(cloud.url + "/api/devices", headers={"Origin": PAGE}) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers
