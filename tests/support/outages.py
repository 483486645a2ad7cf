"""Faults of real servers under load, and what they cost: errors, data, sessions that come back.

    make faults

runs them all for longer and prints one table.
"""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from servers import Server, valkey
from topologies import Cluster, Sentinels, role, until

from pyramid_altsession.api import OpenSession, SessionAPI
from pyramid_altsession.errors import SessionGone, StoreUnavailable

THREADS = 4
SESSIONS = 6
"""Of one thread."""


@dataclass
class Cost:
    """What a fault has cost."""

    calls: int = 0
    errors: "Counter[str]" = field(default_factory=Counter)
    untyped: list[str] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0
    longest: float = 0.0
    foreign: int = 0
    lost: int = 0
    ended: int = 0
    resurrected: int = 0
    endless: int = 0

    @property
    def window(self) -> float:
        """Seconds from the first error to the last."""
        return self.last - self.first

    def row(self) -> str:
        errors = ", ".join([f"{n} {name}" for name, n in self.errors.items()]) or "none"
        return (
            f"{errors}, {self.window:.2f} s | untyped {len(self.untyped)} | slowest"
            f" {self.longest:.2f} s | lost {self.lost} | resurrected {self.resurrected} of"
            f" {self.ended} | foreign {self.foreign} | endless {self.endless} | {self.calls} calls"
        )


class Visitor:
    """One session, and what its owner knows of it. ``number`` was acknowledged; ``tried`` may have
    been written as well."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.session: OpenSession | None = None
        self.number = self.tried = 0


class Load:
    """Threads that read, write, sign in and end sessions, and note what they are told."""

    def __init__(self, url: str, **redis_settings: object) -> None:
        times = {"timeout": 1.0, "connect_timeout": 1.0, "url": url, **redis_settings}
        self.api = SessionAPI.from_settings({"redis": times})
        self.cost = Cost()
        self._ended: list[str] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._visitors = [
            [Visitor(f"{thread}-{number}") for number in range(SESSIONS)]
            for thread in range(THREADS)
        ]
        self._threads = [threading.Thread(target=self._work, args=(v,)) for v in self._visitors]

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Until the block ends; then everything is looked at once more."""
        for thread in self._threads:
            thread.start()
        try:
            self.serves(50)
            yield self
            self.serves(100)
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        self._look()
        self.api.close()

    def serves(self, calls: int) -> None:
        """Until so many more calls were served."""
        wanted = self.cost.calls + calls
        until(lambda: self.cost.calls >= wanted)

    def fails(self) -> None:
        """Until a call has failed."""
        until(lambda: self.cost.errors)

    def _work(self, visitors: list[Visitor]) -> None:
        chance = random.Random(visitors[0].name)
        while not self._stop.is_set():
            visitor = chance.choice(visitors)
            began = time.monotonic()
            try:
                self._visit(visitor, chance)
            except StoreUnavailable as error:
                self._failed(error)
                self._stop.wait(0.005)
            except SessionGone:
                with self._lock:
                    self.cost.lost += 1
                visitor.session = None
            except Exception as error:  # what must not be
                with self._lock:
                    self.cost.untyped.append(repr(error))
            with self._lock:
                self.cost.longest = max(self.cost.longest, time.monotonic() - began)

    def _failed(self, error: StoreUnavailable) -> None:
        with self._lock:
            self.cost.errors[type(error).__name__] += 1
            self.cost.last = time.monotonic()
            self.cost.first = self.cost.first or self.cost.last

    def _visit(self, visitor: Visitor, chance: random.Random) -> None:
        if visitor.session is None:
            visitor.number = visitor.tried = 0
            visitor.session = self.api.create({"whose": visitor.name, "n": 0})
        session, dice = visitor.session, chance.random()
        if dice < 0.5:
            found = session.mget(["whose", "n"], fresh=True)
            if found["whose"] != visitor.name:
                self.cost.foreign += 1
        elif dice < 0.9:
            visitor.tried += 1
            session.set("n", visitor.tried)
            visitor.number = visitor.tried
        elif dice < 0.95:
            session.login(visitor.name)
        else:
            token = session.token
            visitor.session = None  # whatever is answered
            session.invalidate()
            assert token is not None
            self._ended.append(token)
        with self._lock:
            self.cost.calls += 1

    def _look(self) -> None:
        """What was acknowledged is there, and what was ended is not."""
        for visitor in [each for visitors in self._visitors for each in visitors]:
            if visitor.session is None or visitor.session.token is None:
                continue
            try:
                number = self.api.open(visitor.session.token).get("n")
            except SessionGone:
                number = -1
            self.cost.lost += not visitor.number <= number <= visitor.tried
        self.cost.ended = len(self._ended)
        for token in self._ended:
            with suppress(SessionGone):
                self.api.open(token).get("n")
                self.cost.resurrected += 1


Fault = Callable[[Any, Load], None]


# -- one server


def killed(server: Server, load: Load) -> None:
    server.kill()
    load.fails()
    server.start()


def stopped(server: Server, load: Load) -> None:
    server.pause()
    load.fails()
    server.resume()


def scripts_forgotten(servers: Any, load: Load) -> None:
    for _ in range(10):
        for server in getattr(servers, "primaries", None) or [servers]:
            server.client.script_flush()
        load.serves(10)


def emptied(server: Server, load: Load) -> None:
    for _ in range(5):
        server.client.flushall()
        load.serves(10)


