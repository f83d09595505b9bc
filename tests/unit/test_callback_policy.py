"""Where a webhook that a user named may go: hosts that the operator lists, and public networks alone."""

from __future__ import annotations

import ipaddress
import time

import httpcore
import pytest
import standardwebhooks

from mainstem_shared import errors
from mainstem_shared.model import webhook_signatures
from mainstem_shared.model.callbacks import Callback
from mainstem_shared.operations import callback_policy
from mainstem_shared.operations.webhooks import AddressRefused, CheckedNetwork
from mainstem_shared.settings import Settings

SECRETS = (
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
)
SETTINGS = Settings(
    callback_hosts="example.com, *.example.org, other.example:8443", webhook_secrets=SECRETS[0]
)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook?x=1", "https://EXAMPLE.com/", "https://example.com:443/", "https://a.b.example.org",
        "https://other.example:8443/x", "https://example.com./",
    ],
)  # fmt: skip
def test_a_listed_host_is_allowed(url: str):
    """By name, below a name, at the port that is listed with it."""
    assert callback_policy.targets_of(SETTINGS, Callback(url=url)) == (url,)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "https://example.com:8443/", "https://other.example/", "https://example.org/",
        "https://badexample.org/", "https://example.com.evil.test/", "https://user@example.com/",
        "https://example.com@evil.test/", "https://evil.test\\@example.com/", "https://evil.test#@example.com/",
        "https://example.com\n.evil.test/", "ftp://example.com/", "file:///etc/passwd", "https://", "x://example.com",
        "https://example.com:0/", "https://example.com:99999/", "https://exämple.com/", "https://[::1/", "//example.com",
        "https://169.254.169.254/latest", "https://[::ffff:127.0.0.1]/", "https://example.com/ HTTP/1.1",
    ],
)  # fmt: skip
def test_anything_else_is_refused(url: str):
    """Also what two parsers may read in two ways."""
    with pytest.raises((errors.CallbackNotAllowed, errors.InvalidRequest)):
        callback_policy.targets_of(SETTINGS, Callback(url=url))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "[fd00:ec2::254]", "10.0.0.1"])
def test_all_hosts_are_not_all_networks(host: str):
    """With `*` an address in no public network is refused at the start already."""
    everywhere = SETTINGS.model_copy(update={"callback_hosts": "*"})
    with pytest.raises(errors.CallbackNotAllowed):
        callback_policy.targets_of(everywhere, Callback(url=f"https://{host}/"))


