"""A token given by the cloud: where it is kept, what wins, and what a cut leaves behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from pisyncd import config as settings
from pisyncd.config import Config
from pisyncd.config.identity import KEPT, write_secret
from pisyncd.config.schema import Cloud
from pisyncd.core import wire
from pisyncd.core.errors import ConfigError, LinkDown
from pisyncd.meters import Goodput
from pisyncd.renewing import Renewing
from pisyncd.uplink import Uplink


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "state").mkdir()
    cloud = Cloud(url="http://127.0.0.1:9", token_file=tmp_path / "token")
    return Config(device_id="pi-1", cloud=cloud, state_dir=tmp_path / "state", watch=())


def uplink(token: str, url: str = "http://127.0.0.1:9") -> Uplink:
    return Uplink(
        url=url, token=token, connect_timeout_s=1, stall_s=1, ca_file=None,
        seen=lambda *_: None, told_time=lambda _: None, goodput=Goodput(),
    )  # fmt: skip


def test_a_given_token_counts_until_a_person_configures_another(config: Config, tmp_path: Path) -> None:
    assert settings.read_token(config, {}) == "first"
    settings.store_token(config, {}, "second")
    assert settings.read_token(config, {}) == "second"
    settings.store_token(config, {}, "third")
    assert settings.read_token(config, {}) == "third"
    assert settings.configured_token(config, {}) == "first"
    (tmp_path / "token").write_text("by-hand")
    assert settings.read_token(config, {}) == "by-hand"
    (tmp_path / "token").write_text("first")
    settings.forget_token(config)
    assert settings.read_token(config, {}) == "first"
    settings.forget_token(config)


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"of": "x"}', b'{"of": "x", "token": "a\\nb"}', b"\xff"])
def test_a_torn_file_is_none(config: Config, torn: bytes) -> None:
    (config.state_dir / KEPT).write_bytes(torn)
    assert settings.read_token(config, {}) == "first"


def test_a_secret_is_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    (tmp_path / "secret.new").write_text("left behind by a cut")
    write_secret(path, b"one")
    write_secret(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret"]


async def test_it_is_kept_before_it_is_used(config: Config) -> None:
    way = uplink("first")
    renewing = Renewing(config, way, "first")
    await renewing.take("second")
    assert (way.token, way.spare_token) == ("second", "first")
    (config.state_dir / KEPT).unlink()
    (config.state_dir / KEPT).mkdir()
    await renewing.take("third")
    assert way.token == "second", "what cannot be kept is not used"


async def test_a_restart_knows_the_configured_one_as_spare(config: Config) -> None:
    settings.store_token(config, {}, "second")
    way = uplink("second")
    renewing = Renewing(config, way, "second")
    assert way.spare_token == "first"
    way.renew("first")
    renewing.fall_back()
    assert settings.read_token(config, {}) == "first"
    assert not (config.state_dir / KEPT).exists()


async def test_a_cloud_that_was_set_back_is_met_with_the_token_before(aiohttp_server: Any) -> None:
    known = {"first"}

    async def probe(request: web.Request) -> web.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        if token not in known:
            return web.json_response({}, status=401)
        headers = {wire.PROOF_HEADER: wire.proof(token, request.headers[wire.CHALLENGE_HEADER])}
        return web.json_response({"proof": "", "server_time": "2026-01-01T00:00:00Z"}, headers=headers)

    app = web.Application()
    app.router.add_get("/api/probe", probe)
    server = await aiohttp_server(app)
    fell: list[str] = []
    way = uplink("second", str(server.make_url("/")))
    way.spare_token = "first"
    way.fell_back = lambda: fell.append(way.token)
    await way.probe(5)
    assert (way.token, fell) == ("first", ["first"])
    known.clear()
    way.spare_token = "second"
    with pytest.raises(LinkDown) as caught:
        await way.probe(5)
    assert (caught.value.code, way.token) == ("portal", "first"), "a portal knows neither: nothing is changed"
    await way.close()


def test_a_prepared_card_makes_one_token_and_keeps_it(config: Config, tmp_path: Path) -> None:
    (tmp_path / "fleet-key").write_text("pisync_fleet_key\n")
    cloud = replace(config.cloud, token_file=None, fleet_key_file=tmp_path / "fleet-key")
    card = replace(config, cloud=cloud)
    assert settings.own_token(card) is None
    token = settings.read_token(card, {})
    assert settings.read_token(card, {}) == token
    settings.accept_own_token(card)
    own = settings.own_token(card)
    assert own is not None
    assert (own.token, own.accepted) == (token, True)
    settings.store_token(card, {}, "given")
    assert settings.read_token(card, {}) == "given"
    assert settings.first_token(card, {}) == token
    with pytest.raises(ConfigError) as caught:
        settings.read_token(replace(card, cloud=replace(cloud, fleet_key_file=None)), {})
    assert caught.value.code == "token-missing"


@pytest.mark.parametrize("content", [b"", b"short", b"two words here", b"\xff" * 20])
def test_what_is_no_fleet_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fleet-key").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        settings.read_secret_line(tmp_path / "fleet-key")
    assert caught.value.hint
