"""The store on real servers: what goes over the wire, and what is made of trouble."""

import logging
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from inside import build_with, builder_in, lease_in
from parts import Part, in_a_row, write_of
from redis.connection import Connection, SSLConnection
from redis.exceptions import NoScriptError
from servers import Server, free_port
from workers import CLIENT_ID

from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.errors import AltSessionError, CorruptValue, StoreFull, StoreUnavailable
from pyramid_altsession.protocol.fields import State, Timing
from pyramid_altsession.protocol.lifecycle import Invalidate, Renew, Touch
from pyramid_altsession.protocol.messages import End, Listing, Operation, Prune, Read, Reply, Write
from pyramid_altsession.protocol.token import Token
from pyramid_altsession.protocol.verbs import (
    CompareAndSet,
    Increment,
    Pop,
    Remove,
    Set,
    SetDefault,
    Verb,
)
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.embedded import EmbeddedServer
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.redis import connections as connections_module
from pyramid_altsession.stores.redis import failures
from pyramid_altsession.stores.redis import store as module
from pyramid_altsession.stores.redis import wire as packets_module
from pyramid_altsession.stores.redis.connections import UnixConnection, connections
from pyramid_altsession.stores.redis.one_server import OneServer
from pyramid_altsession.stores.redis.scripts import PRUNE_SCRIPT, SCRIPT, command_of
from pyramid_altsession.stores.redis.store import RedisStore

TIMING = Timing(tti=60_000, interval=6_000, lifetime=3_600_000, window=10_000)
CANARY = "canary-Pa55word"


