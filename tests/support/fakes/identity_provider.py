"""Tokens and keys as an identity provider makes them, and the provider itself, on loopback."""

from __future__ import annotations

import json
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

SECRET = "a secret of more than thirty-two bytes"
ISSUER, AUDIENCE = "https://issuer.test", "mainstem"
SETTINGS: dict[str, Any] = {
    "auth": "jwt",
    "jwt_secret": SECRET,
    "jwt_issuer": ISSUER,
    "jwt_audience": AUDIENCE,
}
"""Settings of a gateway that takes these tokens."""


@cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    """The same key for the same number: making one takes a while."""
    del number
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def claims(sub: Any = "ann", *, expires_s: float = 86_400, **others: Any) -> dict[str, Any]:
    """What a good token says; None leaves a claim out. Some are made when tests are collected."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "exp": int(time.time() + expires_s), **others}
    return {name: value for name, value in good.items() if value is not None}


def token(
    sub: Any = "ann", *, key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **others: Any
) -> str:
    return jwt.encode(claims(sub, **others), key, algorithm, headers={"kid": kid} if kid else None)


def bearer(sub: Any = "ann", **others: Any) -> dict[str, str]:
    """Headers of a request by this user."""
    return {"authorization": f"Bearer {token(sub, **others)}"}


def jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, kid: str, **members: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **members}


class Provider:
    """Serves a key set over HTTP, counts who asks, and can break. Use it as a context manager."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.broken = False
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                body = json.dumps({"keys": provider.keys}).encode()
                if self.path == "/moved":
                    self.send_response(302)
                    self.send_header("location", "/jwks.json")
                else:
                    self.send_response(500 if provider.broken else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/jwks.json"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
