"""Connections in trouble: forks without hooks, deadlines, a server that takes no more of them,
replies that nobody expects, rights that are missing."""

import contextlib
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from inside import builder_in, idle_in, lease_in, put_lease, socket_in, take
from servers import Server
from workers import (
    CLIENT_ID,
    api_at,
    eventually,
    in_c_fork,
    in_threads,
    known_values,
    pool_of,
    token_of,
    url_of,
)

from pyramid_altsession.api import SessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.errors import CorruptValue, StoreFull, StoreUnavailable
from pyramid_altsession.protocol.fields import State, Timing
from pyramid_altsession.protocol.messages import Read
from pyramid_altsession.protocol.token import Token
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.redis import failures
from pyramid_altsession.stores.redis.failures import LULL, NotConnected
from pyramid_altsession.stores.redis.pool import ConnectionPool
from pyramid_altsession.stores.redis.wire import pack_command

PING = pack_command((b"PING",))

# -- a fork that runs no hooks


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_a_child_that_c_forked_speaks_on_no_socket_of_its_parent(server: Server, way: str) -> None:
    """uWSGI forks in C. The child connects anew; the parent's connection serves on."""
    api = api_at(url_of(server, way))
    pool = pool_of(api)
    mine = pool.exchange(CLIENT_ID, 1)
    assert in_c_fork(lambda: pool.exchange(CLIENT_ID, 1) != mine) == 0
    assert pool.exchange(CLIENT_ID, 1) == mine
    api.close()


def test_children_that_c_forked_and_their_parent_mix_up_no_values(server: Server) -> None:
    """One utility, used before the forks and by everybody after them: every value is right."""
    api = api_at(server.url)
    held = known_values(api)

    def all_right() -> bool:
        return all(api.open(token).get(key) == value for token, key, value in held * 3)

    assert [in_c_fork(all_right) for _ in range(3)] == [0, 0, 0]
    assert all_right()
    api.close()


def test_a_reply_under_way_is_not_read_by_a_child(server: Server) -> None:
    """What was sent before the fork is the parent's: the child hears so, and reads nothing."""
    api = api_at(server.url)
    pool = pool_of(api)
    sent = pool.send(pack_command((b"ECHO", b"the parent's")), 1)

    def refused() -> bool:
        with pytest.raises(redis.ConnectionError, match="before a fork"):
            sent.receive()
        return pool.exchange(PING, 1) == [b"PONG"]

    assert in_c_fork(refused) == 0
    assert sent.receive() == [b"the parent's"]
    api.close()


def test_close_in_a_child_leaves_the_parents_connections(server: Server) -> None:
    """Its copies are closed; the parent's connection is the one that it was."""
    api = api_at(server.tcp_url)
    mine = pool_of(api).exchange(CLIENT_ID, 1)
    assert in_c_fork(lambda: api.close() is None) == 0
    assert pool_of(api).exchange(CLIENT_ID, 1) == mine
    api.close()


# -- gevent that patches late

LATE = """
import sys
from pyramid_altsession.api import SessionAPI

api = SessionAPI.from_settings({"redis.url": sys.argv[1], "redis.timeout": 30})

from gevent import monkey

monkey.patch_all()

import gevent

def visit(number):
    session = api.create({"n": number})
    return session.get("n", fresh=True) == number

jobs = [gevent.spawn(visit, number) for number in range(6)]
gevent.joinall(jobs, timeout=250)
print([job.value for job in jobs])
api.close()
"""


@pytest.mark.process
@pytest.mark.parametrize("kind", ["embedded", "memory", "server"])
def test_gevent_may_patch_after_the_application_was_made(
    server: Server, tmp_path: Path, kind: str
) -> None:
    """``gunicorn --preload -k gevent``: no lock that was made before stops all greenlets."""
    url = {"embedded": f"embedded://{tmp_path}/e", "memory": "memory://", "server": server.url}
    script = tmp_path / "late.py"
    script.write_text(LATE)
    command = [sys.executable, "-W", "ignore", str(script), url[kind]]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (said.stdout.strip(), said.returncode) == (str([True] * 6), 0), said.stderr


# -- one deadline


