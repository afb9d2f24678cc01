"""Who a learner is: JSON Web Tokens (RFC 7519) of the application's own issuer, verified and remembered."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from cloud.flows import keysets
from cloud.flows.keysets import KeySet
from cloud.rules.access import Principal
from pisyncd.core import envelope
from pisyncd.core.errors import ConfigError
from pisyncd.core.problems import Refusal

REMEMBERED_MAX = 50_000
LEEWAY_S = 60
SECRET_BYTES_MIN = 32
_SHARED = "HS256"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="pisync", error="invalid_token"'}


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whose tokens count: a shared secret (HS256), public keys (RS256, ES256, EdDSA), or both; of which issuer."""

    secret: bytes = b""
    keys: KeySet | None = None
    issuer: str = ""
    audience: str = ""


def looks_like_jwt(token: str) -> bool:
    """Three parts with dots between; tokens of devices and keys have no dot."""
    return token.count(".") == 2


def trust(*, secret: str, secret_file: str, jwks: str, issuer: str, audience: str) -> Trust:
    """What the settings say. Raises ConfigError."""
    if secret and secret_file:
        raise ConfigError("jwt_secret and jwt_secret_file are both set", hint="keep one of them")
    found = secret.encode()
    if secret_file:
        try:
            found = Path(secret_file).read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise ConfigError(f"jwt_secret_file: {error}", hint="a file with the secret alone in it") from error
    if (secret or secret_file) and len(found) < SECRET_BYTES_MIN:
        raise ConfigError(
            f"the secret of users' tokens has {len(found)} bytes",
            hint=f"at least {SECRET_BYTES_MIN}: whoever guesses it is every learner; `openssl rand -base64 48`",
        )
    if jwks:
        keysets.check(jwks)
    return Trust(secret=found, keys=KeySet(jwks) if jwks else None, issuer=issuer, audience=audience)


class Users:
    """Answers which learner a token stands for, from memory when it can."""

    def __init__(self, trust: Trust, now_ms: Callable[[], int], *, remembered_max: int = REMEMBERED_MAX) -> None:
        self._trust = trust
        self._now_ms = now_ms
        self._max = remembered_max
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._generation = 0
        self.verified = 0

    @property
    def remembered(self) -> int:
        """How many tokens are remembered."""
        return len(self._known)

    async def who(self, token: str) -> Principal:
        """The learner. Raises Refusal 401, KeysUnavailable."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        # Also while every token is remembered the issuer must be able to withdraw a key.
        if self._trust.keys is not None:
            await self._trust.keys.keep_fresh()
        self._forget_if_keys_changed()
        entry = self._known.get(digest)
        if entry is not None:
            principal, ends_at_ms = entry
            if self._now_ms() < ends_at_ms:
                self._known.move_to_end(digest)
                return principal
            del self._known[digest]
        claims = await self._verify(token)
        user_id = claims["sub"]
        if not isinstance(user_id, str) or not envelope.is_uuid(user_id):
            raise _refused("`sub` is not a UUID", "`sub` has to be the learner's UUID")
        principal = Principal(kind="user", name=user_id.lower(), user_id=user_id.lower())
        self._forget_if_keys_changed()
        self._remember(digest, principal, (int(claims["exp"]) + LEEWAY_S) * 1000)
        return principal

    def _forget_if_keys_changed(self) -> None:
        # A key that was withdrawn must not live on in what it once verified.
        if self._trust.keys is not None and self._trust.keys.generation != self._generation:
            self._known.clear()
            self._generation = self._trust.keys.generation

    def _remember(self, digest: bytes, principal: Principal, ends_at_ms: float) -> None:
        self._known[digest] = principal, ends_at_ms
        if len(self._known) > self._max:
            self._known.popitem(last=False)

    async def _verify(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _refused(f"this is no JWT: {error}", "Authorization: Bearer HEADER.PAYLOAD.SIGNATURE") from None
        algorithm = header.get("alg")
        # The algorithm chooses the kind of key and never the other way: a public key is no secret for HS256.
        key: jwt.PyJWK | bytes | None = None
        if algorithm == _SHARED and self._trust.secret:
            key = self._trust.secret
        elif algorithm in keysets.ALGORITHMS and self._trust.keys is not None:
            key = await self._trust.keys.find(header.get("kid"), algorithm)
            if key is None:
                raise _refused("the issuer has no such key", "get a new token; the one that signed this is not known")
        if key is None:
            raise self._no_key(algorithm)
        self.verified += 1
        return self._claims(token, key, str(algorithm))

    def _no_key(self, algorithm: object) -> Refusal:
        allowed = [_SHARED] if self._trust.secret else []
        allowed += keysets.ALGORITHMS if self._trust.keys is not None else ()
        if not allowed:
            return _refused("no tokens of users are taken here", "set jwt_secret_file or jwt_jwks in the cloud")
        return _refused(f"tokens of {str(algorithm)[:40]!r} are not taken", f"sign it with {', '.join(allowed)}")

    def _claims(self, token: str, key: jwt.PyJWK | bytes, algorithm: str) -> dict[str, Any]:
        trust = self._trust
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                leeway=LEEWAY_S,
                issuer=trust.issuer or None,
                audience=trust.audience or None,
                options={
                    "require": ["exp", "sub", *(["iss"] if trust.issuer else []), *(["aud"] if trust.audience else [])],
                    "verify_aud": bool(trust.audience),
                },
            )
        except jwt.ExpiredSignatureError:
            raise Refusal(
                401, "token-expired", "this token has expired", hint="get a new token", headers=_CHALLENGE
            ) from None
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise _refused(f"this token does not hold: {error}", "get a new token from the issuer") from None


def _refused(detail: str, hint: str) -> Refusal:
    return Refusal(401, "token-refused", detail[:300], hint=hint, headers=_CHALLENGE)
