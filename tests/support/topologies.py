"""Real topologies on loopback: a primary with a replica and three sentinels, a cluster of three
primaries and three replicas."""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import redis
from certificates import Authority
from redis.crc import key_slot
from servers import Server, free_port

from pyramid_altsession.stores.embedded import server_binary

Address = tuple[str, int]
MASTER = "main"
PATIENCE = 20_000  # ms
SLOTS = 16384


def until(holds: Callable[[], object], seconds: float = 300.0) -> None:
    """Wait for it; what servers say meanwhile may be that they are not ready. Sentinels that a busy
    machine has stopped for two seconds do nothing for the next thirty (their TILT mode), perhaps
    several times.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, "the servers did not come to it in time"
        time.sleep(0.005)


def listed(addresses: Sequence[Address]) -> str:
    return ",".join([f"{host}:{port}" for host, port in addresses])


def link_is_up(server: Server) -> bool:
    """Whether it is a primary, or a replica that follows one."""
    return server.client.info("replication").get("master_link_status", "up") == "up"


def role(server: Server) -> str:
    return str(server.client.info("replication")["role"])


class TLSServer(Server):
    """Over TCP only with a client's certificate; the tests look behind it over its socket."""

    def __init__(self, binary: str, authority: Authority, *options: str) -> None:
        self.tls_port = free_port()
        own, client = authority.pair("server"), authority.pair("client")
        self.tls = {
            "ssl_ca_certs": authority.file,
            "ssl_certfile": client.certificate,
            "ssl_keyfile": client.key,
        }
        super().__init__(
            binary,
            *("--tls-port", str(self.tls_port), "--tls-ca-cert-file", authority.file),
            *("--tls-cert-file", own.certificate, "--tls-key-file", own.key, *options),
        )

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.tls_port}"


class SentinelNode(Server):
    """A sentinel. It keeps what it learns in a file."""

    def spawn(self) -> None:
        self.before = (os.path.join(self.directory, "sentinel.conf"), "--sentinel")
        super().spawn()


