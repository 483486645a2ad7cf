"""Faults of real servers under load, and what they cost: errors, data, sessions that come back.

    make faults

causes them all several times and prints one table.
"""

import datetime
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from load import Cost, Load
from probe import Open, Probe, at_server, by_sentinels, in_cluster
from proxy import Proxy
from servers import Server, valkey
from topologies import MASTER, SLOTS, Cluster, Sentinels, role, until

Fault = Callable[[Any, Load], None]


# -- one server


def killed(server: Server, load: Load) -> None:
    server.kill()
    load.fails()
    server.start()


def restarted(server: Server, load: Load) -> None:
    """It saves its data when it is told to stop, and reads them when it starts."""
    assert server.process is not None
    server.client.config_set("save", "3600 1")
    server.process.terminate()
    server.process.wait()
    load.fails()
    server.kill()
    server.start()
    os.remove(os.path.join(server.directory, "dump.rdb"))


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


def unable_to_save(server: Server, load: Load) -> None:
    """A server that should save its data and cannot refuses writes: MISCONF."""
    blocked = os.path.join(server.directory, "dump.rdb")
    os.mkdir(blocked)
    server.client.config_set("save", "3600 1")
    save(server, "err")
    load.fails()
    os.rmdir(blocked)
    save(server, "ok")
    server.client.config_set("save", "")
    os.remove(blocked)


def save(server: Server, status: str) -> None:
    """Until a save in the background came to this."""
    server.client.bgsave()
    until(lambda: server.client.info("persistence")["rdb_last_bgsave_status"] == status)


def loading(server: Server, load: Load) -> None:
    """The server reads its data anew, slowly. MERGE, because Valkey ends itself if it finds a key
    that a visitor has written just then."""
    server.client.config_set("key-load-delay", "20000")
    server.client.config_set("loading-process-events-interval-bytes", "1024")
    with suppress(redis.RedisError):
        server.client.execute_command("DEBUG", "RELOAD", "MERGE")
    server.client.config_set("key-load-delay", "0")
    with suppress(FileNotFoundError):
        os.remove(os.path.join(server.directory, "dump.rdb"))


# -- the way to a server


class Network:
    """One server and the way to it."""

    def __init__(self) -> None:
        self.server = valkey()
        self.proxy, self.probed = Proxy(self.server), Proxy(self.server)
        self.url = self.proxy.url
        self.client = self.server.client

    def spoil(self, how: str, value: float) -> None:
        """The same for clients and for the probe, of which neither takes the other's trouble."""
        for proxy in (self.proxy, self.probed):
            setattr(proxy, how, value)

    def settle(self) -> None:
        """Nothing is wrong with the way."""
        for how in ("delay", "drip", "swallow", "lose", "halve", "reset"):
            self.spoil(how, 0)

    def stop(self) -> None:
        self.proxy.close()
        self.probed.close()
        self.server.stop()


def spoiling(**how: float) -> Callable[[Network, Load], None]:
    """The way does this until calls have failed."""

    def fault(network: Network, load: Load) -> None:
        for name, value in how.items():
            network.spoil(name, value)
        load.fails()
        network.settle()

    return fault


def breaking(how: str) -> Callable[[Network, Load], None]:
    """One reply after the other is broken, with replies that arrive in between; then many are, one
    after the other."""

    def fault(network: Network, load: Load) -> None:
        for _ in range(10):
            network.spoil(how, 1)
            load.serves(5)
        network.spoil(how, 10_000)
        load.fails()
        network.settle()

    return fault


def slow(network: Network, load: Load) -> None:
    """Slower than usual, and in time."""
    network.spoil("delay", 0.002)
    load.serves(100)
    network.settle()


def replaced(servers: Any, holds: Callable[[], object]) -> None:
    """Wait until another server has taken over. If a busy machine keeps the servers from agreeing
    on one within the time that they give each other, they get more of it.
    """
    for patience in (CALM, 2 * CALM):
        with suppress(AssertionError):
            until(holds, 20.0)
            return
        servers.suspect_after(patience)
    until(holds)


# -- sentinels


def rejoined(servers: Sentinels, old: Server, load: Load) -> None:
    """Wait until the old primary follows the new one. If a busy machine keeps the sentinels from
    telling it to, it is told here.
    """
    (new,) = [node for node in servers.nodes if node is not old]
    with servers.patient(), load.unhurried():
        try:
            until(lambda: role(old) == "slave", 60.0)
        except AssertionError:
            old.client.execute_command("REPLICAOF", "127.0.0.1", new.port)
            until(lambda: role(old) == "slave")


