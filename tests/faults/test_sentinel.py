"""The primary that sentinels name."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from servers import Server
from topologies import MASTER, Sentinels, until
from workers import eventually, token_of

from pyramid_altsession.api import SessionAPI
from pyramid_altsession.errors import StoreUnavailable
from pyramid_altsession.protocol.steps import run
from pyramid_altsession.stores.redis.exchanges import Address, Exchange
from pyramid_altsession.stores.redis.failures import NotConnected
from pyramid_altsession.stores.redis.sentinel import Discovery, check_role

ONE, TWO, THREE = ("one", 1), ("two", 2), ("three", 3)
FOUND = [b"primary", b"6379"]


class Asked:
    """Sentinels that say what the test says; ``said`` notes who was asked, and with what share of
    the time."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.said: list[tuple[str, int]] = []

    def carry_out(self, exchange: Exchange) -> list[Any]:
        assert exchange.address is not None
        self.said.append((exchange.address[0], exchange.share))
        answer = self.answers[exchange.address[0]]
        if isinstance(answer, redis.ConnectionError | redis.TimeoutError):
            raise answer
        return [answer]

    def find(self, discovery: Discovery) -> Address:
        return run(self.carry_out, discovery.find())


def test_the_sentinel_that_knew_it_is_asked_first() -> None:
    """The next time; the others share the time with it."""
    discovery = Discovery([ONE, TWO, THREE], MASTER)
    asked = Asked(one=redis.ConnectionError("away"), two=FOUND)
    assert asked.find(discovery) == ("primary", 6379)
    assert asked.find(discovery) == ("primary", 6379)
    assert asked.said == [("one", 4), ("two", 3), ("two", 4)]


def test_a_sentinel_that_named_a_replica_is_asked_last() -> None:
    """It has not heard of the failover yet."""
    discovery = Discovery([ONE, TWO, THREE], MASTER)
    asked = Asked(one=FOUND, two=FOUND)
    asked.find(discovery)
    discovery.distrust()
    asked.find(discovery)
    assert [name for name, _ in asked.said] == ["one", "two"]


def test_no_sentinel_knows_the_primary() -> None:
    """NotConnected tells what each of them said, and names the setting."""
    discovery = Discovery([ONE, TWO], MASTER)
    asked = Asked(one=redis.ConnectionError("away"), two=None)
    with pytest.raises(NotConnected, match=r"one:1 away; two:2 knows no 'main' \(redis.master\)"):
        asked.find(discovery)


def test_a_sentinel_that_is_late() -> None:
    """The next one is asked; if none answers, the setting that gives them their time is named."""
    discovery = Discovery([ONE, TWO], MASTER)
    assert Asked(one=redis.TimeoutError("late"), two=FOUND).find(discovery) == ("primary", 6379)
    asked = Asked(one=redis.TimeoutError("late"), two=redis.TimeoutError("late"))
    with pytest.raises(NotConnected, match=r"one:1 does not answer .*redis.connect_timeout"):
        asked.find(discovery)


@pytest.mark.parametrize(
    ("said", "role"),
    [
        ([b"server", b"valkey", b"role", b"replica"], "replica"),
        ([b"server", b"valkey"], "?"),
        (redis.ResponseError("unknown command"), "?"),
    ],
)
def test_only_a_primary_will_do(said: Any, role: str) -> None:
    """Whatever else answers HELLO is turned down."""
    with pytest.raises(NotConnected, match=rf"its role is {role}".replace("?", r"\?")):
        check_role([said])
    check_role([[b"role", b"master"]])


@pytest.fixture(scope="module")
def servers() -> Iterator[Sentinels]:
    """A topology that the tests of this module may harm, and that is whole again after each."""
    found = Sentinels()
    yield found
    found.stop()


@pytest.fixture
def api(servers: Sentinels) -> Iterator[SessionAPI]:
    """At the sentinels; with short times, as there will be an outage."""
    servers.empty()
    times = {"redis.timeout": 2, "redis.connect_timeout": 2}
    found = SessionAPI.from_settings({"redis.url": servers.url, **times})
    yield found
    found.close()
    for node in (*servers.nodes, *servers.sentinels):
        if node.process is None:
            node.start()
    servers.settle()


def serves(api: SessionAPI, token: str, **expected: object) -> bool:
    """Whether the values can be read; what is raised until then is StoreUnavailable only."""
    try:
        return api.open(token).mget(list(expected), fresh=True) == expected
    except StoreUnavailable:
        return False


