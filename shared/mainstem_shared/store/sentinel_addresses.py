"""Parses addresses of servers behind Sentinels, in Mainstem's form and in Celery's.

Each node is read by redis-py, as an address of its own: it knows IPv6, percent-encoding and the options of
its connections. What no library has is the list of nodes, and the service:

    sentinel://[user:password@]host[:port][,host[:port]]…/service[/db][?option=value&…]
    sentinel://[user:password@]host[:port]/db;sentinel://…/db?master_name=service        (Celery's)

`sentinels://` and `rediss+sentinel://` use TLS. User and password are the servers'; the Sentinels' own are
options (`sentinel_username`, `sentinel_password`, `sentinel_ssl`, …). Other options are redis-py's.
"""

# Redis-py's types are partly unknown.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from redis.connection import AbstractConnection, Connection, SSLConnection, parse_url

from mainstem_shared import errors
from mainstem_shared.store.redaction import redacted

PORT: Final = 26379
SCHEMES: Final = {
    "sentinel": False,
    "redis+sentinel": False,
    "redis-sentinel": False,
    "sentinels": True,
    "rediss+sentinel": True,
    "rediss-sentinel": True,
}
"""Which schemes mean Sentinels, and which of them TLS."""
_SERVICE: Final = ("master_name", "service_name", "service")
_OWN: Final = "sentinel_"
_YES: Final = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelAddress:
    """One service: the Sentinels that know its servers; redis-py's options to speak to both kinds."""

    nodes: tuple[tuple[str, int], ...]
    service: str
    db: int = 0
    server: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    sentinel: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @property
    def celery_url(self) -> str:
        """The address as kombu reads it; the service's name is a transport option there."""
        name, password = self.server.get("username") or "", self.server.get("password") or ""
        login = f"{quote(name, safe='')}:{quote(password, safe='')}@" if name or password else ""
        return ";".join(f"sentinel://{login}{_netloc(*node)}/{self.db}" for node in self.nodes)

    @property
    def celery_transport_options(self) -> dict[str, Any]:
        return {"master_name": self.service, "sentinel_kwargs": dict(self.sentinel)}

    @property
    def celery_ssl(self) -> dict[str, Any] | None:
        """TLS' options as Celery's `broker_use_ssl` has them; None without TLS."""
        if not self.server.get("ssl"):
            return None
        options = {name: value for name, value in self.server.items() if name.startswith("ssl_")}
        return {"ssl_cert_reqs": "required", **options}


def is_sentinel(url: str) -> bool:
    """Tell whether an address names Sentinels."""
    return url.partition("://")[0].lower() in SCHEMES


def parse(url: str) -> SentinelAddress:
    """Take an address of Sentinels apart.

    Raises:
        Misconfigured: it cannot be read, or names no service. The message has no secret in it.
    """
    try:
        return _parse(url)
    except (ValueError, TypeError, AttributeError):
        # Without the cause: what it quotes may be a piece of a password.
        raise errors.Misconfigured(
            f"{redacted(url)} is no address of Sentinels: it should be sentinel://[user:password@]host:port,"
            "host:port/service/db, with special characters percent-encoded."
        ) from None


def of_celery(url: str, options: Mapping[str, Any] | None, use_ssl: object = None) -> str:
    """Return a Celery application's broker address with what it says elsewhere, as one address."""
    if not is_sentinel(url) or not options:
        return url
    own: dict[str, Any] = {
        f"{_OWN}{name}": value for name, value in (options.get("sentinel_kwargs") or {}).items()
    }
    query: dict[str, Any] = {"master_name": options.get("master_name"), **own}
    if use_ssl:
        query |= {"ssl": True, **(use_ssl if isinstance(use_ssl, Mapping) else {})}
    words = {name: _word(value) for name, value in query.items() if value is not None}
    return f"{url}{'&' if '?' in url else '?'}{urlencode(words)}"


def _parse(url: str) -> SentinelAddress:
    pieces = [urlsplit("//" + piece.rpartition("://")[2]) for piece in url.split(";")]
    nodes = [_node(host) for piece in pieces for host in piece.netloc.split(",")]
    (login,) = {login for _, login in nodes if any(login)} or {("", "")}  # two of them: which is right?
    (path,) = {piece.path.strip("/") for piece in pieces if piece.path.strip("/")} or {""}
    words = dict(pair for piece in pieces for pair in parse_qsl(piece.query))
    given = {key: words.pop(key) for key in _SERVICE if key in words}
    name, database = _named(path, given=bool(given))
    tls = SCHEMES[url.partition("://")[0].lower()] or words.pop("ssl", "").lower() in _YES
    words.pop("ssl", None)
    own = {key.removeprefix(_OWN): words.pop(key) for key in list(words) if key.startswith(_OWN)}
    own_tls = own.pop("ssl", str(tls)).lower() in _YES
    service = next(iter(given.values()), name)
    if not service:
        raise errors.Misconfigured(
            f"{redacted(url)} names no service: end it with /service/db, or with ?master_name=service."
        )
    return SentinelAddress(
        nodes=tuple(node for node, _ in nodes),
        service=service,
        db=int(words.pop("db", database) or 0),
        server=_options({"username": login[0], "password": login[1], **words}, tls=tls),
        sentinel=_options(own, tls=own_tls, inherited=words),
    )


def _node(text: str) -> tuple[tuple[str, int], tuple[str, str]]:
    """Read one node's host and port, and what stands in front of them."""
    read: dict[str, Any] = dict(parse_url(f"redis://{text}"))
    if not read.get("host"):
        raise ValueError("no host")
    return (read["host"], int(read.get("port") or PORT)), (read.get("username", ""), read.get("password", ""))


def _named(path: str, *, given: bool) -> tuple[str, str]:
    """Tell a path's service from its database: a number alone is one in Celery's form only."""
    first, _, second = path.partition("/")
    if "/" in second or (second and not second.isdecimal()):
        raise ValueError("too many segments")
    if given:
        return "", second or first
    return ("", first) if first.isdecimal() and not second else (unquote(first), second)


def _options(
    words: Mapping[str, str], *, tls: bool, inherited: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return redis-py's options from an address's words; what it does not know is refused.

    `inherited`: words of which those about certificates hold here too.
    """
    certificates = {key: value for key, value in (inherited or {}).items() if tls and key.startswith("ssl_")}
    words = {**certificates, **{key: value for key, value in words.items() if value}}
    options: dict[str, Any] = dict(parse_url(f"redis://x?{urlencode(words)}"))
    options.pop("host", None)
    kind: type[AbstractConnection] = SSLConnection if tls else Connection
    kind(**options)  # opens nothing, and refuses what it does not know
    return {**options, "ssl": True} if tls else options


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _word(value: object) -> str:
    if isinstance(value, ssl.VerifyMode):
        return {ssl.CERT_NONE: "none", ssl.CERT_OPTIONAL: "optional"}.get(value, "required")
    return str(value)