def primary_killed(servers: Sentinels, load: Load) -> None:
    old = servers.current
    old.kill()
    load.fails()
    replaced(servers, lambda: servers.current is not old)
    load.serves(20)
    old.start()
    rejoined(servers, old, load)


def primary_stopped(servers: Sentinels, load: Load) -> None:
    old = servers.current
    other = next(node for node in servers.nodes if node is not old)
    old.pause()
    load.fails()
    replaced(servers, lambda: role(other) == "master")
    load.serves(20)
    old.resume()
    rejoined(servers, old, load)


def handed_over(servers: Sentinels, load: Load) -> None:
    servers.failover()
    load.serves(20)


# -- a cluster


def node_killed(cluster: Cluster, load: Load) -> None:
    node = cluster.primaries[0]
    node.kill()
    load.fails()
    replaced(cluster, lambda: len(cluster.primaries) == 3)
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
    """One key after the other: MIGRATING, IMPORTING, MIGRATE."""
    for key in cluster.client.keys("sess:*")[:10]:
        source = cluster.primary_of(key.decode())
        target = next(node for node in cluster.primaries if node is not source)
        cluster.begin_move(key.decode(), target)
        load.serves(5)
        cluster.move_keys(key.decode(), target)
        load.serves(5)
        cluster.end_move(key.decode(), target)
    load.serves(20)


