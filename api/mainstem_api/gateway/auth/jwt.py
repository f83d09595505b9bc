"""`MAINSTEM_AUTH=jwt` checks bearer tokens with PyJWT.

A deployment has one kind of key, and each key exactly one algorithm: what a token's header says can never
choose another. Keys of an identity provider live in `jwks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.datastructures import Headers
from starlette.types import Scope

from mainstem_api.gateway.auth.claims import principal
from mainstem_api.gateway.auth.verification_keys import RSA_BITS, Key, Keys
from mainstem_shared import errors
from mainstem_shared.model.principals import Principal
from mainstem_shared.settings import Settings

SECRET_BYTES: Final = 32
"""RFC 7518, 3.2: a key of the size of the hash output or larger. Shorter ones can be guessed off line."""
_REQUIRED: Final = ["exp", "iss", "aud", "sub"]
_INVALID: Final = 'Bearer error="invalid_token"'


@dataclass(frozen=True, slots=True)
class OneKey:
    """The key that stands in the settings; what a token calls its key does not matter."""

    key: Key

    async def find(self, kid: str | None) -> Key | None:
        del kid
        return self.key

    async def aclose(self) -> None:
        pass


class JwtAuthentication:
    """Users are who their tokens say: `sub`, optional `tenant`, and `admin` among the words of `scope`."""

    def __init__(self, settings: Settings) -> None:
        if not (settings.jwt_issuer and settings.jwt_audience):
            raise errors.Misconfigured(
                "MAINSTEM_AUTH=jwt needs MAINSTEM_JWT_ISSUER and MAINSTEM_JWT_AUDIENCE: without them tokens "
                "that were issued for other services would open this one."
            )
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._leeway_s = settings.jwt_leeway_s
        self._keys = _keys(settings)

    async def authenticate(self, scope: Scope) -> Principal:
        token = _bearer(Headers(scope=scope))
        claims = await self._claims(token)
        return principal(claims["sub"], claims.get("tenant"), claims.get("scope"))

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = await self._keys.find(kid)
            if key is None:
                raise _refusal("The token's key is not known.")
            return jwt.decode(
                token,
                key.material,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_s,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError:
            raise _refusal("The token expired.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # Not why: that would help those who try, and might repeat what the token says.
            raise _refusal("The token is not valid here.") from None

    async def aclose(self) -> None:
        await self._keys.aclose()


def _bearer(headers: Headers) -> str:
    given = headers.getlist("authorization")
    scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise errors.NotAuthenticated("Send one Authorization header: Bearer and a token.")
    return token.strip()


def _refusal(words: str) -> errors.NotAuthenticated:
    return errors.NotAuthenticated(words, challenge=_INVALID)


def _keys(settings: Settings) -> Keys:
    given = [settings.jwt_secret, settings.jwt_public_key, settings.jwt_jwks]
    if sum(one is not None for one in given) != 1:
        raise errors.Misconfigured(
            "MAINSTEM_AUTH=jwt needs exactly one of MAINSTEM_JWT_SECRET, MAINSTEM_JWT_PUBLIC_KEY and "
            "MAINSTEM_JWT_JWKS."
        )
    if settings.jwt_secret is not None:
        return OneKey(_secret(settings.jwt_secret.get_secret_value()))
    if settings.jwt_public_key is not None:
        return OneKey(_public_key(settings.jwt_public_key))
    from mainstem_api.gateway.auth.jwks import KeySet, source

    return KeySet(source(settings.jwt_jwks or ""))


def _secret(text: str) -> Key:
    material = text.encode()
    if len(material) < SECRET_BYTES:
        raise errors.Misconfigured(f"MAINSTEM_JWT_SECRET needs at least {SECRET_BYTES} bytes.")
    if b"-----BEGIN" in material:
        raise errors.Misconfigured("MAINSTEM_JWT_SECRET is a PEM; a public key is MAINSTEM_JWT_PUBLIC_KEY.")
    return Key(algorithm="HS256", material=material)


def _public_key(given: str) -> Key:
    try:
        pem = given.encode() if given.lstrip().startswith("-----BEGIN") else Path(given).read_bytes()
        material = load_pem_public_key(pem)
    except (OSError, ValueError) as error:
        raise errors.Misconfigured(f"MAINSTEM_JWT_PUBLIC_KEY is no PEM of a public key: {error}") from error
    if not isinstance(material, RSAPublicKey) or material.key_size < RSA_BITS:
        raise errors.Misconfigured(f"MAINSTEM_JWT_PUBLIC_KEY must be an RSA key of {RSA_BITS} bits or more.")
    return Key(algorithm="RS256", material=material)