class Fake:
    """A server on a free port that does with each connection what ``serve(connection, number)``
    says, and closes it then."""

    def __init__(self, serve: Callable[[socket.socket, int], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads[0].start()

    def _accept(self) -> None:
        for number in range(1000):
            connection, _ = self._listener.accept()
            if self._over.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._talk, args=(connection, number))
            self._threads.append(thread)
            thread.start()

    def _talk(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            self._serve(connection, number)

    def wait(self, seconds: float) -> None:
        self._over.wait(seconds)

    def close(self) -> None:
        self._over.set()
        host, _, port = self.address.partition(":")
        socket.create_connection((host, int(port))).close()
        for thread in self._threads:
            thread.join()
        self._listener.close()


@pytest.fixture
def fake() -> Iterator[Callable[..., Fake]]:
    made: list[Fake] = []

    def make(serve: Callable[[socket.socket, int], None]) -> Fake:
        made.append(Fake(serve))
        return made[-1]

    yield make
    for each in made:
        each.close()


TIMEOUT = 0.3
NO_TIME = 2.0
"""Seconds that are many for a call of TIMEOUT, and few beside what these servers take."""


def fails_in_time(url: str, **settings: object) -> StoreUnavailable:
    """What a read ends in, and that it ends at about its time."""
    given = {"redis__timeout": TIMEOUT, "redis__connect_timeout": TIMEOUT} | settings
    api = api_at(url, **given)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        api.open("A" * 22 + "." + "B" * 43).get("k")
    assert time.monotonic() - began < NO_TIME
    api.close()
    return caught.value


def drip(connection: socket.socket, data: bytes) -> None:
    """A byte each 50 ms, until the other end has had enough."""
    connection.recv(65536)
    for byte in data:
        connection.sendall(bytes([byte]))
        if select.select([connection], [], [], 0.05)[0]:
            return


def test_a_reply_that_drips_is_given_up_in_time(fake: Callable[..., Fake]) -> None:
    """The time-out is not one for each part of the reply."""
    there = fake(lambda connection, number: drip(connection, b"$200\r\n" + b"x" * 200))
    fails_in_time(f"redis://{there.address}")


def test_a_handshake_that_drips_is_given_up_in_time(fake: Callable[..., Fake]) -> None:
    """Connecting has the same end: AUTH, SELECT and all."""
    there = fake(lambda connection, number: drip(connection, b"+" + b"OK" * 100 + b"\r\n"))
    fails_in_time(f"redis://:secret@{there.address}/1")


def test_addresses_that_do_not_answer_share_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with ten dead addresses costs one time-out, not ten."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # the queue of those who wait to be accepted
            each.setblocking(False)
            each.connect_ex(address)
        entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *given: [entry] * 10)
        fails_in_time("redis://example.invalid")
        for each in waiting:
            each.close()


@pytest.mark.slow
def test_a_repetition_has_what_is_left_of_the_time(fake: Callable[..., Fake]) -> None:
    """A connection that breaks late is no reason to wait as long again."""

    def late_then_never(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        there.wait(0.9 if number == 0 else 30)

    there = fake(late_then_never)
    began = time.monotonic()
    fails_in_time(f"redis://{there.address}", redis__timeout=1.0)
    assert time.monotonic() - began < 1.8


def test_a_longer_time_to_connect_counts(fake: Callable[..., Fake]) -> None:
    """connect_timeout may be longer than timeout: a call that connects has that time."""

    def slow_to_greet(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        there.wait(0.4)
        connection.sendall(b"+OK\r\n")
        connection.recv(65536)
        connection.sendall(b"+PONG\r\n")

    there = fake(slow_to_greet)
    api = api_at(f"redis://:p@{there.address}", redis__timeout=0.1, redis__connect_timeout=20)
    assert pool_of(api).exchange(PING, 1) == [b"PONG"]
    api.close()


def test_a_process_that_was_held_up_finds_its_replies(server: Server) -> None:
    """Its time is over, but the replies are there."""
    api = api_at(server.url)
    pool = pool_of(api)
    sent = pool.send(PING * 2, 2)
    assert eventually(lambda: sent.arrived)
    assert sent.receive(time.monotonic() - 1) == [b"PONG", b"PONG"]
    api.close()


@pytest.mark.parametrize(
    ("last", "told"),
    [(b"", "server closed"), (b"-DENIED protected\r\n", "DENIED"), (b"+OK\r\n", "broke")],
)
def test_a_connection_that_breaks_while_sending(
    fake: Callable[..., Fake], last: bytes, told: str
) -> None:
    """Whether it arrived is not known; what the server said before it hung up is told."""
    there = fake(lambda connection, number: connection.sendall(last))
    api = api_at(f"redis://{there.address}")
    pool = pool_of(api)
    connection = take(pool)
    assert select.select([socket_in(connection)], [], [], 10)[0]
    socket_in(connection).shutdown(socket.SHUT_WR)
    with pytest.raises(redis.RedisError, match=told):
        connection.send_packed_command([PING])
    connection.disconnect()
    api.close()


def test_a_handshake_that_is_not_answered(fake: Callable[..., Fake]) -> None:
    """Connecting is not over before the server has answered, and has a setting of its own."""

    def mute(connection: socket.socket, number: int) -> None:
        there.wait(300)

    there = fake(mute)
    api = api_at(f"redis://:secret@{there.address}", redis__connect_timeout=0.3)
    with pytest.raises(
        NotConnected, match=r"^no connection within 0\.3 s \(redis.connect_timeout\)"
    ):
        pool_of(api).exchange(PING, 1)
    api.close()


def test_a_reply_that_is_incomplete_when_the_time_is_over(fake: Callable[..., Fake]) -> None:
    """There is one last look for what has come, and no second one."""

    def half(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(b"$100\r\nhalf")
        there.wait(300)

    there = fake(half)
    api = api_at(f"redis://{there.address}")
    sent = pool_of(api).send(PING, 1)
    assert eventually(lambda: sent.arrived)
    with pytest.raises(redis.TimeoutError, match=r"no answer within .* s \(redis.timeout\)"):
        sent.receive(time.monotonic() - 1)
    api.close()


def test_a_connection_whose_socket_is_closed_is_replaced(server: Server) -> None:
    """Whoever closed it."""
    api = api_at(server.url)
    pool = pool_of(api)
    mine = pool.exchange(CLIENT_ID, 1)
    socket_in(idle_in(pool)[-1]).close()
    assert pool.exchange(CLIENT_ID, 1) != mine
    api.close()


def test_decrypted_bytes_make_a_connection_unusable(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TLS they wait above the socket, which has nothing to read."""
    api = api_at(server.url)
    pool = pool_of(api)
    connection = take(pool)
    with monkeypatch.context() as waiting:
        waiting.setattr(connection, "_pending", lambda: 5)
        assert connection.can_read()
    idle_in(pool).append(connection)
    api.close()


def test_times_of_a_connection_can_be_set_as_with_redis_py(server: Server) -> None:
    """While no call has given it an end, they are the times that hold."""
    connection = builder_in(pool_of(api_at(server.url)))()
    connection.socket_timeout = 3
    connection.socket_connect_timeout = 4
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (3, 4)


def test_little_time_that_is_left_after_connecting(server: Server) -> None:
    """It bounds the first reply: not the time that the socket was given while connecting."""
    connection = builder_in(pool_of(api_at(server.tcp_url)))()
    connection.end = time.monotonic() + 2
    connection.connect()
    connection.end = time.monotonic() + 0.005
    with pytest.raises(redis.TimeoutError):
        connection.read_response()
    assert socket_in(connection).gettimeout() < 0.01
    connection.disconnect()


# -- connections that cannot be made


@pytest.fixture
def limited(own_server: Server) -> Iterator[SessionAPI]:
    """A utility with two healthy connections to a server that takes no further ones."""
    api = api_at(own_server.tcp_url, redis__timeout=60, redis__connect_timeout=60)
    pool = pool_of(api)
    taken = [take(pool), take(pool)]
    idle_in(pool).extend(taken)
    count = int(own_server.client.info("clients")["connected_clients"])
    own_server.client.config_set("maxclients", count)
    yield api
    api.close()


def fail_to_connect(pool: ConnectionPool) -> None:
    """A third caller at once, whose connection cannot be made."""
    taken = [take(pool), take(pool)]
    with pytest.raises(redis.ConnectionError, match="max number of clients"):
        pool.exchange(PING, 1, time.monotonic())
    idle_in(pool).extend(taken)


def test_healthy_connections_serve_while_another_cannot_be_made(limited: SessionAPI) -> None:
    """One that failed does not stand before them."""
    pool = pool_of(limited)
    fail_to_connect(pool)
    assert [pool.exchange(PING, 1) for _ in range(100)] == [[b"PONG"]] * 100


def test_a_stale_connection_does_not_hide_a_healthy_one(
    limited: SessionAPI, own_server: Server
) -> None:
    """One that the server closed is opened anew only when no other is idle."""
    pool = pool_of(limited)
    (top,) = pool.exchange(CLIENT_ID, 1)
    own_server.client.client_kill_filter(_id=top)
    own_server.client.config_set("maxclients", 1)
    newest = idle_in(pool)[-1]
    assert eventually(lambda: select.select([socket_in(newest)], [], [], 0)[0])
    assert [pool.exchange(PING, 1) for _ in range(20)] == [[b"PONG"]] * 20


@pytest.mark.parametrize("commands", [1, 3])
def test_more_callers_than_connections_that_can_be_made(commands: int, limited: SessionAPI) -> None:
    """Those who cannot connect wait for the healthy connections, as at max_connections. The server
    refuses a connection with one reply, however many commands are sent.
    """
    pool = pool_of(limited)

    def ping(number: int) -> list[object]:
        return [pool.exchange(PING * commands, commands) for _ in range(30)]

    assert in_threads(6, ping) == [[[b"PONG"] * commands] * 30] * 6


class Flapping:
    """A pool every other exchange of which fails."""

    def __init__(self) -> None:
        self.turn = 0

    def until(self) -> float:
        return 0.0

    def exchange(self, packet: bytes, replies: int, end: float) -> list[Any]:
        self.turn += 1
        if self.turn % 2:
            raise NotConnected("max number of clients reached")
        return [[None] * 9, -2, [b"1", b"0"]]


def test_an_outage_that_flaps_does_not_fill_the_log(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that it began, one that it ended; the next ones after some seconds."""
    store = open_store(read_settings({"redis.url": server.url}))
    put_lease(store, Flapping())
    claim = Token.new().claim
    read = Read((claim,), (), Timing(60_000, 6_000, 0, 0))

    def calls(count: int) -> list[str]:
        caplog.clear()
        for _ in range(count):
            with pytest.raises(StoreUnavailable):
                store.execute(read)
            store.execute(read)
        return [record.levelname for record in caplog.records]

    assert calls(50) == ["ERROR", "WARNING"]
    assert calls(50) == []
    monkeypatch.setattr(failures, "time", Later(time.monotonic() + LULL))
    assert calls(50) == ["ERROR", "WARNING"]


def test_two_that_find_out_at_once_that_the_server_serves(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, whichever thread is faster."""
    read = Read((Token.new().claim,), (), Timing(60_000, 6_000, 0, 0))
    trouble = failures.Trouble("the server")
    trouble.failure(read, redis.ConnectionError("away"))
    caplog.clear()
    need_of = failures.Need.of

    def overtaken(operation: Read) -> failures.Need:
        monkeypatch.setattr(failures.Need, "of", need_of)
        trouble.served(operation)
        return need_of(operation)

    monkeypatch.setattr(failures.Need, "of", overtaken)
    trouble.served(read)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


class Hanging:
    """A pool whose connections turn out to be broken when a read is sent ahead."""

    def __init__(self, pool: ConnectionPool) -> None:
        self.exchange, self.until, self.close = pool.exchange, pool.until, pool.close

    def send(self, packet: bytes, replies: int, end: float) -> Any:
        raise redis.ConnectionError("the connection broke")


def test_a_read_that_could_not_be_sent_ahead(server: Server) -> None:
    """It is carried out at once, on another connection."""
    store = open_store(read_settings({"redis.url": server.url}))
    put_lease(store, Hanging(lease_in(store)))
    read = Read((Token.new().claim,), (), Timing(60_000, 6_000, 0, 0))
    for then in ("result", "cancel"):
        sent = store.send(read)
        if then == "result":
            assert sent.result(read).state is State.DEAD
        else:
            sent.cancel()
    store.close()


class Later:
    """Stands for the module ``time``."""

    def __init__(self, now: float) -> None:
        self._now = now

    def monotonic(self) -> float:
        return self._now


# -- replies that nobody expects


def saying(line: bytes) -> Callable[[socket.socket, int], None]:
    def say(connection: socket.socket, number: int) -> None:
        while connection.recv(65536):
            connection.sendall(line + b"\r\n" + b"$-1\r\n*2\r\n$1\r\n1\r\n$1\r\n0\r\n")

    return say


@pytest.mark.parametrize(
    "line",
    [
        b"-DENIED Redis is running in protected mode",
        b"-ERR upstream failure",
        b"-ERR max daily request limit exceeded",
        b"-ERR unknown command 'HMGET'",
        b"-MOVED 1 127.0.0.1:1",
        b"-MASTERDOWN Link with MASTER is down",
        b"-WHATEVER",
    ],
)
def test_an_error_reply_instead_of_an_answer_is_an_outage(
    fake: Callable[..., Fake], caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    """What a proxy, a plan or the server says is in the log; a visitor sees none of it."""
    there = fake(saying(line))
    error = fails_in_time(f"redis://{there.address}", redis__timeout=20)
    words = line.decode().rpartition(" ")[2].strip("-'")
    assert words in caplog.text
    error.prepare({})
    assert words not in error.body.decode()


@pytest.mark.parametrize(
    "line", [b"-ERR wrong number of arguments for 'hmget' command", b"-ERR syntax error"]
)
def test_a_mistake_of_the_package_is_to_be_seen(fake: Callable[..., Fake], line: bytes) -> None:
    """It is no outage."""
    there = fake(saying(line))
    api = api_at(f"redis://{there.address}")
    with pytest.raises(redis.ResponseError) as caught:
        api.open("A" * 22 + "." + "B" * 43).get("k")
    assert type(caught.value) is redis.ResponseError
    api.close()


def test_no_reply_at_all_is_an_outage(fake: Callable[..., Fake]) -> None:
    """Something else than a server of the protocol answers."""
    there = fake(saying(b"HTTP/1.1 400 Bad Request"))
    fails_in_time(f"redis://{there.address}", redis__timeout=20)


def test_the_wrong_type_is_a_corrupt_value(fake: Callable[..., Fake]) -> None:
    """That is the session's, not the server's trouble."""
    there = fake(saying(b"-WRONGTYPE Operation against a key"))
    api = api_at(f"redis://{there.address}")
    with pytest.raises(CorruptValue):
        api.open("A" * 22 + "." + "B" * 43).get("k")
    api.close()


# -- rights

RIGHTS = re.findall(
    r"\+(\w+)",
    "+hget +hmget +hset +hdel +hgetall +exists +pttl +pexpire +pexpireat +time +eval +evalsha"
    " +zadd +zrem +zcard +zscore +zmscore +zrevrange +zrandmember",
)


@pytest.fixture
def restricted(any_server: Server) -> Iterator[Callable[[str], SessionAPI]]:
    """A utility whose user of the server lacks one right."""
    opened: list[SessionAPI] = []

    def without(missing: str) -> SessionAPI:
        rules = [f"+{right}" for right in RIGHTS if right != missing]
        any_server.client.script_flush()
        any_server.client.execute_command(
            "ACL", "SETUSER", "app", "reset", "on", ">secret", "~sess:*", *rules
        )
        settings = {"socket": any_server.socket, "username": "app", "password": "secret"}
        opened.append(SessionAPI.from_settings({"redis": settings}))
        return opened[-1]

    yield without
    for api in opened:
        api.close()
    any_server.client.execute_command("ACL", "DELUSER", "app")


def test_check_passes_with_the_least_rights(
    any_server: Server, restricted: Callable[[str], SessionAPI]
) -> None:
    """And leaves nothing behind."""
    restricted("none").check()
    assert eventually(lambda: any_server.client.dbsize() == 0)


@pytest.mark.parametrize("missing", RIGHTS)
def test_check_names_the_right_that_is_missing(
    any_server: Server, restricted: Callable[[str], SessionAPI], missing: str
) -> None:
    """StoreUnavailable with the command's name, for operators; and no key without an end."""
    with pytest.raises(StoreUnavailable, match=rf"(?i)\b{missing}\b"):
        restricted(missing).check()
    assert unending(any_server) == []


def unending(server: Server) -> list[bytes]:
    return [key for key in server.client.scan_iter() if server.client.pttl(key) == -1]


@pytest.mark.parametrize("missing", RIGHTS)
def test_no_missing_right_leaves_a_key_without_an_end(
    any_server: Server, restricted: Callable[[str], SessionAPI], missing: str
) -> None:
    """Whatever a user lacks: a write that is refused midway has left nothing for ever."""
    other = api_at(any_server.url)
    token = token_of(other.create({"a": 1}))
    api = restricted(missing)
    calls: list[Callable[[], object]] = [
        lambda: api.create({"a": 1}),
        lambda: api.open(token).set("b", 2),
        lambda: api.open(token).remove("a"),
        lambda: api.open(token).login("ann"),
        lambda: api.create({"a": 1}).login("bob"),
        lambda: api.invalidate_user("ann"),
        lambda: api.open(token_of(other.create())).invalidate(),
    ]
    for call in calls:
        with contextlib.suppress(StoreUnavailable):
            call()
        assert unending(any_server) == []
    other.close()


def make_full(client: "redis.Redis") -> None:
    client.config_set("maxmemory", 1)


def make_replica(client: "redis.Redis") -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def want_replicas(client: "redis.Redis") -> None:
    client.config_set("min-replicas-to-write", 1)


@pytest.mark.parametrize(
    ("trouble", "error"),
    [(make_full, StoreFull), (make_replica, StoreUnavailable), (want_replicas, StoreUnavailable)],
)
def test_check_fails_where_nothing_can_be_written(
    own_server: Server, trouble: Callable[[Any], None], error: type[StoreUnavailable]
) -> None:
    """A full server, a read-only replica, too few replicas."""
    api = api_at(own_server.url)
    api.check()
    trouble(own_server.client)
    with pytest.raises(error):
        api.check()
    api.close()


# -- uWSGI

UWSGI = Path(sys.executable).with_name("uwsgi")

UWSGI_APP = """
from pyramid.config import Configurator
from pyramid_altsession import ISessionAPI

def visit(request):
    return request.altsession.increment("visits")

settings = {"redis.url": "%s", "redis.timeout": 30, "session.secure": "no"}
with Configurator(settings={f"altsession.{name}": value for name, value in settings.items()}) as c:
    c.include("pyramid_altsession")
    c.add_route("home", "/")
    c.add_view(visit, route_name="home", renderer="json")
    application = c.make_wsgi_app()
application.registry.getUtility(ISessionAPI).check()  # used before the fork
"""


@pytest.mark.process
@pytest.mark.parametrize("kind", ["embedded", "server"])
def test_uwsgi_serves_what_was_used_before_its_fork(
    server: Server, tmp_path: Path, kind: str
) -> None:
    """It forks in C, and its own binary is sys.executable: sessions work all the same."""
    url = f"embedded://{tmp_path}/e" if kind == "embedded" else server.url
    (tmp_path / "served.py").write_text(UWSGI_APP % url)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(UWSGI), "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", "2"]
    command += ["--die-on-term", "--pythonpath", str(tmp_path), "--module", "served"]
    command += ["--home", sys.prefix]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        assert eventually(lambda: answers(port), seconds=300), (tmp_path / "log").read_text()
        cookie, body = ask(port)
        bodies = [ask(port, cookie)[1] for _ in range(20)]
        assert [body, *bodies] == [str(number).encode() for number in range(1, 22)]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(300)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def ask(port: int, cookie: str = "") -> tuple[str, bytes]:
    """The cookie that the answer sets, and its body."""
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("GET", "/", headers={"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return (answer.getheader("Set-Cookie") or "").partition(";")[0], body
    finally:
        connection.close()
