"""``batch``: several calls, one packet, all or none."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from apps import Browser, Watched, site
from inside import idle_in, state_in
from pyramid.request import Request
from servers import Server
from workers import api_at, in_threads, pool_of, token_of

from pyramid_altsession import (
    AltSession,
    Batch,
    CorruptValue,
    Handle,
    InvalidKey,
    SessionAPI,
    SessionGone,
    SessionKey,
    StoreUnavailable,
    ValueTooLarge,
)
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.messages import Operation, Read, Write


@pytest.fixture
def api(watched: Watched) -> SessionAPI:
    session = {"secure": False, "max_value_bytes": 1000}
    return SessionAPI(read_settings({"session": session}), store=watched)


@pytest.fixture
def browser(api: SessionAPI) -> Browser:
    """A browser whose session holds cart, name and visits."""
    browser = Browser(api)
    browser.does(lambda s: s.mset({"cart": [1], "name": "Ann", "visits": 3}))
    return browser


CALLS: dict[str, Callable[[Any], Any]] = {
    "get": lambda s: s.get("cart"),
    "get nothing": lambda s: s.get("nope"),
    "get a default": lambda s: s.get("nope", 7),
    "mget": lambda s: s.mget(["name", "nope", "cart"], "-"),
    "mget nothing": lambda s: s.mget([]),
    "all": lambda s: s.all(),
    "keys": lambda s: s.keys(),
    "exists": lambda s: s.exists("name"),
    "exists not": lambda s: s.exists("nope"),
    "set": lambda s: s.set("name", "Bob"),
    "set for a time": lambda s: s.set("code", 1, ttl=60),
    "mset": lambda s: s.mset({"name": "Bob", "more": 1}),
    "mset nothing": lambda s: s.mset({}),
    "remove": lambda s: s.remove("name"),
    "remove several": lambda s: s.remove(["name", "nope", "cart", "name"]),
    "remove nothing": lambda s: s.remove([]),
    "pop": lambda s: s.pop("name"),
    "pop nothing": lambda s: s.pop("nope", "-"),
    "setdefault": lambda s: s.setdefault("name", "Bob"),
    "setdefault anew": lambda s: s.setdefault("more", [1]),
    "increment": lambda s: s.increment("visits"),
    "increment anew": lambda s: s.increment("more", -2),
    "compare_and_set": lambda s: s.compare_and_set("name", "Ann", "Bob"),
    "compare_and_set not": lambda s: s.compare_and_set("name", "Bob", "Cid"),
    "compare_and_set anew": lambda s: s.compare_and_set("more", None, 1),
}


@pytest.mark.parametrize("other", [None, "set", "get"])
@pytest.mark.parametrize("name", CALLS)
def test_each_call_gives_what_it_gives_outside(
    api: SessionAPI, browser: Browser, name: str, other: str | None
) -> None:
    """Alone, before a write or after a read of the same block, a call means the same, and costs
    one operation."""
    twin = Browser(api)
    twin.does(lambda s: s.mset({"cart": [1], "name": "Ann", "visits": 3}))
    expected = twin.does(CALLS[name])
    with browser.visit().batch() as batch:
        if other == "get":
            batch.get("visits")
        handle = CALLS[name](batch)
        if other == "set":
            batch.set("unrelated", 1)
    assert handle.result() == expected
    browser.answer()
    held, twins = browser.visit().all(), twin.visit().all()
    held.pop("unrelated", None)
    assert held == twins


def test_a_batch_costs_one_operation(browser: Browser, watched: Watched) -> None:
    """Reads and writes together are one write."""
    session = browser.visit()
    with watched.costs(1), session.batch() as batch:
        handles = [batch.get("cart"), batch.set("name", "Bob"), batch.get("name"), batch.all()]
    assert [handle.result() for handle in handles] == [
        [1],
        None,
        "Bob",
        {"cart": [1], "name": "Bob", "visits": 3},
    ]
    with watched.costs(0):
        assert (session.get("cart"), session.get("name")) == ([1], "Bob")


def test_reads_alone_are_one_read(browser: Browser, watched: Watched) -> None:
    """Without a write there is no script, and what the request knows is not asked again."""
    session = browser.visit()
    with watched.costs(1), session.batch() as batch:
        handles = batch.get("cart"), batch.mget(["name", "nope"]), batch.exists("visits")
    found = [handle.result() for handle in handles]
    assert found == [[1], {"name": "Ann", "nope": None}, True]
    assert isinstance(watched.operations[-1], Read)
    with watched.costs(0), session.batch() as batch:
        handle = batch.get("name")
    assert handle.result() == "Ann"


def test_everything_in_one_read(browser: Browser, watched: Watched) -> None:
    """all and keys with other reads are one read of everything."""
    session = browser.visit()
    with watched.costs(1), session.batch() as batch:
        handles = batch.keys(), batch.get("cart"), batch.all()
    assert [handle.result() for handle in handles] == [
        ["cart", "name", "visits"],
        [1],
        {"cart": [1], "name": "Ann", "visits": 3},
    ]


def test_what_is_known_after_all_in_a_batch(browser: Browser, watched: Watched) -> None:
    """After a batch with all every key is known, and absent ones are known to be; when the
    session was made is not."""
    session = browser.visit()
    session.created()
    with session.batch() as batch:
        batch.set("more", 1)
        batch.all()
    with watched.costs(0):
        assert (session.get("cart"), session.get("nope"), session.get("more")) == ([1], None, 1)
        assert session.created() is not None
    session = browser.visit()
    with session.batch() as batch:
        batch.set("more", 1)
        batch.all()
    assert (session.created() is not None, session.userid()) == (True, None)


def test_an_empty_batch(browser: Browser, watched: Watched) -> None:
    """Nothing asked, nothing sent."""
    with watched.costs(0), browser.visit().batch():
        pass


def test_one_round_trip(server: Server) -> None:
    """A view with three keys and one write costs one command of the server's."""

    def view(request: Request) -> Any:
        with request.altsession.batch() as batch:
            cart, name, user = batch.get("cart"), batch.get("name"), batch.get("user")
            visits = batch.increment("visits")
        return [cart.result(), name.result(), user.result(), visits.result()]

    app = site(
        server.url,
        {"view": view, "put": lambda r: r.altsession.mset({"cart": [1], "name": "Ann"})},
    )
    app.get("/put")
    before = commands(server)
    assert app.get("/view").json == [[1], "Ann", None, 1]
    assert commands(server) - before == {"evalsha": 1}


