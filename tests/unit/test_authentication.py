"""Who makes a request: tokens, keys, trusted proxies, and settings that would leave the door open."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mainstem_api.gateway.auth import authenticators, jwks
from mainstem_shared import errors
from mainstem_shared.model.principals import Principal
from mainstem_shared.settings import Settings
from support.fakes.identity_provider import (
    AUDIENCE,
    ISSUER,
    SECRET,
    SETTINGS,
    Provider,
    claims,
    ec_key,
    jwk,
    private_pem,
    public_pem,
    rsa_key,
    token,
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch):
    import os

    for name in list(os.environ):
        if name.upper().startswith("MAINSTEM_"):
            monkeypatch.delenv(name)


def scope(*headers: tuple[str, str], client: str | None = "10.0.0.5") -> dict[str, Any]:
    encoded = [(name.lower().encode(), value.encode("utf-8")) for name, value in headers]
    return {"type": "http", "headers": encoded, "client": (client, 1) if client else None}


async def ask(settings: dict[str, Any], *tokens: str) -> Principal:
    """Ask an authenticator made for this about a request with these bearer tokens."""
    made = authenticators.authenticator(Settings(**settings))
    try:
        return await made.authenticate(scope(*(("Authorization", f"Bearer {one}") for one in tokens)))
    finally:
        await made.aclose()


def b64(data: bytes | dict[str, Any]) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


# -- tokens


async def test_a_good_token_names_user_tenant_and_scope():
    """`sub` is the user; `tenant` is optional; `admin` is one word of the scope, not a part of one."""
    assert await ask(SETTINGS, token("ann")) == Principal(user_id="ann")
    assert await ask(SETTINGS, token("ann", tenant="acme")) == Principal(user_id="ann", tenant="acme")
    for spelled in ("read admin", ["read", "admin"], "admin"):
        assert (await ask(SETTINGS, token(scope=spelled))).is_admin, spelled
    for spelled in ("administrator", "not-admin", ["admins"], {"admin": True}, 1, ""):
        assert not (await ask(SETTINGS, token(scope=spelled))).is_admin, spelled


@pytest.mark.parametrize(
    "bad",
    [
        token(expires_s=-60),
        token(nbf=2**31),
        token(iss="https://other.test"),
        token(iss=None),
        token(aud="other"),
        token(aud=None),
        token(exp=None),
        token(sub=None),
        token(sub=""),
        token(sub="x" * 256),
        token(sub="a\nb"),
        token(tenant=""),
        token(tenant=7),
        token(exp=float("inf")),
        token(exp=[1]),
        token(sub=7),
        token(tenant=["default"]),
        token(key="another secret of thirty-two bytes"),
        token(algorithm="HS384", key=SECRET + "0123456789"),
        token()[:-2],
        token() + "x",
        token().rpartition(".")[0] + ".",
        "",
        "x",
        "a.b.c",
        "..",
        "é",
        b64({"alg": "none"}) + "." + b64(claims()) + ".",
        b64({"alg": "None", "typ": "JWT"}) + "." + b64(claims()) + ".",
        b64({"alg": "HS256", "kid": 7}) + "." + b64(claims()) + ".x",
        b64({"alg": ["HS256"]}) + "." + b64(claims()) + ".x",
        b64(b"[" * 100_000) + "." + b64(claims()) + ".x",
        b64(b"\xff") + ".x.x",
    ],
)
async def test_a_bad_token_is_refused_without_saying_much(bad: str):
    """Whatever is wrong with it: not authenticated, and nothing that it says is repeated."""
    with pytest.raises(errors.NotAuthenticated) as refused:
        await ask(SETTINGS, bad)
    assert refused.value.detail in {
        "The token expired.", "The token is not valid here.", "The user or tenant named is none.",
        "Send one Authorization header: Bearer and a token.",
    }  # fmt: skip


async def test_clocks_may_differ_a_little():
    """By MAINSTEM_JWT_LEEWAY_S, in both directions."""
    assert await ask(SETTINGS, token(expires_s=-10))
    with pytest.raises(errors.NotAuthenticated, match="expired"):
        await ask({**SETTINGS, "jwt_leeway_s": 0}, token(expires_s=-10))


async def test_the_header_is_one_bearer_token():
    """Two headers, another scheme, no token: refused, with a challenge that says what is wanted."""
    made = authenticators.authenticator(Settings(**SETTINGS))
    good = token()
    assert await made.authenticate(scope(("authorization", f"bearer {good}")))
    for headers in (
        (), (("authorization", good),), (("authorization", f"Basic {good}"),), (("authorization", "Bearer "),),
        (("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")),
    ):  # fmt: skip
        with pytest.raises(errors.NotAuthenticated):
            await made.authenticate(scope(*headers))


@pytest.mark.parametrize("spelled", ["pem", "file"])
async def test_rs256_takes_only_what_the_private_key_signed(tmp_path: Path, spelled: str):
    """No token chooses its algorithm: a public key is never a shared secret."""
    pem = public_pem(rsa_key())
    path = tmp_path / "key.pem"
    path.write_text(pem)
    settings = {**SETTINGS, "jwt_secret": None, "jwt_public_key": pem if spelled == "pem" else str(path)}
    assert await ask(settings, token(key=rsa_key(), algorithm="RS256")) == Principal(user_id="ann")
    head = b64({"alg": "HS256", "typ": "JWT"}) + "." + b64(claims())
    confused = head + "." + b64(hmac.digest(pem.encode(), head.encode(), hashlib.sha256))
    for bad in (
        confused,
        token(),
        token(key=rsa_key(1), algorithm="RS256"),
        token(key=rsa_key(), algorithm="RS512"),
        token(key=rsa_key(), algorithm="PS256"),
    ):
        with pytest.raises(errors.NotAuthenticated):
            await ask(settings, bad)


# -- key sets


def provided(url: str) -> dict[str, Any]:
    return {**SETTINGS, "jwt_secret": None, "jwt_jwks": url}


def asker(url: str) -> tuple[Callable[[str], Awaitable[Principal]], authenticators.Authenticator]:
    made = authenticators.authenticator(Settings(**provided(url)))

    async def one(given: str) -> Principal:
        return await made.authenticate(scope(("authorization", f"Bearer {given}")))

    return one, made


async def test_a_key_set_gives_each_key_one_algorithm():
    """RSA and EC keys by their ids; a key for encryption, a symmetric one, one for another algorithm: never."""
    secret = {"kty": "oct", "kid": "s", "k": b64(SECRET.encode()), "alg": "HS256"}
    with Provider(
        jwk(rsa_key(), "r"),
        jwk(ec_key(), "e"),
        jwk(rsa_key(1), "enc", use="enc"),
        jwk(rsa_key(1), "other", alg="RS512"),
        {"kty": "RSA", "kid": "broken"},
        secret,
    ) as provider:
        one, made = asker(provider.url)
        assert await one(token(key=rsa_key(), algorithm="RS256", kid="r"))
        assert await one(token(key=ec_key(), algorithm="ES256", kid="e"))
        for bad in (
            token(kid="s"),
            token(kid="r"),
            token(key=public_pem(rsa_key()).replace("-----BEGIN", "x"), kid="r"),
            token(key=rsa_key(), algorithm="RS512", kid="r"),
            token(key=rsa_key(), algorithm="RS256", kid="e"),
            token(key=rsa_key(1), algorithm="RS256", kid="enc"),
            token(key=rsa_key(1), algorithm="RS512", kid="other"),
            token(key=rsa_key(), algorithm="RS256"),  # two keys, and it names none
        ):
            with pytest.raises(errors.NotAuthenticated):
                await one(bad)
        assert provider.asked == 1
        await made.aclose()


async def test_a_rotated_key_is_fetched_once_and_invented_ones_are_not(monkeypatch: pytest.MonkeyPatch):
    """Many requests at once share one fetch; unknown ids cost the provider one request in COOLDOWN_S."""
    with Provider(jwk(rsa_key(), "old")) as provider:
        one, made = asker(provider.url)
        assert await one(token(key=rsa_key(), algorithm="RS256"))  # the only key needs no id
        provider.keys = [jwk(rsa_key(1), "new")]
        fresh = token(key=rsa_key(1), algorithm="RS256", kid="new")
        with pytest.raises(errors.NotAuthenticated):
            await one(fresh)
        assert provider.asked == 1
        monkeypatch.setattr(jwks, "COOLDOWN_S", 0.0)
        assert len(await asyncio.gather(*(one(fresh) for _ in range(20)))) == 20
        assert provider.asked == 2
        monkeypatch.undo()
        for number in range(20):
            with pytest.raises(errors.NotAuthenticated):
                await one(token(key=rsa_key(1), algorithm="RS256", kid=f"invented{number}"))
        with pytest.raises(errors.NotAuthenticated):
            await one(token(key=rsa_key(), algorithm="RS256", kid="old"))  # withdrawn
        assert provider.asked == 2
        await made.aclose()


async def test_old_keys_are_renewed_behind_the_requests(monkeypatch: pytest.MonkeyPatch):
    """A request with a known key waits for nobody, not even for a provider that is broken."""
    with Provider(jwk(rsa_key(), "k")) as provider:
        one, made = asker(provider.url)
        good = token(key=rsa_key(), algorithm="RS256", kid="k")
        assert await one(good)
        monkeypatch.setattr(jwks, "REFRESH_S", 0.0)
        monkeypatch.setattr(jwks, "COOLDOWN_S", 0.0)
        provider.broken = True
        assert await one(good)
        fetching = made._keys._fetching
        assert fetching is not None
        await asyncio.wait({fetching})
        assert provider.asked == 2
        assert await one(good)  # the provider's failure locks nobody out
        with pytest.raises(errors.KeysUnavailable):
            await one(token(key=rsa_key(), algorithm="RS256", kid="unknown"))  # who knows?
        monkeypatch.setattr(jwks, "TRUST_S", 0.0)
        with pytest.raises(errors.KeysUnavailable):
            await one(good)  # for a day, not for ever
        await made.aclose()


async def test_a_provider_that_never_answered_is_temporary():
    """Nobody is told that their token is wrong while nobody can know."""
    with Provider(jwk(rsa_key(), "k")) as provider:
        provider.broken = True
        one, made = asker(provider.url)
        with pytest.raises(errors.KeysUnavailable):
            await one(token(key=rsa_key(), algorithm="RS256", kid="k"))
        await made.aclose()
        provider.broken = False
        one, made = asker(provider.url.replace("jwks.json", "moved"))  # keys come from where the settings say
        with pytest.raises(errors.KeysUnavailable):
            await one(token(key=rsa_key(), algorithm="RS256", kid="k"))
        await made.aclose()


async def test_a_key_set_may_be_a_file(tmp_path: Path):
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk(ec_key(), "e")]}))
    assert await ask(provided(str(path)), token(key=ec_key(), algorithm="ES256", kid="e"))


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [1]}', b"<html>"])
def test_what_is_no_key_set_is_refused(document: bytes):
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        jwks.parse(document)


# -- proxies

PROXY: dict[str, Any] = {
    "auth": "proxy",
    "proxy_peers": "10.0.0.0/24, fd00::1",
    "proxy_tenant_header": "X-Tenant",
    "proxy_scope_header": "X-Scope",
}


async def test_a_listed_proxy_names_the_user():
    made = authenticators.authenticator(Settings(**PROXY))
    headers = (("X-Forwarded-User", "änn"), ("X-Tenant", "acme"), ("X-Scope", "admin"))
    for peer in ("10.0.0.5", "::ffff:10.0.0.5", "fd00::1"):
        found = await made.authenticate(scope(*headers, client=peer))
        assert found == Principal(user_id="änn", tenant="acme", is_admin=True)
    assert await made.authenticate(scope(headers[0])) == Principal(user_id="änn")


async def test_nobody_else_does():
    """Not a stranger, whatever headers say; not without an address; and not a proxy that is of two minds."""
    made = authenticators.authenticator(Settings(**PROXY))
    user = ("X-Forwarded-User", "ann")
    for headers, peer in (
        ((user,), "10.0.1.5"),
        ((user, ("X-Forwarded-For", "10.0.0.5"), ("Forwarded", "for=10.0.0.5")), "127.0.0.1"),
        ((user,), None),
        ((user,), "unix"),
        ((), "10.0.0.5"),
        ((("X-Forwarded-User", ""),), "10.0.0.5"),
        ((user, user), "10.0.0.5"),
        ((user, ("X-Tenant", "a"), ("X-Tenant", "b")), "10.0.0.5"),
        ((user, ("X-Scope", "read"), ("X-Scope", "admin")), "10.0.0.5"),
        ((("X-Forwarded-User", "a\tb"),), "10.0.0.5"),
    ):
        with pytest.raises(errors.NotAuthenticated):
            await made.authenticate(scope(*headers, client=peer))
    latin = {"type": "http", "headers": [(b"x-forwarded-user", b"\xe4nn")], "client": ("10.0.0.5", 1)}
    with pytest.raises(errors.NotAuthenticated):
        await made.authenticate(latin)


# -- settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
async def test_without_authentication_loopback_is_served(host: str):
    assert await authenticators.authenticator(Settings(host=host)).authenticate({}) == Principal()


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": ""},
        {"host": "192.168.1.2"},
        {"host": "no-such-host.invalid"},
        {"auth": "jwt"},
        {**SETTINGS, "jwt_issuer": None},
        {**SETTINGS, "jwt_audience": None},
        {**SETTINGS, "jwt_secret": None},
        {**SETTINGS, "jwt_secret": "short"},
        {**SETTINGS, "jwt_secret": public_pem(rsa_key())},
        {**SETTINGS, "jwt_public_key": public_pem(rsa_key())},
        {**SETTINGS, "jwt_jwks": "https://issuer.test/jwks.json"},
        {**SETTINGS, "jwt_secret": None, "jwt_public_key": "/no/such/file"},
        {**SETTINGS, "jwt_secret": None, "jwt_public_key": private_pem(rsa_key())},
        {**SETTINGS, "jwt_secret": None, "jwt_jwks": "http://issuer.test/jwks.json"},
        {"auth": "proxy"},
        {"auth": "proxy", "proxy_peers": " , "},
        {"auth": "proxy", "proxy_peers": "proxy.local"},
    ],
)
def test_settings_that_admit_everybody_are_refused(settings: dict[str, Any]):
    """Or that let nobody in; the gateway does not start, and says what to do, without any secret."""
    with pytest.raises(errors.Misconfigured) as refused:
        authenticators.authenticator(Settings(**settings))
    assert "MAINSTEM_" in refused.value.detail
    assert SECRET not in refused.value.detail


def test_secrets_do_not_show():
    settings = Settings(**SETTINGS, token="hunter2-hunter2")
    assert (settings.jwt_issuer, settings.jwt_audience) == (ISSUER, AUDIENCE)
    shown = repr(settings) + settings.model_dump_json()
    assert SECRET not in shown
    assert "hunter2" not in shown
