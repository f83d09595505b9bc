"""Decides which callback targets the operator's settings allow, and finds the keys that sign webhooks.

What the operator names in MAINSTEM_ON_RUN_END needs no further leave. What a start request names must be on
the operator's lists, when it is started and whenever it is told; and a webhook must lie in a public network,
or in one that the operator lists, as of the very connection (`webhooks`).
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from mainstem_shared import errors
from mainstem_shared.model import callbacks, jsontext, webhook_signatures
from mainstem_shared.model.callbacks import Callback
from mainstem_shared.settings import Settings

Address = IPv4Address | IPv6Address
SHAPES: Final = (callbacks.OPENAI, callbacks.LANGGRAPH, callbacks.A2A)
PORTS: Final = {"https": 443, "http": 80}
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_PATTERN: Final = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:[0-9]+)?")
_PATH: Final = re.compile(r"[!-~]*")
"""Printable ASCII, as a request line has it: what else an address holds comes percent-encoded."""
_TARGET: Final = re.compile(r"[A-Za-z_][\w.-]*(@[\w.:-]+)?", re.ASCII)
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_TUNNELS: Final = (IPv6Network("2002::/16"), IPv6Network("2001::/32"), IPv4Network("192.88.99.0/24"))
"""Addresses that stand for others: 6to4, Teredo, and the relays of 6to4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where a webhook's requests go."""

    scheme: str
    host: str
    port: int
    path: str
    is_operators: bool = False
    """The operator named it for all runs: it may lie in any network."""
    shape: str = ""
    """In whose shape it is told: as its address begins (`callbacks.OPENAI`, …); empty: in ours."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """What its receiver asked to be sent besides."""

    @property
    def authority(self) -> str:
        """The host, with its port if that is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def check(settings: Settings) -> None:
    """Read what the settings say about callbacks.

    Raises:
        Misconfigured: it cannot be read; says where.
    """
    _networks(settings.callback_networks)
    secrets = _secrets(settings)
    for task in callbacks.split(settings.callback_tasks):
        if _TARGET.fullmatch(task) is None:
            raise errors.Misconfigured(f"MAINSTEM_CALLBACK_TASKS: {task!r} is no task's name, or name@queue.")
    for host in callbacks.split(settings.callback_hosts):
        if host != "*" and _PATTERN.fullmatch(host.lower()) is None:
            raise errors.Misconfigured(f"MAINSTEM_CALLBACK_HOSTS: {host!r} is no host.")
    for target in everyone(settings):
        if not callbacks.is_webhook(target):
            if _TARGET.fullmatch(target) is None:
                raise errors.Misconfigured(
                    f"MAINSTEM_ON_RUN_END: {target!r} is no task's name, nor an address."
                )
        elif not _keys_for(secrets, parse_url(target).host):
            raise errors.Misconfigured(
                "MAINSTEM_ON_RUN_END has a webhook: set MAINSTEM_WEBHOOK_SECRETS, too."
            )


def everyone(settings: Settings) -> tuple[str, ...]:
    """Return the targets that are told of every run's end."""
    return callbacks.split(settings.on_run_end)


def everyone_stored(settings: Settings) -> bytes:
    """Return the same as the verb `finish` takes it."""
    return jsontext.dumps(list(everyone(settings))) if settings.on_run_end else b""


def targets_of(settings: Settings, callback: Callback | None) -> tuple[str, ...]:
    """Return the targets that a start request names.

    Raises:
        CallbackNotAllowed: the operator does not allow one of them.
        InvalidRequest: one of them is no address.
    """
    if callback is None:
        return ()
    named: list[str] = []
    if callback.task is not None:
        named.append(_allowed_task(settings, callback.task))
    if callback.url is not None:
        _allowed_webhook(settings, callback.url)
        named.append(callback.url)
    return tuple(named)


def stored(settings: Settings, callback: Callback | None) -> bytes:
    """Return what a new run's record says about who is told of it.

    Raises:
        CallbackNotAllowed, InvalidRequest: as `targets_of`.
    """
    return callbacks.stored(callback, targets_of(settings, callback), everyone(settings))


def judge_task(settings: Settings, target: str) -> tuple[str, str | None]:
    """Return the task and the queue of a target, as of now.

    Raises:
        CallbackNotAllowed: the operator does not allow it (any more).
    """
    name, queue = callbacks.task_of(target)
    if target in everyone(settings):
        return name, queue
    return callbacks.task_of(_allowed_task(settings, name))