def slots_moved_whole(cluster: Cluster, load: Load) -> None:
    """Many slots at a time, as Valkey 9 moves them: CLUSTER MIGRATESLOTS."""
    for first in range(0, SLOTS, SLOTS // 8):
        cluster.migrate(first, first + SLOTS // 8 - 1)
        load.serves(20)


def readdressed(cluster: "NamedCluster", load: Load) -> None:
    """All nodes get new addresses at once; a seed's name stays."""
    cluster.change_ports()
    cluster.front.target(cluster.nodes[0])
    load.serves(20)


class NamedCluster(Cluster):
    """A cluster whose seed is a name that stays, wherever the node is."""

    def __init__(self) -> None:
        super().__init__()
        self.front = Proxy(self.nodes[0])

    @property
    def url(self) -> str:
        return self.front.url.replace("redis://", "redis+cluster://")

    def stop(self) -> None:
        self.front.close()
        super().stop()


SERVER: dict[str, Fault] = {
    "kill -9, restarted empty": killed,
    "restart, with its data": restarted,
    "SIGSTOP": stopped,
    "SCRIPT FLUSH": scripts_forgotten,
    "FLUSHALL": emptied,
    "READONLY": read_only,
    "LOADING": loading,
    "NOPERM": forbidden,
    "NOAUTH": locked,
    "MISCONF": unable_to_save,
    "OOM": configured("maxmemory", "1", "0"),
    "too few replicas": configured("min-replicas-to-write", "1", "0"),
    "maxclients": configured("maxclients", "1", "10000", cut=True),
}
NETWORK: dict[str, Fault] = {
    "slow": slow,
    "delays replies too long": spoiling(delay=1.5),
    "drops replies": spoiling(swallow=True),
    "drips replies": spoiling(drip=0.1),
    "loses replies": breaking("lose"),
    "halves replies": breaking("halve"),
    "resets": breaking("reset"),
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
    "slots moved by key": slots_moved,
    "slots moved whole": slots_moved_whole,
    "SCRIPT FLUSH": scripts_forgotten,
    "all at new addresses": readdressed,
}
EMPTIES = {"kill -9, restarted empty", "FLUSHALL"}
"""Faults after which everything is gone."""
UNNOTICED = {"SCRIPT FLUSH", "FLUSHALL", "slots moved by key", "slots moved whole", "slow"}
"""Faults with which no call fails, given time: a busy machine is no outage."""
KILLS = {"kill -9", "SIGSTOP"}
"""Faults with which a primary is replaced that has not told its replica all."""
QUICK, CALM = 500, 5000
"""Milliseconds after which servers replace a primary: a busy machine must not make them replace one
that is well, where that is not the fault."""
PATIENT = {"timeout": 30, "connect_timeout": 30}


def cost_of(name: str, fault: Fault, servers: Any) -> Cost:
    """Of one fault, under load."""
    times: dict[str, Any] = PATIENT if name in UNNOTICED else {}
    several = isinstance(servers, Sentinels | Cluster)
    if several:
        servers.suspect_after(QUICK if name in KILLS else CALM)
    load = Load(servers.url, durable=several, **times)
    with load.running(), Probe(way_of(servers)) as probe:
        fault(servers, load)
        probe.serves()
        load.serves(100)
    load.cost.own = probe.window
    load.cost.endless = endless(servers)
    return load.cost


def way_of(servers: Any) -> Open:
    """To whoever serves, for a probe."""
    match servers:
        case Sentinels():
            return by_sentinels([sentinel.port for sentinel in servers.sentinels], MASTER)
        case NamedCluster():
            return in_cluster([*[node.port for node in servers.nodes], servers.front.port])
        case Network():
            return at_server(servers.probed.url)
    return at_server(servers.url)


def endless(servers: Any) -> int:
    """How many keys have no end."""
    primaries = getattr(servers, "primaries", None) or [servers]
    clients = [primary.client for primary in primaries]
    return sum([client.pttl(key) == -1 for client in clients for key in client.keys("*")])


TOPOLOGIES: dict[str, tuple[Callable[[], Any], dict[str, Fault]]] = {
    "server": (valkey, SERVER),
    "network": (Network, NETWORK),
    "sentinel": (Sentinels, SENTINELS),
    "cluster": (NamedCluster, CLUSTER),
}

BOUND = 0.5
"""Seconds by which clients may see errors for longer than the servers serve nobody."""
COLUMNS = ("fault", "errors", "longest", "own", "slowest", "lost", "back", "durable", "lines")
WIDTHS = (34, 42, 8, 8, 8, 12, 12, 12, 5)
EXPLAINED = """
errors    all that the rounds saw. "unconfirmed" is NotDurable: the caller was told that the end
          of the session may be undone
longest   seconds from the first error to the last, in the round where they were most beyond "own"
own       the same in that round for one connection of redis-py's, which asks every 10 ms, and asks
          anew who serves after each error
slowest   seconds of the slowest call
lost      values or sessions that had been acknowledged, of so many calls
back      sessions that had been ended and were alive again, of so many that were ended
durable   those of them that were ended with durable=True
lines     most lines in the log about one server, in one round
"""


def row(*cells: object) -> str:
    return " | ".join(
        [str(cell).ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)]
    ).rstrip()


def told(kind: str, name: str, costs: list[Cost]) -> str:
    """One line of the table. Of what must not be at all, only if it was."""
    errors: Counter[str] = Counter()
    for cost in costs:
        errors += cost.errors
        for what in ("foreign", "endless", "unconfirmed"):
            errors[what] += getattr(cost, what)
        errors["untyped " + "".join(cost.untyped[:1])] += len(cost.untyped)
    calls = sum([cost.calls for cost in costs])
    worst = max(costs, key=lambda cost: (beyond(cost), cost.window))
    ended = [sum([getattr(cost, each) for cost in costs]) for each in ENDED]
    return row(
        f"{kind}: {name}",
        ", ".join([f"{number} {error}" for error, number in errors.items() if number]) or "none",
        f"{worst.window:.2f}",
        "" if worst.own is None else f"{worst.own:.2f}",
        f"{max([cost.slowest for cost in costs]):.2f}",
        f"{sum([len(cost.lost) for cost in costs])} of {calls}",
        f"{ended[0]} of {ended[1]}",
        f"{ended[2]} of {ended[3]}",
        max([max(cost.lines.values(), default=0) for cost in costs]),
    )


def beyond(cost: Cost) -> float:
    """By how many seconds clients saw errors for longer than the servers served nobody."""
    return cost.window - (cost.own or 0.0)


ENDED = ("resurrected", "ended", "resurrected_durably", "durably")


def main(rounds: int, only: str = "") -> None:
    version, late = None, []
    for kind, (start, faults) in TOPOLOGIES.items():
        for name, fault in faults.items():
            if only not in f"{kind}: {name}":
                continue
            costs = []
            for _ in range(rounds):
                servers = start()
                try:
                    if version is None:
                        version = servers.client.info("server")["valkey_version"]
                        print(f"{datetime.date.today()}, Valkey {version}, Python"
                              f" {platform.python_version()}, {rounds} rounds each")  # fmt: skip
                        print(row(*COLUMNS))
                    costs.append(cost_of(name, fault, servers))
                finally:
                    servers.stop()
            print(told(kind, name, costs), flush=True)
            if (seconds := max([beyond(cost) for cost in costs])) > BOUND:
                late.append(f"{kind}: {name} ({seconds:.2f} s)")
    print(EXPLAINED)
    print(f"longest at most own + {BOUND} s: {'not in ' + ', '.join(late) if late else 'always'}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, *sys.argv[2:])
