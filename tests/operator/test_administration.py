"""What the operator's tools ask of the utility: keys, sizes and values of sessions, the end of all
of them, and events as JSON."""

import json
import logging
from collections.abc import Callable

import pytest
from accounts import id_of
from apps import Browser, Watched, settings_for
from pyramid import testing
from pyramid.config import Configurator
from topologies import Cluster
from webtest import TestApp

from pyramid_altsession import ISessionAPI, SessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.messages import Describe, Inspect
from pyramid_altsession.testing import serving

Events = Callable[[], list[dict[str, object]]]
KEY = "a codec secret of enough length".replace(" ", "-")


@pytest.fixture
def api(store: Store) -> SessionAPI:
    return SessionAPI(read_settings({}), store=store)


def handle(api: SessionAPI, **values: object) -> str:
    """The id of a new session that holds these values."""
    id = api.create(values).id
    assert id is not None
    return id


# -- keys and sizes


def test_keys_and_sizes(api: SessionAPI) -> None:
    """With keys=True each session tells its keys and the bytes stored for them, nothing else."""
    id = handle(api, cart=["tea"], name="ann")
    found = api.describe(id, keys=True)
    assert found is not None
    assert found.keys == {"cart": 7, "name": 5}
    assert [(known.id, known.keys) for known in api.scan(keys=True)] == [(id, found.keys)]


def test_keys_of_a_users_sessions(api: SessionAPI) -> None:
    """sessions_of tells them too."""
    session = api.create({"cart": 1})
    session.login("ann")
    assert [known.keys for known in api.sessions_of("ann", keys=True)] == [{"cart": 1}]


def test_keys_are_not_asked_for(api: SessionAPI, store: Store) -> None:
    """Without keys=True nobody asks for them."""
    watched = Watched(store)
    id = handle(api, cart=1)
    known = SessionAPI(read_settings({}), store=watched).describe(id)
    assert known is not None
    assert known.keys is None
    assert [type(operation) for operation in watched.operations] == [Describe]


def test_no_session(api: SessionAPI) -> None:
    """An unknown id, and one that can be none, have neither keys nor values."""
    for id in ("n" * 22, "short"):
        assert (api.describe(id, keys=True), api.values_of(id)) == (None, None)


def test_an_ended_session_holds_nothing(api: SessionAPI, store: Store) -> None:
    """Its tombstone is no session."""
    id = handle(api, cart=1)
    assert api.invalidate_id(id)
    assert store.execute(Inspect((id,))).values == [None]


def test_session_that_ends_between_the_two_questions(api: SessionAPI, store: Store) -> None:
    """A session that ends after it was described is left out."""
    watched = Watched(store)
    id = handle(api, cart=1)
    watched.before = lambda asked: isinstance(asked, Inspect) and api.invalidate_id(id)
    other = SessionAPI(read_settings({}), store=watched)
    assert list(other.scan(keys=True)) == []


def test_looking_prolongs_nothing(api: SessionAPI, store: Store) -> None:
    """Who looks at a session is not its visitor: its times stay as they are."""
    id = handle(api, cart=1)
    before = api.describe(id)
    api.describe(id, keys=True)
    api.values_of(id)
    after = api.describe(id)
    assert before is not None
    assert after is not None
    assert after.last_seen == before.last_seen


# -- values


def test_values(api: SessionAPI) -> None:
    """values_of shows what the application stored."""
    assert api.values_of(handle(api, cart=["tea"], name="ann")) == {"cart": ["tea"], "name": "ann"}


def test_value_whose_end_has_come(store: Store, api: SessionAPI) -> None:
    """It is neither among the keys nor among the values."""
    session = api.create({"cart": 1})
    session.set("code", 5, ttl=0.001)
    assert session.id is not None
    while session.exists("code", fresh=True):
        pass
    found = api.describe(session.id, keys=True)
    assert found is not None
    assert (found.keys, api.values_of(session.id)) == ({"cart": 1}, {"cart": 1})


def sealed(store: Store, secret: str) -> SessionAPI:
    codec = {"codec": "pyramid_altsession.codecs.encrypted", "codec_secret": secret}
    return SessionAPI(read_settings({"session": codec}), store=store)


def test_sealed_values(store: Store) -> None:
    """Sizes are those of what is stored; values are opened."""
    api = sealed(store, KEY)
    id = handle(api, name="ann")
    found = api.describe(id, keys=True)
    assert found is not None
    assert found.keys == {"name": 5 + 29}
    assert api.values_of(id) == {"name": "ann"}


