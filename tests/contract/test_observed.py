"""Observers are told of each operation what it is, what it took and how it ended."""

import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
from servers import Server

from pyramid_altsession import Observation, SessionAPI, StoreUnavailable
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.aio.store import AsyncObservedStore
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.protocol.messages import Listing, Read, Write
from pyramid_altsession.protocol.verbs import Set
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.observed import ObservedStore
from pyramid_altsession.stores.traffic import Traffic, received, sent
from pyramid_altsession.web.recording import Noting


@pytest.fixture
def seen() -> list[Observation]:
    return []


@pytest.fixture
def api(server: Server, seen: list[Observation]) -> SessionAPI:
    api = SessionAPI.from_settings({"redis.url": server.url, "session.prefetch": ""})
    api.check()  # connects, and loads the script
    api.observe(seen.append)
    return api


def test_one_packet_each(api: SessionAPI, seen: list[Observation]) -> None:
    """A write and a read are one round trip each; bytes are those of the wire, either way."""
    session = api.create({"cart": "x" * 1000})
    api.open(str(session.token)).get("cart")
    written, read = seen
    assert isinstance(written.operation, Write)
    assert isinstance(read.operation, Read)
    assert (written.round_trips, read.round_trips) == (1, 1)
    assert written.sent > 1000 > written.received > 0
    assert read.received > 1000 > read.sent > 0
    assert written.reply is not None
    assert (written.error, read.error) == (None, None)
    assert min(written.seconds, read.seconds) > 0


def test_what_a_repeat_takes(api: SessionAPI, seen: list[Observation], server: Server) -> None:
    """A script that the server has forgotten costs a second round trip."""
    server.client.script_flush()
    api.create({"k": 1})
    assert [each.round_trips for each in seen] == [2]


def test_calls_of_several_steps(api: SessionAPI, seen: list[Observation]) -> None:
    api.sessions_of("ann")
    assert [type(each.operation) for each in seen] == [Listing]


def test_memory_has_no_wire() -> None:
    seen: list[Observation] = []
    api = SessionAPI.from_settings({"redis.url": "memory://"})
    api.observe(seen.append)
    api.create({"k": 1})
    ((operation, _, error, *wire, _),) = seen
    assert isinstance(operation, Write)
    assert operation.verbs == (Set("k", b"1"),)
    assert (error, wire) == (None, [0, 0, 0])


def test_prefetch(api: SessionAPI, seen: list[Observation]) -> None:
    """A prefetch is told of when its answer is taken, or dropped."""
    token = str(api.create({"a": 1}).token)
    del seen[:]
    session = api.open(token)
    session.prefetch("a")
    assert seen == []
    assert session.get("a") == 1
    session.prefetch("b")
    session.driver.state.abandon()
    used, dropped = seen
    assert (used.round_trips, dropped.round_trips) == (1, 1)
    assert used.reply is not None
    assert (dropped.reply, dropped.error) == (None, None)
    assert used.received > dropped.received == 0


def test_failure(seen: list[Observation]) -> None:
    """An operation that fails is told of with its error."""
    api = SessionAPI.from_settings({"redis.url": "unix:///nowhere"})
    api.observe(seen.append)
    with pytest.raises(StoreUnavailable):
        api.create({"k": 1})
    ((_, reply, error, *_),) = seen
    assert reply is None
    assert isinstance(error, StoreUnavailable)


def test_several_observers(api: SessionAPI, caplog: pytest.LogCaptureFixture) -> None:
    """One that fails is logged, and fails neither the call nor the others."""
    others: list[Observation] = []

    def failing(seen: Observation) -> None:
        raise ZeroDivisionError

    api.observe(failing)
    api.observe(others.append)
    with caplog.at_level(logging.ERROR, "pyramid_altsession"):
        api.create({"k": 1})
    assert len(others) == 1
    assert caplog.messages == ["sessions: an observer failed"]
    assert repr(api).startswith("<SessionAPI <ObservedStore <RedisStore")
    api.close()


class Overtaken(MemoryStore):
    """While one thread asks of what class this store is, another one does ``meanwhile``."""

    meanwhile: Callable[[], object] = bool

    @property
    def __class__(self) -> type:
        meanwhile, self.meanwhile = self.meanwhile, bool
        meanwhile()
        return Overtaken


@pytest.mark.parametrize("utility", [SessionAPI, AsyncSessionAPI])
def test_observer_that_two_threads_add(
    utility: type[SessionAPI | AsyncSessionAPI], seen: list[Observation]
) -> None:
    """It is called once, whether the store was observed before or not."""
    store = Overtaken()
    api = utility(read_settings({"redis.url": "memory://"}), cast(Any, store))
    store.meanwhile = lambda: api.observe(Noting("admin"))
    api.observe(Noting("admin"))

    class Slow:
        """An observer that is compared while another thread adds one."""

        def __call__(self, each: Observation) -> None:
            """It takes no notice."""

        def __eq__(self, other: object) -> bool:
            if api.store.observers[-1] is self:
                api.store.observers += (seen.append,)
            return self is other

    assert isinstance(api.store, ObservedStore | AsyncObservedStore)
    assert (api.store.store, api.store.observers) == (store, (Noting("admin"),))
    api.observe(Slow())
    api.observe(seen.append)
    assert api.store.observers.count(seen.append) == 1


def test_nobody_asked() -> None:
    """Packets that no observed operation sent, as those of another utility, are not counted."""
    before = Traffic()
    with before.counting():
        sent(3)
    sent(5)
    received(5)
    assert (before.packets, before.sent, before.received) == (1, 3, 0)
