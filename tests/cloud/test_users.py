"""Learners by JWT: who is let in, by whose signature, where to, and what no forged token can do."""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from conftest import Cloud, StartCloud
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud import config
from cloud.api.operations import OPERATIONS
from cloud.flows import keysets, users
from cloud.flows.keysets import KeySet, KeysUnavailable
from cloud.flows.users import Trust, Users
from cloud.services import open_services, wall_ms
from pisyncd.core.errors import ConfigError
from pisyncd.core.problems import Refusal

SECRET = "s" * 16 + "e" * 16
ME = "0A1B2C3D-0000-4000-8000-00000000000F"
QUESTION = str(uuid.uuid4())
NEW_SESSION = {"mode": "exam", "question_ids": [QUESTION]}


def claims(**more: Any) -> dict[str, Any]:
    said = {"sub": ME, "exp": int(time.time()) + 600, **more}
    return {name: value for name, value in said.items() if value is not None}


def signed(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **more: Any) -> str:
    return jwt.encode(claims(**more), key, algorithm, headers)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def begin(cloud: Cloud, token: str) -> tuple[int, Any]:
    return await cloud.call("POST", "/v1/sessions", json=NEW_SESSION, headers=bearer(token))


class Key:
    """A pair of keys of an issuer."""

    def __init__(self, algorithm: str, kid: str | None) -> None:
        self.algorithm, self.kid = algorithm, kid
        self.private: Any = {
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
        }[algorithm]()

    @property
    def public(self) -> dict[str, Any]:
        made = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        return {**made, **({"kid": self.kid} if self.kid else {}), "use": "sig"}

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, **more: Any) -> str:
        return signed(self.private, self.algorithm, {"kid": self.kid} if self.kid else None, **more)


@dataclass
class Issuer:
    """Serves its public keys."""

    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    answer: web.Response | None = None
    asked: int = 0


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    made = Issuer()

    async def serve(_request: web.Request) -> web.Response:
        made.asked += 1
        if made.answer is not None:
            return web.Response(status=made.answer.status, body=made.answer.body, headers=made.answer.headers)
        return web.json_response({"keys": made.keys})

    app = web.Application()
    app.router.add_get("/jwks.json", serve)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    made.url = str(server.make_url("/jwks.json"))
    yield made
    await server.close()