def poll(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


class Wire:
    """What connections of this test send; ``lose`` holds what happens to the next replies."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.lose: list[Exception] = []


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Connections to real servers that keep what they send, and can lose replies."""
    log = Wire()

    class Watched(UnixConnection):
        def send(self, packet: bytes) -> None:
            log.sent.append(packet)
            super().send(packet)

        def receive(self, count: int) -> list[Any]:
            answers = super().receive(count)
            if log.lose:  # the server has carried it out
                raise log.lose.pop()
            return answers

    monkeypatch.setattr(connections_module, "UnixConnection", Watched)
    return log


class Session:
    """A token and a store."""

    def __init__(self, url: str, token: Token | None = None, **redis_settings: object) -> None:
        settings = read_settings({"redis": redis_settings or {"url": url}})
        store = open_store(settings)
        assert isinstance(store, RedisStore)
        self.store = store
        self.token = token or Token.new()

    def execute(self, operation: Operation) -> Reply:
        return self.store.execute(operation)

    def create(self, *verbs: Verb) -> None:
        reply = self.execute(Write(self.token.claim, verbs, TIMING, create=True))
        assert reply.state is State.LIVE

    def write(self, *parts: Part) -> list[Any]:
        write = write_of(self.token.claim, parts, TIMING, window=TIMING.window)
        reply = self.execute(write)
        assert reply.state is State.LIVE
        return list(in_a_row(parts, reply).values)

    def read(self, *fields: str) -> Any:
        return self.execute(Read((self.token.claim,), fields, TIMING)).values


@pytest.fixture
def session(any_server: Server) -> Iterator[Session]:
    """A live session on a server of each kind; its key ``a`` holds 1."""
    made = Session(any_server.url)
    made.create(Set("a", b"1"))
    yield made
    made.store.close()


@pytest.fixture
def watched(any_server: Server, wire: Wire) -> Iterator[Session]:
    """The same over watched connections."""
    made = Session(any_server.url)
    made.create(Set("a", b"1"))
    wire.sent.clear()
    yield made
    made.store.close()


@pytest.fixture
def configure(any_server: Server) -> Iterator[Callable[..., None]]:
    """CONFIG SET on the server of this test, taken back afterwards."""
    client = any_server.client
    before: dict[str, str] = {}

    def set_to(**options: object) -> None:
        for name, value in options.items():
            name = name.replace("_", "-")
            found = client.config_get(name)
            before.setdefault(name, found[name])
            client.config_set(name, value)

    yield set_to
    for name, value in before.items():
        client.config_set(name, value)


# -- what a call costs


@contextmanager
def commands(client: "redis.Redis") -> Iterator[dict[str, int]]:
    """How often each command ran within the block, those of scripts included."""

    def counts() -> dict[str, int]:
        return {
            n.removeprefix("cmdstat_"): s["calls"] for n, s in client.info("commandstats").items()
        }

    ran: dict[str, int] = {}
    before = counts()
    yield ran
    after = {name: calls - before.get(name, 0) for name, calls in counts().items()}
    ran.update({name: calls for name, calls in after.items() if calls and name != "info"})


def test_read_is_one_packet(watched: Session, any_server: Server, wire: Wire) -> None:
    """A read is HMGET, PTTL and TIME in one packet."""
    with commands(any_server.client) as ran:
        assert watched.read("a", "b") == [b"1", None]
    assert ran == {"hmget": 1, "pttl": 1, "time": 1}
    assert len(wire.sent) == 1


def test_read_of_everything_is_one_packet(watched: Session, any_server: Server, wire: Wire) -> None:
    """Reading every key is HGETALL, PTTL and TIME in one packet."""
    with commands(any_server.client) as ran:
        reply = watched.execute(Read((watched.token.claim,), None, TIMING))
    assert reply.values["a"] == b"1"
    assert ran == {"hgetall": 1, "pttl": 1, "time": 1}
    assert len(wire.sent) == 1


def test_three_candidates_are_one_packet(watched: Session, any_server: Server, wire: Wire) -> None:
    """Several candidates are read in one packet."""
    claims = (Token.new().claim, Token.new().claim, watched.token.claim)
    with commands(any_server.client) as ran:
        assert watched.execute(Read(claims, ("a",), TIMING)).which == 2
    assert ran == {"hmget": 3, "pttl": 3, "time": 3}
    assert len(wire.sent) == 1


def test_write_is_one_script(watched: Session, any_server: Server, wire: Wire) -> None:
    """Any number of verbs on a live session is one EVALSHA in one packet."""
    with commands(any_server.client) as ran:
        watched.write(Set("a", b"2"), Set("b", b"3"), Increment("n", 1), Pop("b"))
    assert {name: ran.get(name) for name in ("evalsha", "eval", "hset", "pexpireat")} == {
        "evalsha": 1,
        "eval": None,
        "hset": 1,
        "pexpireat": 1,
    }
    assert len(wire.sent) == 1


def test_create_is_one_script(watched: Session, any_server: Server, wire: Wire) -> None:
    """A new session with its values is one EVALSHA in one packet."""
    other = Session("", watched.token)
    other.store, other.token = watched.store, Token.new()
    with commands(any_server.client) as ran:
        other.create(Set("a", b"1"))
    assert (ran["evalsha"], ran["hset"], len(wire.sent)) == (1, 1, 1)


def test_script_not_loaded(watched: Session, any_server: Server, wire: Wire) -> None:
    """After a restart or SCRIPT FLUSH a write costs one round trip more, once."""
    any_server.client.script_flush()
    assert watched.write(Increment("a", 1)) == [b"2"]
    assert [SCRIPT in packet for packet in wire.sent] == [False, True]
    assert watched.write(Increment("a", 1)) == [b"3"]
    assert len(wire.sent) == 3


def test_nothing_is_sent_before_the_first_use(server: Server, wire: Wire) -> None:
    """Opening a store does no network I/O, and connecting sends nothing of its own."""
    with commands(server.client) as ran:
        opened = Session(server.url)
        assert ran == {}
        opened.read("a")
        opened.store.close()
    assert ran == {"hmget": 1, "pttl": 1, "time": 1}


def test_script_runs_no_cjson() -> None:
    """The script compares and stores bytes: cjson would turn [] into {} and round numbers."""
    assert b"cjson" not in SCRIPT


def test_every_argument_is_a_length_and_bytes(watched: Session) -> None:
    """Names and values may hold the protocol's own bytes."""
    hostile = "*1\r\n$4\r\nPING\r\n"
    watched.write(Set(hostile, hostile.encode()))
    assert watched.read(hostile, "a") == [hostile.encode(), b"1"]


# -- a full server


@pytest.fixture
def full(session: Session, configure: Callable[..., None]) -> Session:
    """A live session on a server that is out of memory."""
    configure(maxmemory=1, maxmemory_policy="noeviction")
    return session


GROWING: list[Verb] = [
    Set("a", b"2"),
    SetDefault("b", b"2"),
    Increment("a", 1),
    CompareAndSet("a", b"1", b"2"),
]


@pytest.mark.parametrize("verb", GROWING, ids=lambda verb: verb.wire()[0].decode())
def test_full_server_refuses_what_grows(verb: Verb, full: Session, any_server: Server) -> None:
    """On a full server a write of data is StoreFull, and nothing is written, TTL included."""
    key = f"sess:{full.token.id}"
    any_server.client.pexpire(key, 30_000)
    before = any_server.client.hgetall(key)
    with pytest.raises(StoreFull):
        full.write(Touch(), Remove("b"), verb)
    with pytest.raises(StoreFull):
        full.write(verb)
    assert any_server.client.hgetall(key) == before
    assert any_server.client.pttl(key) <= 30_000


def test_full_server_makes_no_session(full: Session, any_server: Server) -> None:
    """On a full server no session begins, and no key is left behind."""
    with pytest.raises(StoreFull):
        full.execute(Write(Token.new().claim, (Set("a", b"1"),), TIMING, create=True))
    assert any_server.client.dbsize() == 1


def test_full_server_still_reads(full: Session) -> None:
    """Reads work on a full server."""
    assert full.read("a") == [b"1"]


@pytest.mark.parametrize(
    ("verb", "result"),
    [(Touch(), 1), (Remove("a"), 1), (Pop("a"), b"1"), (Renew("new"), 1), (Invalidate(b"n"), 1)],
    ids=str,
)
def test_full_server_still_does(
    verb: Verb, result: object, full: Session, any_server: Server
) -> None:
    """Touching, removing, renewing (signing in) and ending work on a full server."""
    key = f"sess:{full.token.id}"
    any_server.client.pexpire(key, 5_000)
    assert full.write(verb) == [result]
    if isinstance(verb, Invalidate):
        assert any_server.client.hgetall(key) == {b"@x": b"n"}
    else:
        assert 60_000 < any_server.client.pttl(key) <= 66_000


def test_full_server_forgets_its_script(full: Session, any_server: Server) -> None:
    """The script can be loaded into a full server."""
    any_server.client.script_flush()
    assert full.write(Touch()) == [1]


def test_fullness_is_logged_once(full: Session, caplog: pytest.LogCaptureFixture) -> None:
    """Touches that succeed between refused writes are no end of the trouble: one line."""
    for _ in range(5):
        with pytest.raises(StoreFull):
            full.write(Set("a", b"2"))
        full.write(Touch())
        full.read("a")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# -- a server that refuses


def test_wrong_type(session: Session, any_server: Server) -> None:
    """Something else than a hash at the session's key is CorruptValue, for reads and writes."""
    any_server.client.set(f"sess:{session.token.id}", "text", px=10_000)
    for verb in (Set("a", b"1"), Touch(), Invalidate(b"n")):
        with pytest.raises(CorruptValue):
            session.write(verb)
    with pytest.raises(CorruptValue):
        session.read("a")
    assert any_server.client.get(f"sess:{session.token.id}") == b"text"


def test_wrong_type_harms_no_other(session: Session, any_server: Server) -> None:
    """The connection that brought the errors serves the next session."""
    other = Token.new()
    any_server.client.set(f"sess:{other.id}", "text", px=10_000)
    with pytest.raises(CorruptValue):
        session.execute(Read((other.claim,), ("a",), TIMING))
    assert session.read("a") == [b"1"]


@pytest.fixture
def replica(any_server: Server) -> Iterator[Server]:
    """A server that became a replica of one that is not there."""
    any_server.client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    yield any_server
    any_server.client.execute_command("REPLICAOF", "NO", "ONE")


def test_read_only(session: Session, replica: Server) -> None:
    """A primary that became a replica: writes are StoreUnavailable, reads go on."""
    for verb in (Set("a", b"2"), Touch(), Invalidate(b"n")):
        with pytest.raises(StoreUnavailable) as caught:
            session.write(verb)
        assert isinstance(caught.value.__cause__, redis.exceptions.ReadOnlyError)
    assert session.read("a") == [b"1"]


def test_read_only_connects_anew(watched: Session, replica: Server) -> None:
    """After READONLY the idle connections are closed: the name may lead to a new primary."""
    (mine,) = lease_in(watched.store).exchange(CLIENT_ID, 1)
    with pytest.raises(StoreUnavailable):
        watched.write(Touch())
    poll(lambda: mine not in {int(client["id"]) for client in replica.client.client_list()})


def test_stale_replica(session: Session, replica: Server, configure: Callable[..., None]) -> None:
    """A replica without a primary that serves nothing stale is StoreUnavailable for all."""
    configure(replica_serve_stale_data="no")
    with pytest.raises(StoreUnavailable):
        session.read("a")
    with pytest.raises(StoreUnavailable):
        session.write(Touch())


def test_too_few_replicas(session: Session, configure: Callable[..., None]) -> None:
    """NOREPLICAS is StoreUnavailable for writes; reads go on."""
    configure(min_replicas_to_write=1)
    with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
        session.write(Set("a", b"2"))
    assert session.read("a") == [b"1"]


def test_failing_disk(session: Session, any_server: Server, configure: Callable[..., None]) -> None:
    """A server that cannot save and refuses writes for it (MISCONF) is StoreUnavailable."""
    client = any_server.client
    in_the_way = Path(any_server.directory, "dump.rdb")
    in_the_way.mkdir()
    configure(save="3600 1")
    client.bgsave()
    poll(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    with pytest.raises(StoreUnavailable, match="MISCONF"):
        session.write(Set("a", b"2"))
    assert session.read("a") == [b"1"]
    in_the_way.rmdir()
    client.save()
    assert session.write(Set("a", b"2")) == [None]
    in_the_way.unlink()


def test_busy_with_a_script(
    session: Session, any_server: Server, configure: Callable[..., None]
) -> None:
    """A server busy with somebody's endless script is StoreUnavailable until that is killed."""
    configure(lua_time_limit=1)
    endless = threading.Thread(target=run_for_ever, args=(any_server,))
    endless.start()
    try:
        poll(lambda: fails(session))
        with pytest.raises(StoreUnavailable, match="BUSY"):
            session.read("a")
        with pytest.raises(StoreUnavailable, match="BUSY"):
            session.write(Touch())
    finally:
        any_server.client.script_kill()
        endless.join()
    assert session.read("a") == [b"1"]


def run_for_ever(server: Server) -> None:
    with (
        redis.Redis(unix_socket_path=server.socket, protocol=2) as client,
        pytest.raises(redis.RedisError),
    ):
        client.eval("while true do end", 0)


def fails(session: Session) -> bool:
    try:
        session.read("a")
    except StoreUnavailable:
        return True
    return False


def test_loading(session: Session, any_server: Server, configure: Callable[..., None]) -> None:
    """A server that still loads its data is StoreUnavailable, then serves by itself."""
    client = any_server.client
    client.mset({f"filler{number}": "x" * 100 for number in range(200)})
    configure(key_load_delay=3_000, loading_process_events_interval_bytes=1_024)
    reload = threading.Thread(target=client.execute_command, args=("DEBUG", "RELOAD"))
    causes = set()
    reload.start()
    while reload.is_alive():
        for call in (lambda: session.read("a"), lambda: session.write(Touch())):
            try:
                call()
            except StoreUnavailable as error:
                causes.add(type(error.__cause__))
    reload.join()
    assert redis.exceptions.BusyLoadingError in causes
    assert session.read("a") == [b"1"]
    Path(any_server.directory, "dump.rdb").unlink()


# -- who may


@pytest.fixture
def user(any_server: Server) -> Iterator[Callable[..., Session]]:
    """A session opened by a user of the access list, whose password is the canary."""
    opened: list[Session] = []

    def make(*rules: str, token: Token | None = None, password: str = CANARY) -> Session:
        any_server.client.execute_command(
            "ACL", "SETUSER", "app", "reset", "on", f">{CANARY}", *rules
        )
        made = Session("", token, socket=any_server.socket, username="app", password=password)
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.store.close()
    any_server.client.execute_command("ACL", "DELUSER", "app")


LEAST = [
    "~sess:*", "+hmget", "+hgetall", "+hget", "+hset", "+hdel", "+exists", "+pttl",
    "+pexpire", "+pexpireat", "+time", "+eval", "+evalsha",
]  # fmt: skip


def test_least_rights(user: Callable[..., Session], any_server: Server) -> None:
    """These rights are enough for everything a request may ask."""
    any_server.client.script_flush()
    session = user(*LEAST)
    session.create(Set("a", b"1"))
    session.write(Increment("a", 1), Remove("b"), Pop("a"), SetDefault("c", b"1"))
    session.write(Renew("new"))
    session.token = Token(session.token.id, "new")
    assert session.read("c") == [b"1"]
    assert session.execute(Read((session.token.claim,), None, TIMING)).values["c"] == b"1"
    session.write(Invalidate(b"n"))


@pytest.mark.parametrize("missing", ["+hmget", "+pttl", "~sess:*"])
def test_no_permission_to_read(missing: str, user: Callable[..., Session]) -> None:
    """A right that a read lacks is StoreUnavailable."""
    session = user(*[rule for rule in LEAST if rule != missing])
    with pytest.raises(StoreUnavailable) as caught:
        session.read("a")
    assert isinstance(caught.value.__cause__, redis.exceptions.NoPermissionError)


@pytest.mark.parametrize("missing", ["+evalsha", "+eval", "+hset", "+time", "~sess:*"])
def test_no_permission_to_write(
    missing: str, user: Callable[..., Session], any_server: Server
) -> None:
    """A right that a write lacks, within the script too, is StoreUnavailable."""
    any_server.client.script_flush()
    session = user(*[rule for rule in LEAST if rule != missing])
    with pytest.raises(StoreUnavailable):
        session.create(Set("a", b"1"))
    assert any_server.client.dbsize() == 0


def test_wrong_password(user: Callable[..., Session], caplog: pytest.LogCaptureFixture) -> None:
    """A wrong password is StoreUnavailable, and stands in no message."""
    session = user(*LEAST, password="canary-Wr0ng")
    for call in (lambda: session.read("a"), lambda: session.write(Touch())):
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert "canary" not in everything_said(caught.value)
    assert "canary" not in caplog.text


def test_no_password(any_server: Server, session: Session) -> None:
    """A server that wants a password and got none (NOAUTH) is StoreUnavailable, and the error says
    so: to a long command the server itself speaks only of its protocol.
    """
    with redis.Redis(
        unix_socket_path=any_server.socket, single_connection_client=True, protocol=2
    ) as admin:
        admin.config_set("requirepass", CANARY)
        fresh = Session(any_server.url, session.token)
        try:
            with pytest.raises(StoreUnavailable, match="uthentic"):
                fresh.read("a")
            with pytest.raises(StoreUnavailable, match=r"Authentication required|wants a password"):
                fresh.write(Touch())
        finally:
            admin.config_set("requirepass", "")
            fresh.store.close()


def everything_said(error: BaseException | None) -> str:
    """All messages of an error and its causes."""
    said = ""
    while error is not None:
        said += f"{error!s} {error!r} "
        error = error.__cause__ or error.__context__
    return said


# -- a server that is away


def away(**settings: object) -> Session:
    """A session on a port where nobody listens."""
    return Session("", host="127.0.0.1", port=free_port(), connect_timeout=0.5, **settings)


def test_nobody_there() -> None:
    """A server that is not there is StoreUnavailable, for reads and writes."""
    session = away()
    with pytest.raises(StoreUnavailable):
        session.read("a")
    with pytest.raises(StoreUnavailable):
        session.write(Touch())


def test_no_password_in_messages(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the errors of an outage nor its log line hold the password."""
    for session in (
        away(username="canary", password=CANARY),
        Session(f"redis://:{CANARY}@127.0.0.1:{free_port()}/3"),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            session.read("a")
        assert CANARY not in everything_said(caught.value) + repr(session.store)
    assert "does not serve" in caplog.text
    assert CANARY not in caplog.text


def test_outage_is_logged_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """One line when it begins, one when what failed succeeds again; no line for each call."""
    session = Session(server.url)
    session.create(Set("a", b"1"))
    server.client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    try:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                session.write(Touch())
            session.read("a")
    finally:
        server.client.execute_command("REPLICAOF", "NO", "ONE")
    for _ in range(3):
        session.write(Touch())
    session.store.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert [record.name for record in caplog.records] == ["pyramid_altsession"] * 2
    assert caplog.messages[1] == f"sessions: {server.socket} serves again"


def test_end_of_an_outage_in_a_call_of_two_steps(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What succeeds is told, whether the first step was the last or not."""
    session = Session(server.url)
    session.create(Set("a", b"1"))
    server.client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    try:
        with pytest.raises(StoreUnavailable):
            session.write(Touch())
    finally:
        server.client.execute_command("REPLICAOF", "NO", "ONE")
    server.client.script_flush()
    session.write(Touch())
    session.store.close()
    assert caplog.messages[1:] == [f"sessions: {server.socket} serves again"]


def test_end_of_an_outage_of_reads(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """What failed was a read: a read tells the end."""
    session = Session("", host="127.0.0.1", port=server.port)
    pool = lease_in(session.store)
    build = builder_in(pool)
    build_with(pool, refuse)
    with pytest.raises(StoreUnavailable):
        session.read("a")
    build_with(pool, build)
    pool.close()
    session.execute(Write(session.token.claim, (), TIMING, life=Touch()))
    assert len(caplog.records) == 1
    session.read("a")
    session.store.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def refuse() -> Connection:
    raise redis.ConnectionError("refused")


def test_hint(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With no server configured the log line names what to set."""
    monkeypatch.setattr(module, "connections", lambda settings: refuse)
    store = open_store(read_settings({}))
    caplog.clear()
    with pytest.raises(StoreUnavailable) as caught:
        store.execute(Read((Token.new().claim,), (), TIMING))
    assert str(caught.value) == "localhost:6379 does not serve: refused"
    assert caplog.messages == [
        "sessions: localhost:6379 does not serve: refused; no server is configured: set"
        " altsession.redis.url, for development to embedded://, which starts a server of its own"
    ]


def test_no_hint(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With a server configured the log line says no more than what happened."""
    monkeypatch.setattr(module, "connections", lambda settings: refuse)
    store = open_store(read_settings({"redis": {"host": "db"}}))
    with pytest.raises(StoreUnavailable):
        store.execute(Read((Token.new().claim,), (), TIMING))
    assert caplog.messages == ["sessions: db:6379 does not serve: refused"]


def test_silent_server(server: Server, wire: Wire) -> None:
    """A server that does not answer is StoreUnavailable after redis.timeout, once."""
    session = Session("", socket=server.socket, timeout=0.5)
    session.create(Set("a", b"1"))
    wire.sent.clear()
    server.pause()
    try:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            session.read("a")
        took = time.monotonic() - began
    finally:
        server.resume()
    assert isinstance(caught.value.__cause__, redis.TimeoutError)
    assert (took > 0.4, len(wire.sent)) == (True, 1)
    poll(lambda: server.client.ping())
    assert session.read("a") == [b"1"]
    session.store.close()


# -- broken connections and lost replies


def kick(server: Server) -> None:
    """The server closes the connections of everybody else."""
    server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_connection_closed_while_idle(watched: Session, any_server: Server, wire: Wire) -> None:
    """A connection that the server closed is replaced before anything is sent."""
    for call, expected in [
        (lambda: watched.read("a"), [b"1"]),
        (lambda: watched.write(Set("b", b"2")), [None]),
        (lambda: watched.write(Increment("a", 1)), [b"2"]),
    ]:
        kick(any_server)
        assert call() == expected
    assert len(wire.sent) == 3


def lost() -> Exception:
    return redis.ConnectionError("lost on the way")


def test_lost_reply_of_a_read(watched: Session, wire: Wire) -> None:
    """A read is repeated once."""
    wire.lose[:] = [lost()]
    assert watched.read("a") == [b"1"]
    assert len(wire.sent) == 2


@pytest.mark.parametrize(
    ("verb", "result"),
    [(Set("a", b"2"), None), (Touch(), 1), (Renew("new"), 1), (Invalidate(b"n"), 1)],
    ids=str,
)
def test_lost_reply_of_a_repeatable_write(
    verb: Verb, result: object, watched: Session, any_server: Server, wire: Wire
) -> None:
    """set, touch, renew and invalidate are repeated once, and are as if done once."""
    wire.lose[:] = [lost()]
    assert watched.write(verb) == [result]
    assert len(wire.sent) == 2
    held = any_server.client.hgetall(f"sess:{watched.token.id}")
    if isinstance(verb, Set):
        assert held[b"a"] == b"2"
    if isinstance(verb, Renew):
        assert (held[b"@v"], len(held[b"@q"])) == (verb.proof, 21)
    if isinstance(verb, Invalidate):
        assert held == {b"@x": b"n"}


def test_lost_reply_of_a_creation(watched: Session, any_server: Server, wire: Wire) -> None:
    """A creation with plain values is repeated and finds its own session."""
    watched.token = Token.new()
    wire.lose[:] = [lost()]
    watched.create(Set("a", b"1"))
    assert (len(wire.sent), any_server.client.dbsize()) == (2, 2)


@pytest.mark.parametrize(
    ("verb", "after"),
    [
        (Increment("a", 1), b"2"),
        (Pop("a"), None),
        (Remove("a"), None),
        (CompareAndSet("a", b"1", b"2"), b"2"),
        (SetDefault("b", b"1"), b"1"),
    ],
    ids=str,
)
def test_lost_reply_of_any_other_write(
    verb: Any, after: bytes | None, watched: Session, any_server: Server, wire: Wire
) -> None:
    """What must not be done twice is done once, and StoreUnavailable says so: the caller cannot
    know."""
    wire.lose[:] = [lost()]
    with pytest.raises(StoreUnavailable):
        watched.write(verb)
    assert len(wire.sent) == 1
    assert any_server.client.hget(f"sess:{watched.token.id}", verb.name) == after


def test_mixed_write_is_not_repeated(watched: Session, wire: Wire) -> None:
    """One verb that must not be done twice keeps the whole Write from being repeated."""
    wire.lose[:] = [lost()]
    with pytest.raises(StoreUnavailable):
        watched.write(Set("b", b"1"), Increment("a", 1))
    assert watched.read("a") == [b"2"]


def test_lost_twice(watched: Session, wire: Wire) -> None:
    """It is repeated once and not for ever."""
    wire.lose[:] = [lost(), lost()]
    with pytest.raises(StoreUnavailable):
        watched.read("a")
    assert len(wire.sent) == 2


def test_timeout_is_not_repeated(watched: Session, wire: Wire) -> None:
    """A server too slow for one round trip is not asked the same again."""
    wire.lose[:] = [redis.TimeoutError("too slow")]
    with pytest.raises(StoreUnavailable):
        watched.read("a")
    assert len(wire.sent) == 1


def test_lost_reply_while_loading_the_script(
    watched: Session, any_server: Server, wire: Wire
) -> None:
    """A reply lost after NOSCRIPT: increment is done once all the same."""
    any_server.client.script_flush()
    wire.lose[:] = [lost()]
    with pytest.raises(StoreUnavailable):
        watched.write(Increment("a", 1))
    assert watched.write(Increment("a", 1)) in ([b"2"], [b"3"])


# -- our own mistakes


class Nonsense(Touch):
    """A step that the script does not know."""

    def wire(self) -> tuple[bytes, ...]:
        return (b"nonsense",)


def test_own_mistake_is_not_disguised(
    session: Session, any_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """An error within the script is no outage: it stays what it is, and nothing is written."""
    before = any_server.client.hgetall(f"sess:{session.token.id}")
    with pytest.raises(redis.ResponseError) as caught:
        session.write(Set("a", b"2"), Nonsense())
    assert not isinstance(caught.value, AltSessionError)
    assert any_server.client.hgetall(f"sess:{session.token.id}") == before
    assert caplog.records == []


# -- secrets


def test_no_verifier_reaches_the_server(
    session: Session, any_server: Server, configure: Callable[..., None]
) -> None:
    """Neither SLOWLOG nor MONITOR ever shows a verifier: proofs alone travel."""
    client = any_server.client
    configure(slowlog_log_slower_than=0, slowlog_max_len=1000)
    client.slowlog_reset()
    verifiers = [session.token.verifier]
    seen: list[str] = []
    with client.monitor() as monitor:
        session.read("a")
        session.write(Set("a", b"1"), Increment("n", 1))
        renewed = Token(session.token.id, Token.new().verifier)
        verifiers.append(renewed.verifier)
        session.write(Renew(renewed.verifier))
        session.token = renewed
        session.execute(Read((renewed.claim,), None, TIMING))
        session.write(Invalidate(b"n"))
        client.echo("that was all")
        while not any("that was all" in line for line in seen):
            seen.append(str(monitor.next_command()))
    seen += [str(entry) for entry in client.slowlog_get(1000)]
    assert len(seen) > 10
    assert any(session.token.id in line for line in seen)
    assert not any(verifier in line for line in seen for verifier in verifiers)


def test_repr_of_a_renewal() -> None:
    """A Write may stand in a traceback: no verifier in it."""
    assert "v3rifier" not in repr(Write(Token.new().claim, (), TIMING, life=Renew("v3rifier")))


# -- what settings build


def built(**settings: object) -> Any:
    return connections(read_settings({"redis": settings}).redis)()


def test_connection_over_tcp() -> None:
    """Host, port, database, user and bounds go into each connection; redis-py's retries do not."""
    connection = built(
        host="db", port=7000, db=3, username="u", password="p", timeout=2, connect_timeout=3
    )
    assert isinstance(connection, Connection)
    assert (connection.host, connection.port, connection.db) == ("db", 7000, 3)
    assert (connection.username, connection.password) == ("u", "p")
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (2, 3)
    assert connection.retry.get_retries() == 0


def test_connection_over_tls() -> None:
    """TLS checks certificate and host name unless told otherwise."""
    connection = built(host="db", ssl=True)
    assert isinstance(connection, SSLConnection)
    context = built(host="db", ssl=True).context()
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    context = built(host="db", ssl=True, ssl_check_hostname=False).context()
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_REQUIRED)


def test_a_session_that_ends_between_the_commands_of_a_read(server: Server) -> None:
    """The fields were read while it lived; how long it will last is not known."""
    store = RedisStore.from_settings(read_settings({"redis.url": server.url}).redis, "sess")
    token = Token.new()
    timing = Timing(60_000, 6_000, 0, 0)
    store.execute(Write(token.claim, (Set("k", b"1"),), timing, create=True))
    read = Read((token.claim,), ("k",), timing)
    fields, _, clock = lease_in(store).exchange(*packets_module.pack_read(read, b"sess:"))
    reply = packets_module.unpack_read(read, [fields, -2, clock])
    assert (reply.state, reply.values, reply.left) == (State.LIVE, [b"1"], None)
    store.close()


def test_connection_over_a_socket() -> None:
    """A path makes a connection over a unix socket."""
    assert built(socket="/run/redis.sock")._find() == "/run/redis.sock"
    assert built(url="unix:///run/other.sock?db=2").db == 2


def test_socket_that_moved(server: Server, tmp_path: Path) -> None:
    """Where nobody listens any more the socket is looked for once again: an embedded server may
    have been replaced."""
    paths = [server.socket, str(tmp_path / "gone")]
    store = RedisStore(
        lambda: UnixConnection(paths.pop, protocol=2), prefix="sess", name="there", limit=1, wait=1
    )
    assert store.execute(Read((Token.new().claim,), (), TIMING)).state is State.DEAD
    assert paths == []
    store.close()


def test_start_of_a_server_takes_no_time_of_a_call(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an embedded server takes to start, the call that waited for it has its time,
    for the second packet too: a server that has just been started does not know the script."""
    clock, started = time.monotonic, []
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600 * len(started))

    def start() -> str:
        started.append(True)
        return server.socket

    in_time = []

    class Watched(UnixConnection):
        def receive(self, count: int) -> list[Any]:
            in_time.append(time.monotonic() < self.end)
            return super().receive(count)

    patient = {"protocol": 2, "socket_timeout": 30, "socket_connect_timeout": 30}
    store = RedisStore(
        lambda: Watched(start, **patient), prefix="sess", name="there", limit=1, wait=30
    )
    server.client.script_flush()
    claim = Token.new().claim
    reply = store.execute(Write(claim, (Set("k", b"1"),), TIMING, create=True))
    assert (reply.state, started) == (State.LIVE, [True])
    assert in_time == [True, True]
    store.close()


def test_connection_to_an_embedded_server() -> None:
    """An embedded server is not started before the first connection is opened."""
    settings = read_settings({"redis.url": "embedded://"}).redis
    assert isinstance(connections(settings, EmbeddedServer())(), UnixConnection)


def test_stores_by_url(server: Server) -> None:
    """``memory://`` is the memory store; everything else is a server."""
    memory = open_store(read_settings({"redis.url": "memory://"}))
    assert isinstance(memory, MemoryStore)
    assert repr(memory) == "<MemoryStore>"
    memory.close()
    assert repr(open_store(read_settings({"redis.url": server.url}))) == (
        f"<RedisStore {server.socket}>"
    )


def test_closed_store_opens_again(session: Session) -> None:
    """Closing gives the connections back; a later use connects anew."""
    session.store.close()
    assert session.read("a") == [b"1"]


def test_log_is_ours() -> None:
    """Lines go to the package's own logger."""
    assert failures.log is logging.getLogger("pyramid_altsession")


@pytest.mark.volume
def test_memory_of_packed_names() -> None:
    """Reads of ever other keys, however many and long, leave a bounded amount of memory behind."""
    packets_module.cached_names.cache_clear()
    tracemalloc.start()
    claim = Token.new().claim
    for number in range(1_000):
        for length in (1, 16, 17, 200):
            names = tuple([f"{number}-{place}-".ljust(512, "x") for place in range(length)])
            packets_module.pack_read(Read((claim,), names, TIMING), b"sess:")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    packets_module.cached_names.cache_clear()
    assert kept < 8_000_000


def test_packed_names_are_kept() -> None:
    """The names of a usual read are packed once."""
    packets_module.cached_names.cache_clear()
    read = Read((Token.new().claim,), ("cart", "user"), TIMING)
    packets = {packets_module.pack_read(read, b"sess:") for _ in range(3)}
    assert (len(packets), packets_module.cached_names.cache_info().hits) == (1, 2)


def test_scripts_forgotten_within_a_packet() -> None:
    """When the server forgets the script between two of one packet's calls, the packet is sent once
    more: what its first half ended is told as ended."""
    operation = End("ann", ("a" * 22, "b" * 22), b"n" * 16, TIMING)
    steps = OneServer(b"sess:").execute(operation)
    asked = next(steps)
    ended = [State.LIVE.value, 1, -1, -1, None, None, 1, []]
    assert steps.send([ended, NoScriptError("NOSCRIPT")]) == asked
    with pytest.raises(StopIteration) as caught:
        steps.send([ended, ended])
    assert caught.value.value.values == [True, True]


@pytest.mark.parametrize(
    ("operation", "script", "command"),
    [(Listing("ann"), SCRIPT, b"HMGET"), (Prune("ann", ()), PRUNE_SCRIPT, b"ZREM")],
)
def test_forbidden_line(operation: Any, script: bytes, command: bytes) -> None:
    """Redis 7.0 tells only the script's line; the message names the command that stands there."""
    lines = script.splitlines()
    call = b"redis.call('%b'" % command
    at = next(number for number, line in enumerate(lines, 1) if call in line)
    said = (
        f"The user executing the script can't run this command or subcommand on @user_script:{at}"
    )
    assert command_of(said, operation) == f" ({command.decode()})"
    blank = lines.index(b"") + 1 if b"" in lines else 1
    assert command_of(said.replace(f":{at}", f":{blank}"), operation) in ("", " ()")
    assert command_of("ERR other", operation) == ""
