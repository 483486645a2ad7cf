"""``durable=True``: what was ended, or replaced, survives the loss of the server, or the call says
that it may not."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from apps import site
from inside import confirm_within, put_store
from pyramid.request import Request
from servers import Server, valkey
from topologies import Cluster, link_is_up, until
from workers import token_of

from pyramid_altsession import NotDurable, SessionAPI, SessionGone, StoreUnavailable
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.api import OpenSession
from pyramid_altsession.errors import UNCONFIRMED
from pyramid_altsession.protocol.administration import end_all_sessions
from pyramid_altsession.protocol.fields import State, Timing
from pyramid_altsession.protocol.messages import End, Operation, Reply, Revoke
from pyramid_altsession.protocol.steps import run

MANY = 10


class Pair:
    """A primary and its replica."""

    def __init__(self) -> None:
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.primary = valkey(*quick)
        self.replica = valkey(*quick, "--replicaof", f"127.0.0.1 {self.primary.port}")
        until(lambda: link_is_up(self.replica))
        self.api = api_at(self.primary)

    def sessions(self) -> list[OpenSession]:
        """The replica has them, and has time to confirm what becomes of them."""
        confirm_within(self.api, 10_000)
        found = [self.api.create({"n": n}) for n in range(MANY)]
        for each in found:
            each.login("ann")
        self.settle()
        return found

    def settle(self) -> None:
        def same() -> bool:
            offsets = {
                server.client.info("replication")["master_repl_offset"]
                for server in (self.primary, self.replica)
            }
            return len(offsets) == 1

        until(same)

    def cut(self) -> None:
        """From now on the replica hears nothing, and nobody waits long for it."""
        confirm_within(self.api, 50)
        self.replica.client.replicaof("127.0.0.1", "1")
        until(lambda: self.primary.client.info("replication")["connected_slaves"] == 0)

    def heal(self) -> None:
        confirm_within(self.api, 10_000)
        self.replica.client.replicaof("127.0.0.1", str(self.primary.port))
        until(lambda: link_is_up(self.replica))

    def fail_over(self) -> SessionAPI:
        """The primary is lost, and the replica takes its place."""
        self.primary.kill()
        self.replica.client.replicaof("NO", "ONE")
        self.api.close()
        self.api = api_at(self.replica)
        return self.api

    def stop(self) -> None:
        self.api.close()
        self.replica.stop()
        self.primary.stop()


def api_at(server: Server | Cluster) -> SessionAPI:
    return SessionAPI.from_settings({"redis.url": server.url})


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.stop()


@pytest.mark.slow
def test_what_is_lost(pair: Pair) -> None:
    """Replication is cut, the primary killed, the replica promoted. Without ``durable`` every
    acknowledged end comes back; with it, each call has said so."""
    plain, durable = pair.sessions(), pair.sessions()
    tokens = [token_of(each) for each in plain]
    pair.cut()
    assert [each.invalidate() for each in plain] == [True] * MANY

    def end(session: OpenSession) -> str:
        with pytest.raises(NotDurable) as told:
            session.invalidate(durable=True)
        assert session.token is None  # it was carried out
        return str(told.value)

    with ThreadPoolExecutor(MANY) as threads:
        told = set(threads.map(end, durable))
    api = pair.fail_over()
    assert told == {UNCONFIRMED}
    assert [api.open(token).get("n") for token in tokens] == list(range(MANY))


@pytest.mark.slow
def test_what_is_kept(pair: Pair) -> None:
    """Each call that returns is kept; old cookies stay dead, new ones are good."""
    ended, renewed, signed_in, several = (pair.sessions() for _ in range(4))
    old = [token_of(each) for each in (*renewed, *signed_in)]
    gone = [token_of(each) for each in (*ended, *several)]
    assert [each.invalidate(durable=True) for each in ended] == [True] * MANY
    assert [each.renew(durable=True) for each in renewed] == [True] * MANY
    for each in signed_in:
        each.login("ann", durable=True)
    for each in several[1:]:
        each.logout(durable=True)
    new = [token_of(each) for each in (*renewed, *signed_in)]
    kept = several[0].id
    assert pair.api.invalidate_user("ann", keep=kept, durable=True) == 2 * MANY
    api = pair.fail_over()
    for token in (*old, *gone[:MANY], *gone[MANY + 1 :], *new):
        with pytest.raises(SessionGone):
            api.open(token).get("n")
    assert api.open(gone[MANY]).get("n") == 0


CALLS: dict[str, Callable[[SessionAPI, OpenSession], object]] = {
    "invalidate": lambda api, session: session.invalidate(durable=True),
    "renew": lambda api, session: session.renew(durable=True),
    "login": lambda api, session: session.login("ann", durable=True),
    "invalidate_user": lambda api, session: api.invalidate_user("ann", durable=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_repeat_asks_again(pair: Pair, name: str) -> None:
    """Also on another connection, where the server would say at once that replicas have all of
    what was written on it; when the replica hears again, it succeeds."""
    call, session = CALLS[name], pair.sessions()[0]
    confirm_within(pair.api, 50)
    pair.replica.pause()
    for _ in range(2):
        with pytest.raises(NotDurable):
            call(pair.api, session)
        pair.api.close()
    pair.replica.resume()
    confirm_within(pair.api, 10_000)
    call(pair.api, session)


@pytest.mark.parametrize("unconfirmed", [Revoke, End])
def test_each_part_of_an_end_has_to_be_confirmed(unconfirmed: type[Operation]) -> None:
    """Of all sessions of a user. Until then no entry is forgotten: another call has to find it."""
    asked = []

    def execute(operation: Operation) -> Reply:
        asked.append(type(operation))
        values: list[object] = [("id", 1), ("dead", 1)]
        if isinstance(operation, End):
            assert operation.durable
            values = [True, False]
        return Reply(State.LIVE, values, confirmed=not isinstance(operation, unconfirmed))

    timing = Timing(60_000, 6_000, 0, 10_000)
    ended = run(execute, end_all_sessions("ann", timing, keep=None, durable=True))
    assert (ended, ended.confirmed) == (["id"], False)
    assert asked == [Revoke, End]


@pytest.mark.slow
def test_an_end_that_was_not_durable_is_made_so(pair: Pair) -> None:
    """In the same request, and from a dead cookie."""
    session = pair.sessions()[0]
    other = pair.api.open(token_of(session))
    pair.cut()
    session.invalidate()
    with pytest.raises(NotDurable):
        session.invalidate(durable=True)
    with pytest.raises(SessionGone):
        other.invalidate(durable=True)
    pair.heal()
    assert session.invalidate(durable=True)
    with pytest.raises(SessionGone):
        session.invalidate(durable=True)


@pytest.mark.slow
def test_a_script_sent_again(pair: Pair) -> None:
    """The server has forgotten the script: the text is sent, and replicas are asked."""
    session = pair.sessions()[0]
    pair.primary.client.script_flush()
    assert session.renew(durable=True)
    pair.primary.client.script_flush()
    assert pair.api.invalidate_user("ann", durable=True) == MANY


@pytest.mark.slow
def test_on_a_full_server(pair: Pair) -> None:
    """An end works there, durable or not; what is written for the replicas has an end."""
    session = pair.sessions()[0]
    pair.primary.client.config_set("maxmemory", "1")
    assert session.invalidate(durable=True)
    pair.primary.client.config_set("maxmemory", "0")
    assert all(pair.primary.client.pttl(key) > 0 for key in pair.primary.client.keys("*"))


@pytest.mark.slow
def test_without_the_right_to_wait(pair: Pair) -> None:
    """StoreUnavailable names the command."""
    pair.primary.client.acl_setuser(
        "web", enabled=True, nopass=True, keys="*", commands=["+@all", "-wait"]
    )
    url = f"redis://web@127.0.0.1:{pair.primary.port}"
    api = SessionAPI.from_settings({"redis.url": url})
    with pytest.raises(StoreUnavailable, match="wait"):
        api.create({"k": 1}).renew(durable=True)
    api.close()


@pytest.mark.parametrize("url", ["memory://", "embedded://"])
def test_without_replicas_to_ask(url: str) -> None:
    """Nothing is waited for: a server that is lost brings nothing back."""
    api = SessionAPI.from_settings({"redis.url": url})
    session = api.create({"k": 1})
    session.login("ann", durable=True)
    assert session.renew(durable=True)
    assert session.invalidate(durable=True)
    assert api.invalidate_user("ann", durable=True) == 0
    api.close()


@pytest.mark.slow
def test_a_visitor_is_signed_out_all_the_same(pair: Pair) -> None:
    """503, and the cookie is dropped."""

    def start(request: Request) -> None:
        request.altsession.login("ann")

    def leave(request: Request) -> None:
        request.altsession.logout(durable=True)

    shop = site(pair.primary.url, {"start": start, "leave": leave})
    shop.get("/start")
    put_store(shop.api, shop.watched.store)
    pair.cut()
    confirm_within(shop.api, 50)
    answer = shop.get("/leave", status=503)
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert shop.token is None


# -- on a cluster


def test_on_a_cluster(cluster_server: Cluster) -> None:
    """Sessions of one user on several nodes."""
    cluster_server.empty()
    api = api_at(cluster_server)
    sessions = [api.create({"n": n}) for n in range(6)]
    for each in sessions:
        each.login("ann", durable=True)
    assert sessions[0].renew(durable=True)
    assert sessions[0].invalidate(durable=True)
    assert api.invalidate_user("ann", durable=True) == 5
    assert api.sessions_of("ann") == []
    api.close()


def test_the_page_of_an_unconfirmed_call() -> None:
    """It is true of every call that can be durable, so it says nothing of signing in or out."""

    def act(request: Request) -> None:
        raise NotDurable(UNCONFIRMED)

    page = site("memory://", {"act": act}).get("/act", status=503).text
    assert "was done" in page
    assert "do it again" in page
    assert "sign" not in page.lower()
    assert UNCONFIRMED not in page


@pytest.mark.slow
def test_awaited_calls(pair: Pair) -> None:
    """The same, awaited."""

    async def calls() -> None:
        async with AsyncSessionAPI.from_settings({"redis.url": pair.primary.url}) as api:
            session = await api.create({"k": 1})
            await session.login("ann", durable=True)
            assert await session.renew(durable=True)
            assert await session.invalidate(durable=True)
            assert await api.invalidate_user("ann", durable=True) == 0
            other = await api.create({"k": 1})
            confirm_within(api, 50)
            pair.replica.pause()
            with pytest.raises(NotDurable):
                await other.logout(durable=True)
            pair.replica.resume()

    asyncio.run(calls())