async def test_a_learner_is_let_in_by_a_shared_secret(start_cloud: StartCloud, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    for how in ({"jwt_secret": SECRET}, {"jwt_secret_file": str(tmp_path / "secret")}):
        cloud = await start_cloud(**how)
        status, made = await begin(cloud, signed())
        assert (status, made["user_id"]) == (201, ME.lower())


@pytest.mark.parametrize(
    ("made", "code"),
    [
        pytest.param(lambda: signed(exp=int(time.time()) - 61), "token-expired", id="over"),
        pytest.param(lambda: signed(exp=None), "token-refused", id="without-an-end"),
        pytest.param(lambda: signed(sub=None), "token-refused", id="nobody"),
        pytest.param(lambda: signed(sub="learner-1"), "token-refused", id="a-name"),
        pytest.param(lambda: signed(sub=ME + "\n"), "token-refused", id="a-line"),
        pytest.param(lambda: signed(nbf=int(time.time()) + 36_000), "token-refused", id="not-yet"),
        pytest.param(lambda: signed(iat=int(time.time()) + 36_000), "token-refused", id="of-tomorrow"),
        pytest.param(lambda: signed("x" * 32), "token-refused", id="another-secret"),
        pytest.param(lambda: signed(algorithm="HS512", key="k" * 64), "token-refused", id="another-algorithm"),
        pytest.param(lambda: signed("", "none"), "token-refused", id="unsigned"),
        pytest.param(lambda: signed(headers={"crit": ["b64"], "b64": False}), "token-refused", id="unknown-crit"),
        pytest.param(lambda: signed()[:-2], "token-refused", id="cut"),
        pytest.param(lambda: signed() + "é", "token-refused", id="not-ascii"),
        pytest.param(lambda: "a.b.c", "token-refused", id="no-json"),
        pytest.param(lambda: "..", "token-refused", id="empty"),
        pytest.param(lambda: base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.e30", "token-refused", id="deep"),
        pytest.param(lambda: "W10.e30.e30", "token-refused", id="a-list"),
        pytest.param(lambda: "bnVsbA.e30.e30", "token-refused", id="null"),
    ],
)
async def test_tokens_that_do_not_hold(start_cloud: StartCloud, made: Callable[[], str], code: str) -> None:
    cloud = await start_cloud(jwt_secret=SECRET)
    async with cloud.http.post(cloud.url + "/v1/sessions", json=NEW_SESSION, headers=bearer(made())) as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"], problem["retryable"]) == (401, code, False)
        assert problem["hint"]
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_small_difference_of_clocks_is_forgiven(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(jwt_secret=SECRET)
    assert (await begin(cloud, signed(exp=int(time.time()) - 30)))[0] == 201
    assert (await begin(cloud, signed(nbf=int(time.time()) + 30)))[0] == 201


async def test_issuer_and_audience_count_when_they_are_set(start_cloud: StartCloud) -> None:
    free = await start_cloud(jwt_secret=SECRET)
    assert (await begin(free, signed(aud="anything", iss="anybody")))[0] == 201
    strict = await start_cloud(jwt_secret=SECRET, jwt_issuer="https://id.example.org", jwt_audience="pisync")
    right = {"iss": "https://id.example.org", "aud": ["pisync", "other"]}
    assert (await begin(strict, signed(**right)))[0] == 201
    for wrong in ({"iss": None}, {"aud": None}, {"iss": "https://id.example.com"}, {"aud": "other"}, {"aud": 5}):
        status, problem = await begin(strict, signed(**(right | wrong)))
        assert (status, problem["code"]) == (401, "token-refused")


async def test_without_settings_no_learner_is_let_in(cloud_lite: Cloud) -> None:
    for token in (signed(), signed("", "none"), Key("ES256", "k").sign()):
        status, problem = await begin(cloud_lite, token)
        assert (status, problem["code"]) == (401, "token-refused")
        assert "jwt_secret_file" in problem["hint"]


@pytest.mark.parametrize("algorithm", keysets.ALGORITHMS)
async def test_a_learner_is_let_in_by_the_issuers_key(start_cloud: StartCloud, issuer: Issuer, algorithm: str) -> None:
    key, other = Key(algorithm, "k1"), Key(algorithm, "k1")
    issuer.keys = [Key("ES384", "k0").public, {"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}, {"kty": "?"}, key.public]
    cloud = await start_cloud(jwt_jwks=issuer.url)
    assert (await begin(cloud, key.sign()))[0] == 201
    for forged in (other.sign(), signed(key.private, algorithm, {"kid": "k2"}), Key("ES384", "k0").sign()):
        assert (await begin(cloud, forged))[0] == 401


async def test_keys_may_stand_in_a_file(start_cloud: StartCloud, tmp_path: Path) -> None:
    key = Key("EdDSA", None)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key.public]}))
    cloud = await start_cloud(jwt_jwks=str(tmp_path / "jwks.json"))
    assert (await begin(cloud, key.sign()))[0] == 201
    assert (await begin(cloud, signed(key.private, "EdDSA", {"kid": "unknown"})))[0] == 401


async def test_a_public_key_is_no_secret(start_cloud: StartCloud, issuer: Issuer, tmp_path: Path) -> None:
    key = Key("RS256", "k1")
    issuer.keys = [key.public]
    cloud = await start_cloud(jwt_jwks=issuer.url)
    both = await start_cloud(jwt_jwks=issuer.url, jwt_secret=SECRET)
    assert (await begin(cloud, key.sign()))[0] == 201
    assert (await begin(both, key.sign()))[0] == 201
    assert (await begin(both, signed()))[0] == 201
    for secret in (key.pem, key.pem.strip(), json.dumps(key.public).encode(), key.public["n"].encode()):
        forged = hmac_signed(secret, {"alg": "HS256", "kid": "k1", "typ": "JWT"})
        for each in (cloud, both):
            assert (await begin(each, forged))[0] == 401
    for header in (
        {"alg": "none", "kid": "k1"},
        {"alg": "None"},
        {"alg": "ES256", "kid": "k1"},
        {"alg": "RS256", "kid": "k1", "jwk": Key("RS256", "k1").public},
        {"alg": "RS256", "kid": "k1", "jku": issuer.url},
        {"alg": ["RS256"], "kid": "k1"},
        {"alg": "RS256", "kid": ["k1"]},
        {"alg": "HS256", "kid": "../../../dev/null"},
        {"kid": "k1"},
    ):
        for each in (cloud, both):
            assert (await begin(each, hmac_signed(b"", header)))[0] == 401


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def hmac_signed(secret: bytes, header: Any, body: Any = None) -> str:
    text = f"{part(header)}.{part(claims() if body is None else body)}"
    digest = jwt.get_algorithm_by_name("HS256").sign(text.encode(), secret) if secret else b""
    return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def test_a_new_key_of_the_issuer_is_fetched(
    start_cloud: StartCloud, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keysets, "REFRESH_MIN_S", 0.0)
    first, second = Key("ES256", "k1"), Key("RS256", "k2")
    issuer.keys = [first.public]
    cloud = await start_cloud(jwt_jwks=issuer.url)
    old = first.sign()
    assert (await begin(cloud, old))[0] == 201
    issuer.keys = [first.public, second.public]
    assert (await begin(cloud, second.sign()))[0] == 201
    assert (await begin(cloud, old))[0] == 201
    # What a withdrawn key once verified is not remembered beyond the next fetch.
    issuer.keys = [second.public]
    assert (await begin(cloud, Key("ES256", "k3").sign()))[0] == 401
    assert (await begin(cloud, old))[0] == 401
    assert (await begin(cloud, second.sign()))[0] == 201


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_the_issuer_is_asked_at_most_once_a_minute_and_its_keys_outlive_its_outages(issuer: Issuer) -> None:
    clock = Clock()
    key, later = Key("ES256", "k1"), Key("ES256", "k2")
    issuer.keys = [key.public]
    found = KeySet(issuer.url, clock=clock)
    assert await found.find("k1", "ES256") is not None
    for _ in range(20):
        assert await found.find("k2", "ES256") is None
    assert issuer.asked == 1
    for bad in (
        web.Response(status=500),
        web.Response(status=302, headers={"Location": issuer.url}),
        web.Response(body=b"<html>"),
        web.Response(body=b'{"keys": 5}'),
        web.Response(body=b"[" * 100_000),
        web.Response(body=b" " * (keysets.BYTES_MAX + 1)),
    ):
        issuer.answer = bad
        clock.now += 61
        with pytest.raises(KeysUnavailable):
            await found.find("k2", "ES256")
        assert await found.find("k1", "ES256") is not None
    assert issuer.asked == 7
    clock.now += keysets.AGE_MAX_S
    assert await found.find("k1", "ES256") is not None
    assert issuer.asked == 8
    issuer.answer, issuer.keys = None, [later.public]
    clock.now += 61
    assert await found.find("k2", "ES256") is not None
    assert await found.find("k1", "ES256") is None
    assert found.generation == 2


async def test_a_withdrawn_key_ends_what_is_remembered_of_it_within_the_hour(issuer: Issuer) -> None:
    clock = Clock()
    key = Key("ES256", "k1")
    issuer.keys = [key.public]
    who = Users(Trust(keys=KeySet(issuer.url, clock=clock)), wall_ms)
    token = key.sign(exp=int(time.time()) + 24 * 3600)
    assert (await who.who(token)).user_id == ME.lower()
    issuer.keys = []
    clock.now += keysets.AGE_MAX_S
    assert (await who.who(token)).user_id == ME.lower()
    clock.now += 1
    with pytest.raises(Refusal):
        await who.who(token)
    assert issuer.asked == 2


async def test_keys_that_were_never_there_are_the_clouds_trouble(start_cloud: StartCloud, issuer: Issuer) -> None:
    issuer.answer = web.Response(status=503)
    cloud = await start_cloud(jwt_jwks=issuer.url)
    status, problem = await begin(cloud, Key("ES256", "k1").sign())
    assert (status, problem["code"], problem["retryable"]) == (503, "keys-unavailable", True)
    # Whoever needs no key of the issuer is served meanwhile.
    device = await cloud.enroll("pi-1")
    assert (await cloud.call("GET", "/api/probe?challenge=a", headers=device))[0] == 200


async def test_a_token_is_verified_once_and_the_memory_is_bounded() -> None:
    now = [wall_ms()]
    who = Users(Trust(secret=SECRET.encode()), lambda: now[0], remembered_max=3)
    token = signed(exp=int(time.time()) - 20)
    for _ in range(5):
        assert (await who.who(token)).user_id == ME.lower()
    assert (who.verified, who.remembered) == (1, 1)
    now[0] += 41_000  # its end and the leeway are over by this clock: it is not taken from memory
    await who.who(token)
    assert who.verified == 2
    for number in range(6):
        await who.who(signed(jti=str(number)))
    assert who.remembered == 3
    for number in range(6):
        with pytest.raises(Refusal):
            await who.who(signed("w" * 32, jti=str(number)))
    assert who.remembered == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("sub", "exp", "nbf", "iat", "iss", "aud", "jti")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "cty"]), JSON, max_size=4) | JSON,
    st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, JSON)) | JSON,
    st.booleans(),
)
async def test_whatever_a_token_says_it_is_a_learner_or_refused(header: Any, body: Any, honest: bool) -> None:
    who = Users(Trust(secret=SECRET.encode(), issuer="me", audience="you"), wall_ms)
    if honest and isinstance(header, dict):
        header = {**header, "alg": "HS256"}
    if honest and isinstance(body, dict):
        body = {"sub": ME, "exp": 2**40, "iss": "me", "aud": "you", **body}
    try:
        found = await who.who(hmac_signed(SECRET.encode(), header, body))
    except Refusal as error:
        assert error.status == 401
    else:
        assert honest
        assert len(found.user_id) == 36


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
async def test_a_learner_reaches_nothing_else(start_cloud: StartCloud, operation: Any) -> None:
    cloud = await start_cloud(jwt_secret=SECRET)
    await cloud.enroll("pi-1")
    path = operation.path
    for name, value in (("device_id", "pi-1"), ("session_id", ME), ("upload", "0" * 32), ("path", "a/b")):
        path = path.replace(f"{{{name}}}", value)
    path = re.sub(r"{\w+}", "progress", path)
    query = {one.name: "abc" for one in operation.params if one.place == "query" and one.required}
    headers = {**bearer(signed()), "Tus-Resumable": "1.0.0", "Content-Type": operation.body_media}
    status, answer = await cloud.call(operation.method, path, params=query, headers=headers)
    if "U" in operation.auth or operation.auth == "P":
        assert status not in (401, 403)
    else:
        assert status == 403
        assert operation.method == "HEAD" or answer["code"] == "role-missing"