class Counts(dict[str, int]):
    def __sub__(self, other: "Counts") -> dict[str, int]:
        found = {name: number - other.get(name, 0) for name, number in self.items()}
        return {name: number for name, number in found.items() if number}


def commands(server: Server) -> Counts:
    """Calls that clients sent: those of scripts do not count."""
    stats = server.client.info("commandstats")
    sent = ("evalsha", "eval", "hmget", "hgetall")
    found = {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in sent}
    scripted = found["evalsha"] + found["eval"]
    return Counts(found | {"hmget": found["hmget"] - scripted})


# -- all or none


def test_a_failing_block_sends_nothing(browser: Browser, watched: Watched) -> None:
    """An exception in the block: nothing is sent, and no handle has a result."""
    session = browser.visit()
    with watched.costs(0), pytest.raises(ZeroDivisionError), session.batch() as batch:
        handle = batch.set("name", "Bob")
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="was not sent: its block failed"):
        handle.result()
    assert browser.visit().get("name") == "Ann"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda b: b.set("k", {1}), TypeError),
        (lambda b: b.set("", 1), InvalidKey),
        (lambda b: b.get("@v"), InvalidKey),
        (lambda b: b.mget("name"), InvalidKey),
        (lambda b: b.set("k", "x" * 1000), ValueTooLarge),
        (lambda b: b.increment("visits", 0.5), TypeError),
        (lambda b: b.set("k", 1, ttl=0), ValueError),
    ],
)
def test_bad_input_is_told_at_the_call(
    browser: Browser, watched: Watched, call: Callable[[Batch], Any], error: type[Exception]
) -> None:
    """Inside the block, and then nothing of the block is sent."""
    with watched.costs(0), pytest.raises(error), browser.visit().batch() as batch:
        batch.set("name", "Bob")
        call(batch)


