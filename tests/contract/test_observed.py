"""Observers are told of each operation what it is, what it took and how it ended."""

import logging

import pytest
from servers import Server

from pyramid_altsession import Observation, SessionAPI, StoreUnavailable
from pyramid_altsession.protocol.messages import Listing, Read, Write
from pyramid_altsession.protocol.verbs import Set
from pyramid_altsession.stores.traffic import Traffic, received, sent


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


def test_nobody_asked() -> None:
    """Packets that no observed operation sent, as those of another utility, are not counted."""
    before = Traffic()
    with before.counting():
        sent(3)
    sent(5)
    received(5)
    assert (before.packets, before.sent, before.received) == (1, 3, 0)
