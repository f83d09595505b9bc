"""Addresses of stores and brokers: every spelling is read by its parts, and none shows a secret."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from celery import Celery

from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_shared.store import connections, endpoints, sentinel_addresses
from mainstem_shared.store.redaction import redacted
from mainstem_shared.store.sentinel_addresses import parse
from mainstem_workers import install
from mainstem_workers.configuration_checks import check

TWO = (("a", 1), ("b", 2))


@pytest.mark.parametrize(
    ("url", "nodes", "service", "db", "server", "sentinel"),
    [
        ("sentinel://a:1,b:2/m/3", TWO, "m", 3, {}, {}),
        ("sentinel://a/m", (("a", 26379),), "m", 0, {}, {}),
        ("sentinel://:pw@a:1,:pw@b:2/m", TWO, "m", 0, {"password": "pw"}, {}),
        ("sentinel://:pw@a:1,b:2/m", TWO, "m", 0, {"password": "pw"}, {}),
        ("sentinel://u:p%40%2F%2C%3B@a:1,b:2/m", TWO, "m", 0, {"username": "u", "password": "p@/,;"}, {}),
        ("sentinel://a:1/m?password=p%40", (("a", 1),), "m", 0, {"password": "p@"}, {}),
        ("sentinel://[::1]:5,[fe80::2]/m", (("::1", 5), ("fe80::2", 26379)), "m", 0, {}, {}),
        ("sentinel://a:1/m?ssl=true", (("a", 1),), "m", 0, {"ssl": True}, {"ssl": True}),
        ("sentinels://a:1/m", (("a", 1),), "m", 0, {"ssl": True}, {"ssl": True}),
        ("rediss+sentinel://a:1/m?sentinel_ssl=no", (("a", 1),), "m", 0, {"ssl": True}, {}),
        ("rediss-sentinel://a:1/m?db=4", (("a", 1),), "m", 4, {"ssl": True}, {"ssl": True}),
        (
            "rediss+sentinel://a:1/m?ssl_ca_certs=/ca.pem&sentinel_password=own&sentinel_username=x",
            (("a", 1),),
            "m",
            0,
            {"ssl": True, "ssl_ca_certs": "/ca.pem"},
            {"ssl": True, "ssl_ca_certs": "/ca.pem", "password": "own", "username": "x"},
        ),
        ("sentinel://a:1/my%2Fservice/2", (("a", 1),), "my/service", 2, {}, {}),
        ("sentinel://a:1/7/2", (("a", 1),), "7", 2, {}, {}),
        ("sentinel://a:1/2?master_name=m", (("a", 1),), "m", 2, {}, {}),
        ("sentinel://a:1/0;sentinel://b:2/0?master_name=m", TWO, "m", 0, {}, {}),
        ("sentinel://:x@a:1/1;sentinel://:x@b:2/1?service_name=m", TWO, "m", 1, {"password": "x"}, {}),
        ("sentinel://a:1;b:2/m/0", TWO, "m", 0, {}, {}),
        ("sentinel://a:1/m?health_check_interval=5", (("a", 1),), "m", 0, {"health_check_interval": 5}, {}),
    ],
)
def test_every_spelling_is_read(
    url: str, nodes: Any, service: str, db: int, server: dict[str, Any], sentinel: dict[str, Any]
):
    """Ours, Celery's, with users, TLS, IPv6, and characters that mean something else in an address."""
    address = parse(url)
    assert (address.nodes, address.service, address.db) == (nodes, service, db)
    assert (dict(address.server), dict(address.sentinel)) == (server, sentinel)
    assert "password" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://a:1",
        "sentinel://a:1/0",
        "sentinel:///m",
        "sentinel://:geheim@a:port/m",
        "sentinel://:geheim@a:1,:geheim2@b:2/m",
        "sentinel://:geheim@a:1/m/x",
        "sentinel://:geheim@a:1/m?unheard_of=1",
        "sentinel://:geheim@a:1/m/0/0",
        "sentinel://:geheim@[::1/m",
        "sentinel://a:1/m?sentinel_auth=geheim",
        "redis://:geheim@a:1,b:2/0",
        "redis://:ge/he:im@a:b:c/0",
        "redis://u:geheim@a:port/0",
        "redis://:geheim@a:1/0?unheard_of=1",
        "http://:geheim@a:1/0",
    ],
)
def test_what_cannot_be_read_is_refused_without_its_secret(url: str):
    """By the store's clients, and by who tells Celery; the message has the form that is expected."""
    for reads in (connections.connect, lambda url: connections.connect_blocking(url, timeout_s=1)):
        with pytest.raises(errors.Misconfigured) as raised:
            reads(url).ping()
        assert "geheim" not in str(raised.value)
        assert "he:im" not in str(raised.value)
        assert raised.value.__cause__ is None
    if sentinel_addresses.is_sentinel(url):
        with pytest.raises(errors.Misconfigured):
            endpoints.celery_broker(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:geheim@h:1/0", "redis://:…@h:1/0"),
        ("redis://geheim@h:1/0", "redis://:…@h:1/0"),
        ("redis://u:ge@he/im?x@h:1/0", "redis://u:…@h:1/0"),
        ("redis://u:geheim,geheim@h:1/0", "redis://u:…@h:1/0"),
        ("rediss://h/0?password=geheim&db=1", "rediss://h/0?password=…&db=1"),
        ("sentinel://:geheim@a:1,:geheim@b:2/m/0", "sentinel://:…@b:2/m/0"),
        (
            "sentinel://a/m?sentinel_password=geheim&sentinel_username=u",
            "sentinel://a/m?sentinel_password=…&sentinel_username=u",
        ),
        ("sentinel://:geheim@a/0;sentinel://:geheim@b/0?master_name=m", "sentinel://:…@b/0?master_name=m"),
        ("amqp://guest:geheim@h//", "amqp://guest:…@h//"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix://:geheim@/run/redis.sock", "unix://:…@/run/redis.sock"),
    ],
)
def test_no_secret_is_shown(url: str, shown: str):
    """However a password is spelled: rather too much is masked than too little."""
    assert redacted(url) == shown
    assert "geheim" not in redacted(url)