def configured(name: str, bad: str, good: str, *, cut: bool = False) -> Fault:
    """A fault that a server can be told to have."""

    def fault(server: Server, load: Load) -> None:
        server.client.config_set(name, bad)
        if cut:
            server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        load.fails()
        server.client.config_set(name, good)

    return fault


def read_only(server: Server, load: Load) -> None:
    server.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    load.fails()
    server.client.execute_command("REPLICAOF", "NO", "ONE")


def forbidden(server: Server, load: Load) -> None:
    server.client.execute_command("ACL", "SETUSER", "default", "-evalsha")
    load.fails()
    server.client.execute_command("ACL", "SETUSER", "default", "+@all")


def locked(server: Server, load: Load) -> None:
    """A password that the application does not know."""
    server.client.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
    server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    load.fails()
    server.client.execute_command("ACL", "SETUSER", "default", "nopass")


def loading(server: Server, load: Load) -> None:
    """The server reads its data anew, slowly."""
    server.client.config_set("key-load-delay", "20000")
    server.client.config_set("loading-process-events-interval-bytes", "1024")
    with suppress(redis.RedisError):
        server.client.execute_command("DEBUG", "RELOAD")
    server.client.config_set("key-load-delay", "0")


# -- sentinels


def primary_killed(servers: Sentinels, load: Load) -> None:
    old = servers.current
    old.kill()
    load.fails()
    until(lambda: servers.current is not old)
    load.serves(20)
    old.start()
    until(lambda: role(old) == "slave")


def primary_stopped(servers: Sentinels, load: Load) -> None:
    old = servers.current
    other = next(node for node in servers.nodes if node is not old)
    old.pause()
    load.fails()
    until(lambda: role(other) == "master")
    load.serves(20)
    old.resume()
    until(lambda: role(old) == "slave")


def handed_over(servers: Sentinels, load: Load) -> None:
    servers.failover()
    load.serves(20)


# -- a cluster


def node_killed(cluster: Cluster, load: Load) -> None:
    node = cluster.primaries[0]
    node.kill()
    load.fails()
    until(lambda: len(cluster.primaries) == 3)
    load.serves(20)
    node.start()


def node_stopped(cluster: Cluster, load: Load) -> None:
    node = cluster.primaries[0]
    others = [each for each in cluster.nodes if each is not node]
    node.pause()
    load.fails()
    until(lambda: len([each for each in others if role(each) == "master"]) == 3)
    load.serves(20)
    node.resume()


def node_handed_over(cluster: Cluster, load: Load) -> None:
    replica = next(node for node in cluster.alive if role(node) == "slave")
    replica.client.execute_command("CLUSTER", "FAILOVER")
    until(lambda: role(replica) == "master")
    load.serves(20)


def slots_moved(cluster: Cluster, load: Load) -> None:
    for key in cluster.client.keys("sess:*")[:10]:
        source = cluster.primary_of(key.decode())
        target = next(node for node in cluster.primaries if node is not source)
        cluster.begin_move(key.decode(), target)
        load.serves(5)
        cluster.move_keys(key.decode(), target)
        load.serves(5)
        cluster.end_move(key.decode(), target)
    load.serves(20)


SERVER: dict[str, Fault] = {
    "kill -9, restarted empty": killed,
    "SIGSTOP": stopped,
    "SCRIPT FLUSH": scripts_forgotten,
    "FLUSHALL": emptied,
    "READONLY": read_only,
    "LOADING": loading,
    "NOPERM": forbidden,
    "NOAUTH": locked,
    "OOM": configured("maxmemory", "1", "0"),
    "too few replicas": configured("min-replicas-to-write", "1", "0"),
    "maxclients": configured("maxclients", "1", "10000", cut=True),
}
SENTINELS: dict[str, Fault] = {
    "kill -9": primary_killed,
    "SIGSTOP": primary_stopped,
    "ordered failover": handed_over,
}
CLUSTER: dict[str, Fault] = {
    "kill -9": node_killed,
    "SIGSTOP": node_stopped,
    "ordered failover": node_handed_over,
    "slots moved": slots_moved,
    "SCRIPT FLUSH": scripts_forgotten,
}
EMPTIES = {"kill -9, restarted empty", "FLUSHALL"}
"""Faults after which everything is gone."""


def cost_of(fault: Fault, servers: Any, clients: Callable[[], list[Any]]) -> Cost:
    """Of one fault, under load. ``clients``: of the primaries."""
    load = Load(servers.url)
    with load.running():
        fault(servers, load)
    for client in clients():
        keys = client.keys("*")
        load.cost.endless += sum([client.pttl(key) == -1 for key in keys])
    return load.cost


TOPOLOGIES: dict[str, tuple[Callable[[], Any], dict[str, Fault]]] = {
    "server": (valkey, SERVER),
    "sentinel": (Sentinels, SENTINELS),
    "cluster": (Cluster, CLUSTER),
}


def primaries_of(servers: Any) -> list[Any]:
    """redis-py's clients of the primaries."""
    if isinstance(servers, Cluster):
        return [node.client for node in servers.primaries]
    return [servers.client]


def main(rounds: int) -> None:
    for kind, (start, faults) in TOPOLOGIES.items():
        for name, fault in faults.items():
            for _ in range(rounds):
                servers = start()
                try:
                    cost = cost_of(fault, servers, lambda servers=servers: primaries_of(servers))
                    print(f"{kind}, {name} | {cost.row()}", *cost.untyped[:3], flush=True)
                finally:
                    servers.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