def test_a_call_that_is_refused_refuses_all(browser: Browser) -> None:
    """increment on something that is no number: TypeError for the block and for every handle, and
    nothing is written."""
    session = browser.visit()
    with pytest.raises(TypeError, match=r"increment\('name'\)") as caught, session.batch() as batch:
        handles: list[Handle[Any]] = [batch.set("cart", []), batch.remove(["visits", "cart"])]
        handles += [batch.increment("name"), batch.get("cart")]
    for handle in handles:
        with pytest.raises(TypeError) as told:
            handle.result()
        assert told.value is caught.value
    assert browser.visit().all() == {"cart": [1], "name": "Ann", "visits": 3}


def test_a_failed_comparison_is_a_result(browser: Browser) -> None:
    """compare_and_set that does not fit is False, and the rest is written."""
    with browser.visit().batch() as batch:
        done = batch.compare_and_set("name", "Bob", "Cid")
        batch.set("cart", [2])
    assert (done.result(), browser.visit().get("cart")) == (False, [2])


def test_later_calls_see_earlier_ones(browser: Browser) -> None:
    """In their order, on the server, whatever the request has read before."""
    session = browser.visit()
    session.all()
    Browser(browser.api, browser.jar).does(lambda s: s.set("name", "Zoe"))
    with session.batch() as batch:
        handles = [
            batch.get("name"),
            batch.increment("visits"),
            batch.pop("visits"),
            batch.exists("visits"),
            batch.setdefault("visits", 7),
            batch.increment("visits"),
            batch.keys(),
        ]
    found = [handle.result() for handle in handles]
    assert found == ["Zoe", 4, 4, False, 7, 8, ["cart", "name", "visits"]]


def test_a_result_is_a_copy(browser: Browser) -> None:
    """Each result() gives a new object."""
    with browser.visit().batch() as batch:
        handle = batch.get("cart")
    handle.result().append(2)
    assert handle.result() == [1]


def test_a_corrupt_value_is_an_error_of_its_handle(server: Server) -> None:
    """CorruptValue comes with the result of its key; the others have theirs."""
    api = api_at(server.url)
    token = token_of(api.create({"cart": [1], "name": "Ann"}))
    server.client.hset(f"sess:{token.partition('.')[0]}", "cart", "{")
    with api.open(token).batch() as batch:
        cart, name, _ = batch.get("cart"), batch.get("name"), batch.set("more", 1)
    with pytest.raises(CorruptValue):
        cart.result()
    assert name.result() == "Ann"
    api.close()


def test_results_are_for_after_the_block(browser: Browser) -> None:
    """result() inside the block is a RuntimeError."""
    with browser.visit().batch() as batch:
        handle = batch.get("cart")
        with pytest.raises(RuntimeError, match="not sent yet"):
            handle.result()
    assert handle.result() == [1]


def test_calls_after_the_block(browser: Browser) -> None:
    """A call on a batch whose block is over is a RuntimeError."""
    with browser.visit().batch() as batch:
        pass
    with pytest.raises(RuntimeError, match="is over"):
        batch.set("k", 1)


# -- with no session, and with one that ended


def test_a_batch_makes_the_session(api: SessionAPI, watched: Watched) -> None:
    """Without a session one script makes it and carries out all calls on it."""
    browser = Browser(api)
    session = browser.visit()
    with watched.costs(1), session.batch() as batch:
        handles = [batch.get("cart"), batch.increment("visits"), batch.pop("x", 1), batch.keys()]
    assert [handle.result() for handle in handles] == [None, 1, 1, ["visits"]]
    browser.answer()
    assert (session.new, browser.visit().get("visits")) == (True, 1)