PRIVATE = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.88.99.1", "240.0.0.1", "::", "::1", "fe80::1",
    "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "2001:db8::1", "100::1", "::ffff:0:127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_no_address_but_public_ones_is_reached(address: str):
    """Loopback, private, link-local, metadata, multicast, documentation; also inside of other addresses."""
    assert not callback_policy.may_reach(SETTINGS, ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_reached(address: str):
    """Of both versions."""
    assert callback_policy.may_reach(SETTINGS, ipaddress.ip_address(address))


def test_a_listed_network_is_reached():
    """An operator's own network, and no other."""
    own = SETTINGS.model_copy(update={"callback_networks": "10.1.0.0/16, fd12::/16"})
    assert callback_policy.may_reach(own, ipaddress.ip_address("10.1.2.3"))
    assert callback_policy.may_reach(own, ipaddress.ip_address("::ffff:10.1.2.3"))
    assert callback_policy.may_reach(own, ipaddress.ip_address("fd12::1"))
    assert not callback_policy.may_reach(own, ipaddress.ip_address("10.2.2.3"))


@pytest.mark.parametrize("name", ["localhost", "127.1", "2130706433", "0x7f.0.0.1", "::1"])
async def test_names_are_judged_by_what_they_resolve_to(name: str):
    """At the moment of connecting, whatever the name looks like; the connection goes to no other address."""
    judged: list[str] = []

    def may_reach(address: callback_policy.Address) -> bool:
        judged.append(str(address))
        return callback_policy.may_reach(SETTINGS, address)

    with pytest.raises((AddressRefused, OSError)):
        await CheckedNetwork(may_reach).connect_tcp(name, 9, timeout=1)
    assert set(judged) <= {"127.0.0.1", "::1"}


async def test_a_connection_goes_to_the_address_that_was_judged(monkeypatch: pytest.MonkeyPatch):
    """The name is resolved once: what it resolves to a moment later is nobody's concern."""
    answers = [["8.8.8.8"], ["127.0.0.1"]]
    connected: list[str] = []

    class Network(httpcore.AsyncNetworkBackend):
        async def connect_tcp(
            self, host: str, port: int, *_: object, **__: object
        ) -> httpcore.AsyncNetworkStream:
            connected.append(host)
            raise httpcore.ConnectError("nobody there")

    async def resolved(host: str, port: int) -> list[str]:
        return answers.pop(0)

    network = CheckedNetwork(lambda address: callback_policy.may_reach(SETTINGS, address))
    monkeypatch.setattr(network, "_network", Network())
    monkeypatch.setattr(network, "_resolved", resolved)
    with pytest.raises(httpcore.ConnectError):
        await network.connect_tcp("rebinding.test", 443)
    assert connected == ["8.8.8.8"]
    with pytest.raises(AddressRefused):
        await network.connect_tcp("rebinding.test", 443)
    assert connected == ["8.8.8.8"]


@pytest.mark.parametrize("secret", SECRETS)
def test_either_secret_verifies_while_they_are_exchanged(secret: str):
    """A message carries a signature with each, as the standard's library expects it."""
    both = SETTINGS.model_copy(
        update={"webhook_secrets": Settings(webhook_secrets=",".join(SECRETS)).webhook_secrets}
    )
    keys, body, now = callback_policy.keys_for(both, "example.com"), b'{"a":1}', int(time.time())
    headers = webhook_signatures.headers(keys, event_id="run.7", at_s=now, body=body)
    assert standardwebhooks.Webhook(secret).verify(body, headers) == {"a": 1}
    assert webhook_signatures.verify([secret], headers, body, now_s=now) == "run.7"
    for changed in (
        {"webhook-id": "run.8"},
        {"webhook-timestamp": str(now - 1)},
        {"webhook-signature": "v1,x"},
    ):
        with pytest.raises(errors.NotAuthenticated):
            webhook_signatures.verify([secret], {**headers, **changed}, body, now_s=now)
    with pytest.raises(errors.NotAuthenticated):
        webhook_signatures.verify([secret], headers, body + b" ", now_s=now)
    with pytest.raises(errors.NotAuthenticated):
        webhook_signatures.verify([secret], headers, body, now_s=now + 301)


def test_a_host_may_have_a_secret_of_its_own():
    """Receivers that do not trust each other must not share one."""
    own = Settings(webhook_secrets=f"{SECRETS[0]},example.com={SECRETS[1]}")
    assert callback_policy.keys_for(own, "example.com") == [webhook_signatures.key_of(SECRETS[1])]
    assert callback_policy.keys_for(own, "example.org") == [webhook_signatures.key_of(SECRETS[0])]


@pytest.mark.parametrize(
    "wrong",
    [
        {"webhook_secrets": "whsec_short"}, {"webhook_secrets": "secret"}, {"callback_networks": "10.0.0.1/8"},
        {"webhook_secrets": ",".join([SECRETS[0]] * 3)}, {"callback_tasks": "a b"}, {"callback_hosts": "https://x"},
        {"on_run_end": "https://example.com/"}, {"on_run_end": "a b"},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(wrong: dict[str, str]):
    """When a process starts, with the setting's name."""
    with pytest.raises((errors.Misconfigured, errors.InvalidRequest)):
        callback_policy.check(Settings(**wrong))  # type: ignore[arg-type]