def judge_webhook(settings: Settings, target: str) -> Webhook:
    """Return where a webhook's requests go, as of now.

    Raises:
        CallbackNotAllowed: the operator does not allow it (any more).
        InvalidRequest: it is no address.
    """
    if target not in everyone(settings):
        return _allowed_webhook(settings, target)
    return replace(parse_url(target), is_operators=True)


def keys_for(settings: Settings, host: str) -> list[bytes]:
    """Return the keys that messages to a host are signed with: its own, or those of all."""
    return _keys_for(_secrets(settings), host)


def may_reach(settings: Settings, address: Address) -> bool:
    """Tell whether a webhook that a user named may lie at an address: a public one, or one that is listed."""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        return may_reach(settings, mapped)
    if any(address in network for network in _networks(settings.callback_networks)):
        return True
    if any(address in network for network in _TUNNELS) or not address.is_global or address.is_multicast:
        return False
    return address.version == 4 or address in _GLOBAL_V6


def parse_url(url: str) -> Webhook:
    """Take an address apart, strictly: what two parsers could read in two ways is refused.

    Raises:
        InvalidRequest: it is not plain http or https, or has a user in it.
    """
    receiver = callbacks.receiver_of(url)
    shape = next((each for each in SHAPES if url.startswith(each)), "")
    url = url.removeprefix(shape)
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise errors.InvalidRequest("callback: the url is no address.") from error
    bracketed = f"[{host}]" if ":" in host else host
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    known = parts.scheme in PORTS and _HOST.fullmatch(bracketed) and _PATH.fullmatch(url)
    if not known or "@" in parts.netloc or "\\" in url or port == 0:
        raise errors.InvalidRequest(
            "callback: the url must be http or https, with a plain host, no user, and no other than "
            "printable ASCII characters."
        )
    port = port or PORTS[parts.scheme]
    return Webhook(
        scheme=parts.scheme,
        host=host,
        port=port,
        path=path,
        shape=shape,
        headers=receiver.headers if receiver else {},
    )


def _allowed_task(settings: Settings, name: str) -> str:
    for target in callbacks.split(settings.callback_tasks):
        if callbacks.task_of(target)[0] == name:
            return target
    raise errors.CallbackNotAllowed(target=name, why="MAINSTEM_CALLBACK_TASKS does not have this task")


def _allowed_webhook(settings: Settings, url: str) -> Webhook:
    found = parse_url(url)
    refused = functools.partial(errors.CallbackNotAllowed, target=url)
    if found.scheme != "https" and not settings.callback_http:
        raise refused(why="its address must be https")
    if not any(_matches(pattern, found) for pattern in callbacks.split(settings.callback_hosts)):
        raise refused(why="MAINSTEM_CALLBACK_HOSTS does not have this host")
    literal = _literal(found.host)
    if literal is not None and not may_reach(settings, literal):
        raise refused(why="its address is in no public network")
    if not keys_for(settings, found.host):
        raise refused(why="there is no secret to sign it with (MAINSTEM_WEBHOOK_SECRETS)")
    return found


def _matches(pattern: str, found: Webhook) -> bool:
    if pattern == "*":
        return True
    name, _, port = pattern.lower().partition(":")
    if found.port != (int(port) if port.isdigit() else PORTS[found.scheme]):
        return False
    return found.host.endswith(name[1:]) if name.startswith("*.") else found.host == name


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@functools.lru_cache(maxsize=8)
def _networks(setting: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part) for part in callbacks.split(setting))
    except ValueError as error:
        raise errors.Misconfigured(f"MAINSTEM_CALLBACK_NETWORKS: {error}.") from error


def _secrets(settings: Settings) -> dict[str, list[bytes]]:
    given = settings.webhook_secrets
    return {} if given is None else _parsed_secrets(given.get_secret_value())


@functools.lru_cache(maxsize=8)
def _parsed_secrets(setting: str) -> dict[str, list[bytes]]:
    """Return keys by host; those of all hosts under an empty name."""
    found: dict[str, list[bytes]] = {}
    for part in callbacks.split(setting):
        host, _, secret = part.rpartition(f"={webhook_signatures.PREFIX}")
        text = f"{webhook_signatures.PREFIX}{secret}" if host else part
        found.setdefault(host.lower(), []).append(webhook_signatures.key_of(text))
    if any(len(keys) > 2 for keys in found.values()):
        raise errors.Misconfigured("MAINSTEM_WEBHOOK_SECRETS: two at most at once, for all or for a host.")
    return found


def _keys_for(secrets: dict[str, list[bytes]], host: str) -> list[bytes]:
    return secrets.get(host) or secrets.get("", [])