def test_nothing_to_store_makes_no_session(api: SessionAPI, watched: Watched) -> None:
    """Reads and removals without a session find nothing, and cost nothing."""
    session = Browser(api).visit()
    with watched.costs(0), session.batch() as batch:
        handles = [batch.get("cart", 1), batch.remove("cart"), batch.pop("x"), batch.all()]
        handles.append(batch.compare_and_set("k", 1, 2))
    found = [handle.result() for handle in handles]
    assert (found, session.id) == ([1, 0, None, {}, False], None)


def test_a_session_that_ended_moments_ago(browser: Browser) -> None:
    """Within the window a batch that writes is SessionGone, and begins nothing."""
    Browser(browser.api, browser.jar).does(lambda s: s.invalidate())
    session = browser.visit()
    with pytest.raises(SessionGone), session.batch() as batch:
        batch.set("k", 1)
    assert session.id is None


def test_an_expired_session(store: Store) -> None:
    """A dead cookie: the batch begins a new session."""
    settings = read_settings({"session": {"secure": False, "gone_window": 0}})
    browser = Browser(SessionAPI(settings, store=store))
    browser.does(lambda s: s.set("k", 1))
    Browser(browser.api, browser.jar).does(lambda s: s.invalidate())
    session = browser.visit()
    with session.batch() as batch:
        handle = batch.get("k")
        batch.set("more", 1)
    assert (handle.result(), session.new, session.all()) == (None, True, {"more": 1})


@pytest.mark.parametrize("writes", [True, False])
def test_gone(browser: Browser, writes: bool) -> None:
    """Seen alive and then ended: SessionGone when the block ends, and from every handle."""
    session = browser.visit()
    session.get("cart")
    Browser(browser.api, browser.jar).does(lambda s: s.invalidate())
    with pytest.raises(SessionGone), session.batch() as batch:
        handles: list[Handle[Any]] = [batch.get("name"), batch.keys()]
        if writes:
            handles.append(batch.set("k", 1))
    for handle in handles:
        with pytest.raises(SessionGone):
            handle.result()


def test_no_server() -> None:
    """StoreUnavailable when the block ends, and from every handle."""
    api = api_at("redis://127.0.0.1:1")
    session = api.open("A" * 22 + "." + "B" * 43)
    with pytest.raises(StoreUnavailable), session.batch() as batch:
        handle = batch.set("k", 1)
    with pytest.raises(StoreUnavailable):
        handle.result()
    api.close()


# -- with others


def test_a_batch_after_a_prefetch(browser: Browser, watched: Watched) -> None:
    """The answer of the prefetch is taken first."""
    session = browser.visit()
    session.prefetch("cart")
    with watched.costs(1), session.batch() as batch:
        cart = batch.get("cart")
        batch.set("cart", [2])
    assert (cart.result(), session.get("cart")) == ([1], [2])


def test_a_batch_and_request_session(server: Server) -> None:
    """What request.session changed is written before the batch's calls on the same keys."""

    def view(request: Request) -> Any:
        request.session["cart"].append(2)
        request.session["other"] = 1
        with request.altsession.batch() as batch:
            cart, _ = batch.get("cart"), batch.set("name", "Bob")
        with request.altsession.batch() as batch:
            other = batch.get("other")
        return [cart.result(), request.session["name"], other.result()]

    app = site(
        server.url,
        {"view": view, "put": lambda r: r.altsession.mset({"cart": [1], "name": "Ann"})},
        settings={"altsession.sync.enabled": True},
    )
    app.get("/put")
    assert app.get("/view").json == [[1, 2], "Bob", 1]


def test_a_batch_that_is_refused_by_a_flash_queue(server: Server) -> None:
    """A message that cannot be added to what is no list is told as such, and not as a fault of
    the batch's calls."""

    def view(request: Request) -> Any:
        request.session.flash("hello", "q")
        with pytest.raises(CorruptValue, match="flash queue"), request.altsession.batch() as batch:
            batch.increment("visits")
            batch.remove("_f_q")
        state_in(request.altsession).changes.flashes.clear()
        return {}

    app = site(
        server.url,
        {"view": view, "put": lambda r: r.altsession.mset({"_f_q": "no list", "visits": 1})},
        settings={"altsession.sync.enabled": True},
    )
    app.get("/put")
    app.get("/view")
    assert app.api.open(str(app.token)).get("visits") == 1