def test_celery_is_told_in_its_own_words():
    """Nodes in its form, the service and the Sentinels' own options beside them, TLS as it has it."""
    broker = endpoints.celery_broker(
        "rediss+sentinel://u:p%40@a:1,[::1]:2/m/3?ssl_ca_certs=/ca&sentinel_password=s"
    )
    assert broker.url == "sentinel://u:p%40@a:1/3;sentinel://u:p%40@[::1]:2/3"
    assert broker.transport_options == {
        "master_name": "m",
        "sentinel_kwargs": {"ssl": True, "ssl_ca_certs": "/ca", "password": "s"},
    }
    assert broker.use_ssl == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca"}
    assert "p%40" not in repr(broker)
    assert endpoints.celery_broker("amqp://h//").url == "amqp://h//"


def test_an_application_behind_sentinels_says_where_its_broker_is():
    """What Celery keeps in three settings is one address for sweepers and clients; nothing differs, so nobody warns."""
    app = Celery(set_as_current=False, broker="sentinel://:p%40@a:1/1;sentinel://:p%40@b:2/1")
    app.conf.broker_transport_options = {"master_name": "m", "sentinel_kwargs": {"password": "s"}}
    app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_NONE}
    install(app, Settings(redis_url="redis://h"))
    app.finalize()
    settings: Settings = app.conf.mainstem_settings
    address = parse(endpoints.broker_url(settings))
    assert (address.nodes, address.service, address.db) == (TWO, "m", 1)
    assert dict(address.server) == {"password": "p@", "ssl": True, "ssl_cert_reqs": "none"}
    assert dict(address.sentinel)["password"] == "s"
    assert "broker_url" not in [found.setting for found in check(app)]


def test_an_application_may_have_its_broker_from_our_address():
    """`Celery(broker=os.environ["MAINSTEM_BROKER_URL"])`, as examples do it, finds a broker behind Sentinels too."""
    url = "rediss+sentinel://:p%40@a:1,b:2/m/1"
    app = Celery(set_as_current=False, broker=url)
    install(app, Settings(redis_url="redis://h", broker_url=url))
    app.finalize()
    assert app.conf.broker_url == "sentinel://:p%40@a:1/1;sentinel://:p%40@b:2/1"
    assert app.conf.broker_transport_options["master_name"] == "m"
    assert app.conf.broker_use_ssl == {"ssl_cert_reqs": "required"}
    assert "broker_url" not in [found.setting for found in check(app)]


def test_an_application_without_a_broker_gets_ours():
    """With all that finds it behind Sentinels; what it has set itself stays."""
    app = Celery(set_as_current=False)
    app.conf.broker_transport_options = {"visibility_timeout": 5}
    install(app, Settings(redis_url="redis://h", broker_url="sentinel://a:1,b:2/m/1"))
    app.finalize()
    assert app.conf.broker_url == "sentinel://a:1/1;sentinel://b:2/1"
    assert app.conf.broker_transport_options["master_name"] == "m"
    assert app.conf.broker_transport_options["visibility_timeout"] == 5
    assert "broker_url" not in [found.setting for found in check(app)]