def test_sealed_values_without_their_secret(store: Store) -> None:
    """A value that cannot be read is left out, and its key is shown all the same."""
    id = handle(sealed(store, KEY), name="ann")
    other = sealed(store, KEY[::-1])
    found = other.describe(id, keys=True)
    assert found is not None
    assert found.keys == {"name": 5 + 29}
    assert other.values_of(id) == {}
    assert other.values_of("n" * 22) is None


# -- the end of all


def test_end_of_every_session(api: SessionAPI) -> None:
    """invalidate_all ends them, signed in or not, and tells how far it is."""
    signed_in, other = api.create({"k": 1}), api.create({"k": 1})
    signed_in.login("ann")
    told: list[int] = []
    assert api.invalidate_all(progress=told.append) == 2
    assert told[-1] == 2
    assert list(api.scan()) == []
    assert api.sessions_of("ann") == []
    assert api.invalidate_all() == 0
    assert api.describe(other.id or "") is None


# -- over a cluster


def test_cluster(cluster_server: Cluster) -> None:
    """Keys, sizes, values and the end of all, on nodes of their own each."""
    cluster_server.empty()
    api = SessionAPI(settings_for(cluster_server.url))
    ids = {handle(api, number=number): number for number in range(20)}
    signed_in = api.create({"number": 20})
    signed_in.login("ann")
    ids[str(signed_in.id)] = 20
    found = {known.id: known.keys for known in api.scan(keys=True)}
    assert found == {id: {"number": len(str(number))} for id, number in ids.items()}
    assert {id: api.values_of(id) for id in ids} == {id: {"number": n} for id, n in ids.items()}
    assert api.invalidate_all() == 21
    assert list(api.scan()) == []
    assert api.sessions_of("ann") == []
    api.close()


# -- events as JSON


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Events:
    """What was logged as events so far."""
    caplog.set_level(logging.INFO, "pyramid_altsession")

    def told() -> list[dict[str, object]]:
        records = [record for record in caplog.records if record.levelno == logging.INFO]
        return [json.loads(record.getMessage()) for record in records]

    return told


def without_time(line: dict[str, object]) -> dict[str, object]:
    assert str(line["time"]).endswith("+00:00")
    return {name: value for name, value in line.items() if name != "time"}


def test_events_of_a_program(store: Store, events: Events) -> None:
    """A program's call and administration say so; there is no address."""
    api = SessionAPI(read_settings({"log_events": "json"}), store=store)
    id = handle(api, k=1)
    api.invalidate_id(id)
    assert [without_time(line) for line in events()] == [
        {"event": kind, "session": id, "user": None, "reason": reason, "by": by, "address": None}
        for kind, reason, by in (
            ("created", "call", "program"),
            ("invalidated", "administration", "administration"),
        )
    ]


def test_events_of_a_unit_test(events: Events) -> None:
    """A DummyRequest has no address."""
    settings = {"altsession.log_events": "json"}
    with testing.testConfig(settings=settings) as config:
        config.include("pyramid_altsession")
        session = config.testing_altsession()
        with serving(testing.DummyRequest(altsession=session)):
            session.login("ann")
    assert [(line["event"], line["address"]) for line in events()] == [
        ("created", None),
        ("renewed", None),
    ]


def test_events_of_a_limit(store: Store, events: Events) -> None:
    """A session that a further sign-in ended was ended by the limit."""
    limit = {"log_events": "json", "session": {"max_sessions_per_user": 1}}
    api = SessionAPI(read_settings(limit), store=store)
    first, second = Browser(api), Browser(api)
    first.does(lambda s: s.login("ann"))
    second.does(lambda s: s.login("ann"))
    ended = [line for line in events() if line["event"] == "invalidated"]
    assert [(line["session"], line["by"]) for line in ended] == [(id_of(first), "limit")]


def test_events_of_a_page(events: Events) -> None:
    """A page's call, and what it asks of administration, have the address of who asks; what a
    header claims is not taken for it."""
    config = Configurator(
        settings={"altsession.redis.url": "memory://", "altsession.log_events": "json"}
    )
    config.include("pyramid_altsession")

    def ask(request):  # type: ignore[no-untyped-def]
        request.altsession.set("k", 1)
        other = request.registry.getUtility(ISessionAPI).create({"k": 1})
        request.registry.getUtility(ISessionAPI).invalidate_id(other.id)
        return request.response

    config.add_route("ask", "/")
    config.add_view(ask, route_name="ask")
    app = TestApp(config.make_wsgi_app(), extra_environ={"REMOTE_ADDR": "192.0.2.7"})
    app.get("/", headers={"X-Forwarded-For": "198.51.100.1"})
    assert [(line["event"], line["by"], line["address"]) for line in events()] == [
        ("created", "page", "192.0.2.7"),
        ("created", "page", "192.0.2.7"),
        ("invalidated", "administration", "192.0.2.7"),
    ]
