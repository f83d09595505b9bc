"""A primary, its replicas and their Sentinels, as real processes: killed, frozen, promoted, on loopback."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.processes.servers import Controlled, ValkeyProcess, free_port
from support.requiring import require
from support.waiting import wait_until

SERVICE = "orders"
DOWN_AFTER_MS = 1000


def sentinel_binary() -> str:
    """Return the program; without it the test is skipped, or fails in CI."""
    found = shutil.which("redis-sentinel") or shutil.which("valkey-sentinel")
    require(found, "needs redis-sentinel")
    assert found is not None
    return found


def tls_binary() -> Path:
    """Return a server's program that was built with TLS, as Debian's is and wheels' are not."""
    found = shutil.which("redis-server")
    require(found, "needs a redis-server with TLS")
    assert found is not None
    return Path(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """An authority of this test's own, and what it vouches for: this machine's loopback."""

    authority: Path
    certificate: Path
    key: Path

    def server_options(self, port: int) -> list[str]:
        words = [word for name, value in self._settings(port) for word in (f"--{name}", value)]
        return [*words, "--tls-replication", "yes"]

    def sentinel_lines(self, port: int) -> list[str]:
        return [*(f"{name} {value}" for name, value in self._settings(port)), "tls-replication yes"]

    def _settings(self, port: int) -> list[tuple[str, str]]:
        files = (self.certificate, self.key, self.authority)
        names = ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
        return [
            ("port", "0"),
            ("tls-port", str(port)),
            ("tls-auth-clients", "no"),
            *zip(names, map(str, files), strict=True),
        ]


def certify(directory: Path) -> Certificates:
    """Make an authority and a certificate for the loopback addresses."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    addresses = [x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "::1")]
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificates(
        authority=directory / "ca.pem", certificate=directory / "server.pem", key=directory / "server.key"
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    made.authority.write_bytes(pem)
    made.certificate.write_bytes(pem)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


class SentinelProcess(Controlled):
    """One Sentinel. It writes what it learns into its configuration file."""

    def __init__(self, directory: Path, *configuration: str, port: int) -> None:
        self.directory, self.port, self._configuration = directory, port, configuration
        super().__init__(directory / "sentinel.log")

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "sentinel.conf"
        if not configuration.exists():
            lines = (f"dir {self.directory}", f"logfile {self.log_path}", *self._configuration)
            configuration.write_text("\n".join(lines) + "\n")
        process = subprocess.Popen(
            [sentinel_binary(), str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        self._watch(process)


class Group:
    """One service: servers whose roles change, and Sentinels that change them."""

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        host: str = "127.0.0.1",
        server_options: Sequence[str] = (),
        sentinel_lines: Sequence[str] = (),
        client: dict[str, Any] | None = None,
        sentinel_client: dict[str, Any] | None = None,
        tls: Certificates | None = None,
    ) -> None:
        """`client` and `sentinel_client` are redis-py's options (password, TLS) to speak to the two kinds."""
        self.host = host
        self._client, self._sentinel_client = client or {}, sentinel_client or {}
        self.tls = tls
        if tls is not None:
            self._client = {**self._client, "ssl": True, "ssl_ca_certs": str(tls.authority)}
            self._sentinel_client = {**self._sentinel_client, "ssl": True, "ssl_ca_certs": str(tls.authority)}
        options = ("--bind", host, "--repl-diskless-sync-delay", "0", *server_options)
        first = free_port()
        self.servers: list[Member] = []
        for number in range(replicas + 1):
            port = free_port() if number else first
            mine = [*options, *(("--replicaof", host, str(first)) if number else ())]
            mine += tls.server_options(port) if tls else []
            self.servers.append(Member(directory / f"server{number}", *mine, port=port, group=self))
        lines = (
            f"bind {host}",
            f"sentinel monitor {SERVICE} {host} {first} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 6000",
            *sentinel_lines,
        )
        self.sentinels: list[SentinelProcess] = []
        for number in range(sentinels):
            port = free_port()
            ports = tls.sentinel_lines(port) if tls else [f"port {port}"]
            place = directory / f"sentinel{number}"
            self.sentinels.append(SentinelProcess(place, *ports, *lines, port=port))

    def start(self) -> None:
        """Start everything, and wait until each Sentinel knows each server and each other."""
        for process in (*self.servers, *self.sentinels):
            process.start()
        wait_until(self._is_complete, description="the Sentinels to know everybody", timeout_s=30)

    def end(self) -> None:
        for process in (*self.sentinels, *self.servers):
            process.end()

    @property
    def client_options(self) -> dict[str, Any]:
        return self._client

    @property
    def addresses(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return ",".join(f"{host}:{sentinel.port}" for sentinel in self.sentinels)

    def url(self, db: int = 0) -> str:
        return f"sentinel://{self.addresses}/{SERVICE}/{db}"

    @property
    def primary(self) -> Member:
        """The server that most Sentinels name."""
        ports = [port for port in map(self._named_by, self.sentinels) if port]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def wait_for_other_primary(self, former: Member, *, timeout_s: float = 40) -> Member:
        wait_until(lambda: self.primary is not former, description="another primary", timeout_s=timeout_s)
        return self.primary

    def wait_until_whole(self, *, timeout_s: float = 60) -> None:
        """Wait until all servers run as one primary with replicas that follow it."""
        wait_until(self._is_whole, description="all replicas to follow", timeout_s=timeout_s)

    def ask(self, sentinel: SentinelProcess) -> redis.Redis:
        return redis.Redis(
            host=self.host,
            port=sentinel.port,
            decode_responses=True,
            socket_timeout=2,
            retry=Retry(NoBackoff(), 0),
            **self._sentinel_client,
        )

    def _named_by(self, sentinel: SentinelProcess) -> int | None:
        with contextlib.suppress(redis.RedisError), self.ask(sentinel) as client:
            address: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            return int(address[1])
        return None

    def _is_complete(self) -> bool:
        for sentinel in self.sentinels:
            with contextlib.suppress(redis.RedisError), self.ask(sentinel) as client:
                state: Any = client.execute_command("SENTINEL", "MASTER", SERVICE)
                known = dict(zip(state[::2], state[1::2], strict=True)) if isinstance(state, list) else state
                if (int(known["num-slaves"]), int(known["num-other-sentinels"])) == (
                    len(self.servers) - 1,
                    len(self.sentinels) - 1,
                ):
                    continue
            return False
        return self._is_whole()

    def _is_whole(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.primary.client() as client:
            info: Any = client.info("replication")
            replicas = [info.get(f"slave{n}", {}) for n in range(len(self.servers) - 1)]
            return info["role"] == "master" and all(one.get("state") == "online" for one in replicas)
        return False


class Member(ValkeyProcess):
    """One server of a group, on whatever address and with whatever locks the group has."""

    def __init__(self, directory: Path, *options: str, port: int, group: Group) -> None:
        super().__init__(directory, *options, port=port)
        self.host, self._options = group.host, group.client_options
        if group.tls is not None:
            self.binary = tls_binary()

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis(
            host=self.host,
            port=self.port or 0,
            db=db,
            decode_responses=True,
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
            **self._options,
        )


@contextmanager
def group(directory: Path, **options: Any) -> Iterator[Group]:
    """A running group; nothing of it is left behind."""
    made = Group(directory, **options)
    try:
        made.start()
        yield made
    finally:
        made.end()