class Sentinels:
    """A primary, its replica, and three sentinels that know each other from the start."""

    def __init__(
        self,
        binary: str | None = None,
        *,
        down_after: int = 300,
        options: Sequence[str] = (),
        lines: Sequence[str] = (),
    ) -> None:
        binary = binary or server_binary()
        self.down_after = down_after
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *options)
        self.primary = Server(binary, *quick, start=False)
        follows = ("--replicaof", f"127.0.0.1 {self.primary.port}")
        self.replica = Server(binary, *quick, *follows, start=False)
        self.sentinels = [SentinelNode(binary, start=False) for _ in range(3)]
        ids = [secrets.token_hex(20) for _ in self.sentinels]
        for me, sentinel in enumerate(self.sentinels):
            others = [other for other in range(3) if other != me]
            text = [
                f"sentinel monitor {MASTER} 127.0.0.1 {self.primary.port} 2",
                f"sentinel down-after-milliseconds {MASTER} {down_after}",
                f"sentinel failover-timeout {MASTER} 2000",
                f"sentinel myid {ids[me]}",
                f"sentinel known-replica {MASTER} 127.0.0.1 {self.replica.port}",
                *[
                    f"sentinel known-sentinel {MASTER} 127.0.0.1 {self.sentinels[o].port} {ids[o]}"
                    for o in others
                ],
                *lines,
            ]
            Path(sentinel.directory, "sentinel.conf").write_text("\n".join(text) + "\n")
        for server in (*self.nodes, *self.sentinels):
            server.spawn()
        for server in (*self.nodes, *self.sentinels):
            server.wait()
        for sentinel in self.sentinels:  # so that they notice what they ordered
            sentinel.client.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", "100")
        self.settle()

    def rest(self) -> None:
        """Nothing will change: what they ask each other ten times a second costs as much processor
        as many tests."""
        for sentinel in self.sentinels:
            sentinel.client.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", "10000")

    @property
    def nodes(self) -> tuple[Server, Server]:
        return self.primary, self.replica

    @property
    def url(self) -> str:
        return (
            f"redis+sentinel://{listed([('127.0.0.1', s.port) for s in self.sentinels])}/{MASTER}"
        )

    @property
    def current(self) -> Server:
        """The primary, as it is now; redis.ConnectionError while there is none."""
        for node in self.nodes:
            if node.process and role(node) == "master":
                return node
        raise redis.ConnectionError("no primary")

    def settle(self) -> None:
        """Until every sentinel names the primary and sees the replica in good health."""
        with self.patient():
            until(lambda: all(link_is_up(node) for node in self.nodes))
            until(lambda: all(self._healthy(sentinel) for sentinel in self.sentinels))

    def _healthy(self, sentinel: Server) -> bool:
        named = sentinel.client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        if int(named[1]) != self.current.port:
            return False  # it has not heard of a failover yet
        replicas = sentinel.client.execute_command("SENTINEL", "REPLICAS", MASTER)
        told = [each if isinstance(each, dict) else _pairs(each) for each in replicas]
        return [(r["flags"], r["master-link-status"]) for r in told] == [("slave", "ok")]

    def suspect_after(self, ms: int) -> None:
        """A primary that does not answer for so long is replaced."""
        self.down_after = ms
        for sentinel in self.sentinels:
            told = (MASTER, "down-after-milliseconds", ms)
            sentinel.client.execute_command("SENTINEL", "SET", *told)

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Within the block nobody is replaced for being slow. Sentinels turn an old primary into a
        replica once both have answered in time for eight seconds, which on a busy machine they
        would otherwise not do.
        """
        before = self.down_after
        self.suspect_after(PATIENCE)
        try:
            yield
        finally:
            self.suspect_after(before)

    def failover(self) -> None:
        """An ordered one, to its end: the old primary hands over without losing a write."""
        old, ask = self.current, self.sentinels[0].client.execute_command
        for _ in range(5):  # a sentinel gives up what takes too long on a busy machine
            until(lambda: ask("SENTINEL", "FAILOVER", MASTER, "COORDINATED"))
            with suppress(AssertionError):
                until(lambda: role(old) == "slave" and self.current is not old, 20.0)
                return
        raise AssertionError("no failover came to its end")

    @property
    def client(self) -> redis.Redis:
        return self.current.client

    def empty(self) -> None:
        self.current.empty()

    def stop(self) -> None:
        for server in (*self.sentinels, *self.nodes):
            server.stop()


def _pairs(flat: Sequence[Any]) -> dict[str, str]:
    texts = [each.decode() if isinstance(each, bytes) else each for each in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


class ClusterNode(Server):
    """A node that knows the whole cluster from the start."""

    id = ""
    bus = 0


class Cluster:
    """Three primaries and a replica of each."""

    def __init__(
        self, binary: str | None = None, *, timeout: int = 500, options: Sequence[str] = ()
    ) -> None:
        self.nodes: list[ClusterNode] = []
        for _ in range(5):  # another process may take one of twelve ports that were free
            with suppress(redis.RedisError):
                self._start(binary, timeout, options)
                return
            for node in self.nodes:
                node.stop()
        raise AssertionError("the cluster did not start")

    def _start(self, binary: str | None, timeout: int, options: Sequence[str]) -> None:
        self.nodes = []
        for _ in range(6):
            bus = free_port()
            node = ClusterNode(
                binary or server_binary(),
                *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                *("--cluster-node-timeout", str(timeout), "--cluster-config-file", "nodes.conf"),
                *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
                *("--cluster-allow-replica-migration", "no", "--repl-ping-replica-period", "1"),
                *options,
                start=False,
            )
            node.id, node.bus = secrets.token_hex(20), bus
            self.nodes.append(node)
        # Nodes that begin without the ids of their shards take time to agree, and Valkey 9.1 ends
        # with a failed assertion when SPUBLISH comes before. (Redis 7.0 knows no such ids.)
        shards = [f",,shard-id={secrets.token_hex(20)}" if binary is None else "" for _ in range(3)]
        for node in self.nodes:
            Path(node.directory, "nodes.conf").write_text(self._view_of(node, shards))
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait()
        self.settle()

    def _view_of(self, me: Server, shards: Sequence[str]) -> str:
        lines, part = [], SLOTS // 3
        for place, node in enumerate(self.nodes):
            first = place * part
            last = SLOTS - 1 if place == 2 else first + part - 1
            role = f"master - 0 0 {place + 1} connected {first}-{last}"
            if place > 2:
                role = f"slave {self.nodes[place - 3].id} 0 0 {place - 2} connected"
            myself = "myself," if node is me else ""
            address = f"127.0.0.1:{node.port}@{node.bus}{shards[place % 3]}"
            lines.append(f"{node.id} {address} {myself}{role}")
        return "\n".join([*lines, "vars currentEpoch 3 lastVoteEpoch 0", ""])

    @property
    def url(self) -> str:
        """Two of them: the others are found."""
        return f"redis+cluster://{listed([('127.0.0.1', n.port) for n in self.nodes[:2]])}"

    @property
    def alive(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.process]

    @property
    def primaries(self) -> list[ClusterNode]:
        return [node for node in self.alive if role(node) == "master"]

    def settle(self) -> None:
        """Until every node that runs sees the whole cluster at work."""
        until(lambda: all("cluster_state:ok" in _info(node) for node in self.alive))
        until(lambda: all(link_is_up(node) for node in self.alive))

    @property
    def client(self) -> "Everywhere":
        return Everywhere(self)

    def suspect_after(self, ms: int) -> None:
        """A primary that does not answer for so long is replaced."""
        for node in self.alive:
            node.client.config_set("cluster-node-timeout", ms)

    def primary_of(self, key: str) -> ClusterNode:
        slot = key_slot(key.encode())
        for first, last, primary, *_ in self._slots():
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == primary[1])
        raise AssertionError(f"no node serves {key}")

    def begin_move(self, key: str, target: ClusterNode) -> None:
        """The slot of this key is on its way to another node; no key has gone yet."""
        slot, source = key_slot(key.encode()), self.primary_of(key)
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, key: str, target: ClusterNode) -> None:
        source, slot = self.primary_of(key), key_slot(key.encode())
        while keys := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            where = ("127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            source.client.execute_command("MIGRATE", *where)

    def end_move(self, key: str, target: ClusterNode) -> None:
        slot, source = key_slot(key.encode()), self.primary_of(key)
        for node in (target, source):
            node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        until(lambda: self.primary_of(key) is target)

    def migrate(self, first: int, last: int) -> None:
        """These slots, to the primary after the one that serves the first of them; in one step, as
        Valkey 9 can."""
        primaries = self.primaries
        (source,) = [node for node in primaries if self._serves(node, first)]
        target = primaries[(primaries.index(source) + 1) % len(primaries)]
        ranges = [(max(a, first), min(b, last)) for a, b in self._ranges(source)]
        for pair in [(a, b) for a, b in ranges if a <= b]:
            there = ("SLOTSRANGE", *pair, "NODE", target.id)
            source.client.execute_command("CLUSTER MIGRATESLOTS", *there)
            until(partial(self._serves, target, pair[0]))

    def _ranges(self, node: ClusterNode) -> list[tuple[int, int]]:
        """Slots that the node says it serves."""
        return [(a, b) for a, b, primary, *_ in self._slots(node) if primary[1] == node.port]

    def _serves(self, node: ClusterNode, slot: int) -> bool:
        return any(a <= slot <= b for a, b in self._ranges(node))

    def change_ports(self) -> None:
        """Every node is somewhere else at once."""
        for node in self.nodes:
            node.port = free_port()
            node.client.config_set("port", node.port)
            node.client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        self.settle()
        ports = {node.port for node in self.nodes}
        until(lambda: all({s[2][1] for s in self._slots(node)} <= ports for node in self.nodes))

    def _slots(self, node: ClusterNode | None = None) -> list[Any]:
        pool = (node or self.alive[0]).client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command("CLUSTER", "SLOTS")
            found: list[Any] = connection.read_response()
            return found
        finally:
            pool.release(connection)

    def empty(self) -> None:
        for node in self.primaries:
            node.empty()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


class Everywhere:
    """redis-py's calls, each at the node that serves its key."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def keys(self, pattern: str = "*") -> list[bytes]:
        return [key for node in self._cluster.primaries for key in node.client.keys(pattern)]

    def time(self) -> Any:
        return self._cluster.primaries[0].client.time()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(key: str | bytes, *arguments: Any, **options: Any) -> Any:
            text = key.decode() if isinstance(key, bytes) else key
            client = self._cluster.primary_of(text).client
            return getattr(client, name)(key, *arguments, **options)

        return call


def _info(node: Server) -> str:
    raw = node.client.execute_command("CLUSTER INFO")
    return raw.decode() if isinstance(raw, bytes) else "\n".join(f"{k}:{v}" for k, v in raw.items())