class Mistaken:
    """A sentinel that names a server which is no primary."""

    def __init__(self, port: int) -> None:
        said = str(port).encode()
        self._says = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(said), said)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis+sentinel://127.0.0.1:{self._listener.getsockname()[1]}/{MASTER}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while connection.recv(4096):
                connection.sendall(self._says)

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


@pytest.mark.slow
def test_a_replica_is_never_read(api: SessionAPI, servers: Sentinels) -> None:
    """A sentinel that names one is not believed: it would serve old values without a word."""
    token = token_of(api.create({"a": 1}))
    replica = next(node for node in servers.nodes if node is not servers.current)
    until(lambda: replica.client.keys("*"))
    sentinel = Mistaken(replica.port)
    misled = SessionAPI.from_settings({"redis.url": sentinel.url})
    try:
        with pytest.raises(StoreUnavailable, match="its role is replica, not master"):
            misled.open(token).get("a")
    finally:
        misled.close()
        sentinel.close()


@pytest.mark.slow
def test_an_ordered_failover(api: SessionAPI, servers: Sentinels) -> None:
    """Sessions are there afterwards, and go on to be written, at the new primary."""
    token = token_of(api.create({"a": 1}))
    old = servers.current
    servers.failover()
    assert servers.current is not old
    assert eventually(lambda: serves(api, token, a=1))
    api.open(token).set("a", 2)
    assert serves(api, token, a=2)


@pytest.mark.slow
def test_a_primary_that_is_killed(api: SessionAPI, servers: Sentinels) -> None:
    """StoreUnavailable until the sentinels have agreed on another one."""
    token = token_of(api.create({"a": 1}))
    replica = next(node for node in servers.nodes if node is not servers.current)
    until(lambda: replica.client.keys("*"))
    servers.current.kill()
    with pytest.raises(StoreUnavailable):
        api.open(token).get("a")
    assert eventually(lambda: serves(api, token, a=1))


def test_sentinels_that_are_away(api: SessionAPI, servers: Sentinels) -> None:
    """One is enough to find the primary; who is connected needs none."""
    token = token_of(api.create({"a": 1}))
    for sentinel in servers.sentinels[:2]:
        sentinel.kill()
    api.close()
    assert serves(api, token, a=1)
    servers.sentinels[2].kill()
    assert serves(api, token, a=1)
    api.close()
    with pytest.raises(StoreUnavailable, match="no sentinel names the primary"):
        api.open(token).get("a")


def test_a_primary_that_became_a_replica_is_left(api: SessionAPI, servers: Sentinels) -> None:
    """READONLY: what was refused is said again on a new connection, and the caller hears of what
    that finds."""
    session = api.create({"a": 1})
    primary = servers.current
    primary.client.config_set("replica-read-only", "yes")
    ask = primary.client.execute_command
    ask("REPLICAOF", "127.0.0.1", str(primary.port + 1))
    try:
        with pytest.raises(StoreUnavailable, match=r"its role is replica|READONLY"):
            session.set("a", 2)
    finally:
        ask("REPLICAOF", "NO", "ONE")


@pytest.mark.slow
def test_a_paused_primary_that_goes_on(api: SessionAPI, servers: Sentinels) -> None:
    """It takes itself for the primary until the sentinels tell it otherwise, eight seconds later.
    With min-replicas-to-write it refuses writes by then, and those who know it turn to the new one.
    """
    session = api.create({"a": 1})
    old = servers.current
    other = next(node for node in servers.nodes if node is not old)
    until(lambda: other.client.keys("*"))
    old.pause()
    until(lambda: all(names(sentinel, other) for sentinel in servers.sentinels))
    old.resume()
    old.client.config_set("min-replicas-max-lag", "1")
    old.client.config_set("min-replicas-to-write", "1")
    try:
        until(lambda: refuses(old))
        session.set("a", 2)
        assert other.client.hget(f"sess:{session.id}", "a") == b"2"
    finally:
        old.client.config_set("min-replicas-to-write", "0")


def names(sentinel: Server, primary: Server) -> bool:
    said = sentinel.client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
    return int(said[1]) == primary.port


def refuses(node: Server) -> bool:
    try:
        return not node.client.set("some key", 1, px=1)
    except redis.ResponseError:
        return True