async def test_a_learner_sees_no_page(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(jwt_secret=SECRET, open_dashboard=True)
    for path in ("/", "/devices/pi-1"):
        assert (await cloud.call("GET", path, headers=bearer(signed())))[0] == 403


@pytest.mark.parametrize(
    ("settings_", "word"),
    [
        ({"jwt_secret": "short"}, "at least 32"),
        ({"jwt_secret": SECRET, "jwt_secret_file": "/dev/null"}, "keep one"),
        ({"jwt_secret_file": "/dev/null"}, "at least 32"),
        ({"jwt_secret_file": "/nowhere/secret"}, "secret alone"),
        ({"jwt_jwks": "http://id.example.org/jwks.json"}, "could be anybody's"),
        ({"jwt_jwks": "ftp://id.example.org/jwks.json"}, "could be anybody's"),
        ({"jwt_jwks": "/nowhere/jwks.json"}, '{"keys": [...]}'),
        ({"jwt_jwks": "/dev/null"}, '{"keys": [...]}'),
    ],
)
async def test_settings_that_would_let_anybody_in_are_refused(
    settings_: dict[str, str], word: str, tmp_path: Path
) -> None:
    chosen = config.Settings(data=str(tmp_path), **settings_)
    with pytest.raises(ConfigError) as caught:
        async with open_services(chosen):
            pass
    assert word in caught.value.hint
    assert "short" not in caught.value.detail


def test_the_secret_may_come_from_the_environment() -> None:
    loaded = config.load(flags={}, environment={"PISYNC_CLOUD_JWT_SECRET": SECRET}, file=None)
    assert loaded.jwt_secret == SECRET
    assert users.trust(secret=loaded.jwt_secret, secret_file="", jwks="", issuer="", audience="").secret


def test_a_file_without_a_usable_key_is_refused(tmp_path: Path) -> None:
    private = {**Key("ES256", "k").public, "d": "AQ"}
    for keys in ([], [{"kty": "oct", "k": "c2VjcmV0"}], [Key("ES384", "k").public], [private]):
        (tmp_path / "jwks.json").write_text(json.dumps({"keys": keys}))
        with pytest.raises(ConfigError):
            keysets.check(str(tmp_path / "jwks.json"))