def test_a_refused_call_beside_pending_changes(server: Server) -> None:
    """The place of the refused call is counted without what request.session had to write."""

    def view(request: Request) -> Any:
        request.session["name"] = "Bob"
        with (
            pytest.raises(TypeError, match=r"increment\('name'\)"),
            request.altsession.batch() as batch,
        ):
            batch.increment("visits")
            batch.increment("name")
        return {}

    app = site(
        server.url,
        {"view": view, "put": lambda r: r.altsession.mset({"name": "Ann", "visits": 1})},
        settings={"altsession.sync.enabled": True},
    )
    app.get("/put")
    app.get("/view")
    assert app.api.open(str(app.token)).mget(["name", "visits"]) == {"name": "Bob", "visits": 1}


def test_session_keys(browser: Browser) -> None:
    """SessionKeys in a batch are typed as outside."""
    visits = SessionKey("visits", int, default=int)
    cart = SessionKey("cart", list[int], default=list)
    tags = SessionKey("tags", set[str], default=set)
    with browser.visit().batch() as batch:
        handles: list[Handle[Any]] = [batch.get(cart), batch.increment(visits), batch.get(tags)]
        handles += [batch.set(tags, {"a"}), batch.pop(tags), batch.get(tags, None)]
        handles += [batch.mget([cart, visits]), batch.remove(cart)]
    assert [handle.result() for handle in handles] == [
        *([1], 4, set(), None, {"a"}, None, {cart: [1], visits: 4}, 1)
    ]


def test_batches_of_many_threads_are_whole(server: Server) -> None:
    """Two counters that every batch moves together are equal in every batch's own reading."""
    api = api_at(server.url)
    token = token_of(api.create({"a": 0, "b": 0}))

    def work(number: int) -> list[tuple[int, int]]:
        seen = []
        for _ in range(100):
            with api.open(token).batch() as batch:
                handles = batch.get("a"), batch.get("b"), batch.increment("a"), batch.increment("b")
            one, two, *_ = [handle.result() for handle in handles]
            seen.append((one, two))
        return seen

    seen = [pair for part in in_threads(8, work) for pair in part]
    assert sorted(one for one, _ in seen) == list(range(800))
    assert all(one == two for one, two in seen)
    api.close()


def test_a_lost_reply_is_no_second_try(browser: Browser, watched: Watched) -> None:
    """What may not be done twice is not; the cache knows nothing of its keys any more."""
    session = browser.visit()
    session.all()

    def lose(operation: Operation) -> None:
        if isinstance(operation, Write):
            raise StoreUnavailable("lost")

    watched.after = lose
    with pytest.raises(StoreUnavailable), session.batch() as batch:
        batch.increment("visits")
        batch.get("name")
    watched.after = lambda operation: None
    assert session.get("visits") == 4


def test_batch_of_an_open_session(api: SessionAPI) -> None:
    """Sessions without a request have batches too."""
    session: AltSession = api.create({"visits": 1})
    with session.batch() as batch:
        handle = batch.increment("visits")
    assert handle.result() == 2


def test_a_lost_reply_is_never_read_twice(server: Server) -> None:
    """A batch that reads and then writes is not repeated on a broken connection: its reads would
    see its own writes."""
    api = api_at(server.url)
    session = api.open(token_of(api.create({"a": 1})))
    pool = pool_of(api)
    (connection,) = idle_in(pool)

    def lose(*args: Any, **kwargs: Any) -> Any:
        raise redis.ConnectionError("lost")

    connection.receive = lose  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable), session.batch() as batch:
        batch.get("a")
        batch.set("a", 2)
    del connection.receive
    assert session.get("a") == 2
    api.close()
