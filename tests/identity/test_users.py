"""Sessions of users, seen and ended by their public handles; the index that finds them."""

import mmap
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from accounts import Books, api_on, id_of, signed_in
from apps import Browser, Watched, site
from inside import store_in
from pyramid.request import Request
from servers import Server
from workers import FORK, api_at, eventually, in_threads

from pyramid_altsession import AltSession, ISessionAPI, SessionAPI, SessionGone
from pyramid_altsession.events import SessionInvalidated
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.administration import MANY, live_sessions
from pyramid_altsession.protocol.messages import Operation, Prune, Revoke
from pyramid_altsession.protocol.steps import run


@pytest.fixture
def api(watched: Watched) -> SessionAPI:
    return api_on(watched)


def login(session: AltSession) -> None:
    session.login("ann")


def lengthen(books: Books, user: str, id: str, seconds: float) -> int:
    """Let an entry be so much older; its score."""
    score = books.index(user)[id] - round(seconds * 1000)
    books.put_entry(user, id, score)
    return score


def drop(books: Books, id: str) -> None:
    """End a session as time does, without a tombstone."""
    if books.client is None:
        books.end_in(id, 0)
    else:
        books.client.delete(f"sess:{id}")


# -- the index


def about(time: int) -> Any:
    """A minute more or less, in ms."""
    return pytest.approx(time, abs=60_000)


def test_entry_at_login(api: SessionAPI, books: Books) -> None:
    """A login enters the session with the time of the login, the same as in the hash; on a cluster
    that is another node's, earlier by the time of a packet."""
    browser = signed_in(api)
    expected = int(books.fields(id_of(browser))["@l"])
    assert books.index("ann") == {id_of(browser): about(expected)}


def test_entry_at_login_without_a_session(api: SessionAPI, books: Books) -> None:
    """So does a login that makes its session."""
    browser = Browser(api)
    browser.does(login)
    assert list(books.index("ann")) == [id_of(browser)]


def test_entry_comes_first(server: Server) -> None:
    """The entry is written before the hash is signed in: a server that ends in between leaves an
    entry at most, never a session that nobody finds."""
    api = api_at(server.url)
    browser = Browser(api)
    browser.does(lambda s: s.set("k", 1))
    api.open(str(browser.jar)).touch()  # the script is loaded
    with server.client.monitor() as monitor:
        browser.does(login)
        seen: list[str] = []
        for line in monitor.listen():
            command = line["command"].split()[0].upper()
            if line["client_type"] == "lua":
                seen.append(command)
            if command == "HDEL":
                break
    api.close()
    assert [c for c in seen if c in ("ZADD", "HSET")] == ["ZADD", "HSET"]


def test_login_elsewhere_moves_no_entry(api: SessionAPI, books: Books) -> None:
    """A second login of the same session has one entry, with the later time."""
    browser = signed_in(api)
    earlier = lengthen(books, "ann", id_of(browser), 100)
    browser.does(login)
    assert (len(books.index("ann")), books.index("ann")[id_of(browser)] > earlier) == (1, True)


STEPS: dict[str, Callable[[AltSession], object]] = {
    "login": login,
    "login again": login,
    "remember": lambda s: s.login("ann", remember=30 * 86400),
    "set": lambda s: s.set("k", 1),
    "renew": lambda s: s.renew(),
    "touch": lambda s: (s.userid(), s.touch()),
    "other user": lambda s: s.login("bob"),
    "logout": lambda s: s.logout(),
    "login after all": login,
}


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
@pytest.mark.parametrize("lifetime", [0, 3600])
def test_every_key_has_an_end(request: pytest.FixtureRequest, kind: str, lifetime: float) -> None:
    """At every step each key has a TTL, the index one that reaches to its sessions' ends."""
    server: Server = request.getfixturevalue(f"{kind}_server")
    server.client.flushall()
    api = api_at(server.url, session__lifetime=lifetime)
    books, browser = Books(store_in(api), server.client), Browser(api)
    found = []
    for act in STEPS.values():
        browser.does(act)
        found += books.endless()
        for id, user in books.signed_in().items():
            end = int(books.fields(id)["@d"]) / 1000
            assert books.index_left(user) >= end - server.client.time()[0] - 2
    api.close()
    assert found == []


def test_index_of_a_shorter_session(server: Server) -> None:
    """A login that ends sooner does not shorten the index's time."""
    api = api_at(server.url)
    signed_in(api, remember=30 * 86400)
    signed_in(api)
    books = Books(store_in(api), server.client)
    api.close()
    assert books.index_left("ann") > 29 * 86400


@pytest.mark.parametrize(
    "use", [lambda s: s.get("cart"), lambda s: (s.userid(), s.touch())], ids=["read", "touch"]
)
def test_touch_heals_the_index(
    api: SessionAPI, books: Books, use: Callable[[AltSession], object]
) -> None:
    """An index that the server evicted has a session's entry again after its next touch, with
    the time of its login."""
    browser = signed_in(api)
    before = books.index("ann")
    books.lose_index("ann")
    books.end_in(id_of(browser), 600)
    browser.does(use)
    after = {id: about(login) for id, login in before.items()}
    assert (books.index("ann"), books.endless()) == (after, [])


def test_anonymous_sessions_are_in_no_index(server: Server) -> None:
    """Sessions without a login have no index, touched or not."""
    api = api_at(server.url, session__touch_interval=0)
    browser = Browser(api)
    browser.does(lambda s: s.set("k", 1))
    browser.does(lambda s: (s.get("k"), s.touch()))
    api.close()
    assert len(server.client.keys("*")) == 1


def test_logout_takes_the_entry_out(api: SessionAPI, books: Books) -> None:
    """A logout of a request that has seen its session removes the entry."""
    browser = signed_in(api)
    browser.does(lambda s: (s.userid(), s.logout()))
    assert books.index("ann") == {}


def test_user_ids_stay_out_of_keys(server: Server) -> None:
    """No user id, whatever is in it, gets into a key."""
    api = api_at(server.url)
    signed_in(api, "päß *?[x]:\r\n{a}@example.org")
    keys = [key for key in server.client.keys("*") if b"user" in key]
    api.close()
    assert [len(key) for key in keys] == [len("sess:user:") + 43]


# -- the list


def test_sessions_of(api: SessionAPI, books: Books) -> None:
    """Newest login first, with what the application noted; nobody else's sessions."""
    old, new = signed_in(api, info={"ip": "::1"}), signed_in(api)
    signed_in(api, "bob")
    lengthen(books, "ann", id_of(old), 100)
    found = api.sessions_of("ann")
    assert [(known.id, known.userid, known.info) for known in found] == [
        (id_of(new), "ann", {}),
        (id_of(old), "ann", {"ip": "::1"}),
    ]


def test_sessions_of_nobody(api: SessionAPI) -> None:
    """A user without sessions has an empty list."""
    assert api.sessions_of("nobody") == []


def test_times_of_a_session(api: SessionAPI, books: Books) -> None:
    """created, last_seen and expires are the server's, in UTC."""
    browser = signed_in(api)
    id = id_of(browser)
    held = books.fields(id)
    (known,) = api.sessions_of("ann")
    expected = [datetime.fromtimestamp(int(held[name]) / 1000, UTC) for name in ("@c", "@t")]
    assert [known.created, known.last_seen] == expected
    left = (known.expires - known.last_seen).total_seconds()
    assert left == pytest.approx(1320, abs=1)


def test_no_verifier_in_the_list(api: SessionAPI, books: Books) -> None:
    """Neither verifier nor proof is in what the list shows."""
    browser = signed_in(api)
    shown = repr(api.sessions_of("ann"))
    assert str(browser.jar).partition(".")[2] not in shown
    assert repr(books.fields(id_of(browser))["@v"]) not in shown


def devices(request: Request) -> Any:
    if "use" in request.params:
        request.altsession.userid()
    return [known.current for known in api_of(request).sessions_of("ann")]


def api_of(request: Request) -> SessionAPI:
    found: SessionAPI = request.registry.getUtility(ISessionAPI)
    return found


@pytest.mark.parametrize("retried", [False, True])
def test_current_session(server: Server, retried: bool) -> None:
    """The list marks the session of the request that asks, whether it has used it or not."""
    views = {"devices": devices, "login": lambda r: r.altsession.login("ann")}
    app = site(server.url, views, retried=retried)
    app.other("").get("/login")
    app.get("/login")
    used, unused = app.get("/devices?use=1").json, app.get("/devices").json
    assert sorted(used) == [False, True]  # in either order: both logins may be of one millisecond
    assert unused == used


def test_many_sessions(server: Server) -> None:
    """More sessions than one packet describes are all listed."""
    api = api_at(server.url)
    for _ in range(MANY + 1):
        api.create().login("ann")
    found = api.sessions_of("ann")
    api.close()
    assert len({known.id for known in found}) == MANY + 1


# -- entries of ended sessions


def test_young_entries_stay(api: SessionAPI, books: Books) -> None:
    """The entry of a dead session stays while it is younger than 60 s: its login may be under
    way. It is not listed."""
    browser = signed_in(api)
    drop(books, id_of(browser))
    lengthen(books, "ann", id_of(browser), 58)
    assert (api.sessions_of("ann"), len(books.index("ann"))) == ([], 1)


def test_old_entries_go(api: SessionAPI, books: Books) -> None:
    """Older than 60 s it goes with the next look; the living stay."""
    browser, other = signed_in(api), signed_in(api)
    drop(books, id_of(browser))
    for each in (browser, other):
        lengthen(books, "ann", id_of(each), 61)
    api.sessions_of("ann")
    assert list(books.index("ann")) == [id_of(other)]


def test_changed_entries_stay(api: SessionAPI, books: Books, watched: Watched) -> None:
    """An entry that changed between look and pruning stays: a login came in between."""
    browser = signed_in(api)
    drop(books, id_of(browser))
    lengthen(books, "ann", id_of(browser), 100)

    def before(operation: Operation) -> None:
        if isinstance(operation, Prune):
            lengthen(books, "ann", id_of(browser), -1)

    watched.before = before
    api.sessions_of("ann")
    assert len(books.index("ann")) == 1


def test_entries_of_another_users_session(api: SessionAPI, books: Books) -> None:
    """The hash decides whose a session is: an entry alone neither lists nor ends it. An old one
    goes; a young one may be that of a login under way."""
    browser, anonymous = signed_in(api, "bob"), signed_in(api)
    books.put_entry("ann", id_of(browser), 1)
    books.put_entry("cid", id_of(anonymous), books.index("ann")[id_of(anonymous)])
    assert [known.id for known in api.sessions_of("ann")] == [id_of(anonymous)]
    assert api.sessions_of("cid") == []
    assert (list(books.index("ann")), len(books.index("cid"))) == ([id_of(anonymous)], 1)
    books.put_entry("ann", id_of(browser), 1)
    assert api.invalidate_user("ann") == 1
    assert browser.visit().userid() == "bob"


# -- ending


def test_invalidate_user(api: SessionAPI, books: Books) -> None:
    """Every session of the user ends, the request's own included, and their entries go; others'
    stay. The old cookies open nothing: a write with one starts an anonymous session."""
    mine, others = [signed_in(api) for _ in range(3)], signed_in(api, "bob")
    seen = mine[0].visit()
    seen.get("cart")
    assert (api.invalidate_user("ann"), api.sessions_of("ann"), books.index("ann")) == (3, [], {})
    with pytest.raises(SessionGone):
        seen.get("other")
    mine[1].does(lambda s: s.set("k", 1))
    assert (mine[1].visit().all(), mine[1].visit().userid()) == ({"k": 1}, None)
    assert (others.visit().userid(), api.invalidate_user("ann")) == ("bob", 0)


def test_invalidate_user_but_one(api: SessionAPI) -> None:
    """keep names the session that stays."""
    browsers = [signed_in(api) for _ in range(3)]
    assert api.invalidate_user("ann", keep=id_of(browsers[1])) == 2
    assert [b.visit().userid() for b in browsers] == [None, "ann", None]


def test_invalidate_user_prunes(api: SessionAPI, books: Books) -> None:
    """Old entries of sessions that had ended before go as well, and are not counted."""
    browser = signed_in(api)
    drop(books, id_of(browser))
    lengthen(books, "ann", id_of(browser), 61)
    signed_in(api)
    assert (api.invalidate_user("ann"), books.index("ann")) == (1, {})


def test_login_during_invalidate_user(api: SessionAPI, watched: Watched) -> None:
    """A login that comes after the call began stays, on a new session and on one that was
    anonymous until then."""
    first, anonymous = signed_in(api), Browser(api)
    anonymous.does(lambda s: s.set("k", 1))
    later: list[Browser] = []

    def after(operation: Operation) -> None:
        if isinstance(operation, Revoke) and not later:
            later.extend([signed_in(api), anonymous])
            anonymous.does(login)

    watched.after = after
    assert api.invalidate_user("ann") == 1
    assert [b.visit().userid() for b in (first, *later)] == [None, "ann", "ann"]


def test_invalidate_id(api: SessionAPI, books: Books) -> None:
    """One session ends by its handle, signed in or not; False when there is none."""
    browser, anonymous = signed_in(api), Browser(api)
    anonymous.does(lambda s: s.set("k", 1))
    ids = [id_of(browser), id_of(anonymous)]
    found = [api.invalidate_id(id) for id in (*ids, *ids)]
    assert found == [True, True, False, False]
    assert [set(books.fields(id)) for id in ids] == [{"@x", "@o"}] * 2
    assert api.sessions_of("ann") == []


def test_invalidate_id_whatever_the_verifier(store: Store) -> None:
    """Also in the middle of a periodic renewal, and with an own reuse rule: administration needs
    no verifier."""
    api = api_on(store, on_reuse="invalidate")
    browser = signed_in(api)
    browser.does(lambda s: s.renew())
    assert api.invalidate_id(id_of(browser)) is True


def test_invalidate_id_of_another_user(api: SessionAPI, books: Books) -> None:
    """Who names another user's session, in a form of theirs, does not prolong it."""
    id = id_of(signed_in(api))
    books.pass_time(id, 600)
    before, left = books.fields(id), books.left(id)
    assert api.invalidate_id(id, userid="bob") is False
    assert (books.fields(id), books.left(id)) == (before, pytest.approx(left, abs=60))


def test_administration_is_told(store: Store) -> None:
    """Sessions that administration ends are told with that reason, and with the user, if one was
    signed in."""
    told: list[Any] = []
    api = api_on(store, told.append)
    one, two, visitor = signed_in(api), signed_in(api), Browser(api)
    visitor.does(lambda s: s.set("k", 1))
    told.clear()
    api.invalidate_id(id_of(one))
    api.invalidate_user("ann")
    api.invalidate_id(id_of(visitor))
    assert [(type(e), e.id, e.userid, e.reason) for e in told] == [
        (SessionInvalidated, id_of(one), "ann", "administration"),
        (SessionInvalidated, id_of(two), "ann", "administration"),
        (SessionInvalidated, id_of(visitor), None, "administration"),
    ]


# -- single sessions, and all


def test_describe(api: SessionAPI) -> None:
    """describe tells of one session what the list does; None for ended and unknown ones."""
    browser, ended = signed_in(api, info={"ip": "::1"}), signed_in(api)
    ended.does(lambda s: s.logout())
    known, (listed,) = api.describe(id_of(browser)), api.sessions_of("ann")
    assert known is not None
    # The end is worked out from the server's clock and the time that is left, two commands.
    assert known == listed._replace(expires=known.expires)
    assert abs(known.expires - listed.expires) < timedelta(minutes=1)
    ids = [str(ended.api.sessions_of("ann")[0].id)[:21] + "!", "A" * 22, "", "user:x"]
    assert [api.describe(id) for id in ids] == [None] * 4


def test_describe_an_anonymous_session(api: SessionAPI) -> None:
    """A session without a login has neither user nor info."""
    browser = Browser(api)
    browser.does(lambda s: s.set("k", 1))
    known = api.describe(id_of(browser))
    assert known is not None
    assert (known.userid, known.info, known.current) == (None, {}, False)


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
def test_an_index_is_no_session(request: pytest.FixtureRequest, kind: str) -> None:
    """The name of an index, or of any other key, is nobody's id: nothing is shown or ended."""
    server: Server = request.getfixturevalue(f"{kind}_server")
    server.client.flushall()
    api = api_at(server.url)
    signed_in(api)
    (key,) = server.client.keys("sess:user:*")
    name = key.decode().removeprefix("sess:")
    assert (api.describe(name), api.invalidate_id(name)) == (None, False)
    assert len(api.sessions_of("ann")) == 1
    api.close()


def test_scan(api: SessionAPI) -> None:
    """scan walks over every live session, and over nothing else."""
    browsers = [signed_in(api) for _ in range(3)]
    anonymous, ended = Browser(api), signed_in(api)
    anonymous.does(lambda s: s.set("k", 1))
    ended.does(lambda s: s.logout())
    expected = {id_of(b): "ann" for b in browsers} | {id_of(anonymous): None}
    assert {known.id: known.userid for known in api.scan()} == expected


def test_end_of_all_sessions(api: SessionAPI) -> None:
    """An administrator who walks over all sessions can end every one."""
    browsers = [signed_in(api), signed_in(api, "bob"), Browser(api)]
    browsers[2].does(lambda s: s.set("k", 1))
    assert [api.invalidate_id(known.id) for known in api.scan()] == [True] * 3
    assert [browser.visit().exists() for browser in browsers] == [False] * 3
    assert list(api.scan()) == []


def test_scan_ignores_foreign_keys(server: Server) -> None:
    """Keys that are not ours do not disturb the walk, though they look like ours."""
    api = api_at(server.url)
    browser = signed_in(api)
    client = server.client
    client.set("sess:" + "s" * 22, "a string")
    client.hset("sess:" + "h" * 22, "k", "no session")
    client.hset(b"sess:" + b"\xff" * 22, "k", "not even text")
    client.hset("session:" + "h" * 19, "@v", "v")
    client.hset("sess:short", "@v", "v")
    found = [known.id for known in api.scan()]
    api.close()
    assert found == [id_of(browser)]


def test_scan_goes_on(server: Server) -> None:
    """More sessions than one step of the cursor brings are all found."""
    api = api_at(server.url)
    ids = {api.create({"k": 1}).id for _ in range(1200)}
    found = {known.id for known in api.scan()}
    api.close()
    assert found == ids


# -- many at once


@pytest.mark.volume
def test_log_out_everywhere(server: Server) -> None:
    """10,000 sessions of one user and logins going on: each that existed when the call began is
    dead when it returns; later logins stay; no entry of a dead session is left."""
    api = api_at(server.url)
    began = time.monotonic()
    tokens: list[list[str]] = in_threads(4, lambda number: [token(api) for _ in range(2500)])
    existing = [each for part in tokens for each in part]
    made = time.monotonic() - began
    going, later, listed = threading.Event(), list[str](), threading.Event()

    def login_on() -> None:
        listed.wait(120)
        while not going.is_set():
            later.append(token(api))

    watched = Watched(store_in(api))

    def after(operation: Operation) -> None:
        if isinstance(operation, Revoke):
            listed.set()

    watched.after = after
    thread = threading.Thread(target=login_on)
    thread.start()
    began = time.monotonic()
    ended = api_on(watched).invalidate_user("ann")
    took = time.monotonic() - began
    going.set()
    thread.join()
    ids = {each.partition(".")[0] for each in later}
    print(f"10,000 logins {made:.1f} s, log out everywhere {took:.1f} s, {len(later)} meanwhile")
    dead = server.client.pipeline(transaction=False)
    for each in existing:
        dead.hexists(f"sess:{each.partition('.')[0]}", "@v")
    books = Books(store_in(api), server.client)
    assert (ended, sum(dead.execute())) == (10_000, 0)
    assert len(watched.operations) == 1 + 10_000 // MANY
    assert (
        {known.id for known in run(store_in(api).execute, live_sessions("ann"))}
        == ids
        == set(books.index("ann"))
    )
    assert len(later) > 0
    api.close()


def token(api: SessionAPI) -> str:
    session = api.create()
    session.login("ann")
    return str(session.token)


def cycle(rng: random.Random) -> Iterator[Callable[[AltSession], object]]:
    """A visit from sign-in to sign-out, as ann or bob, renewed in between, periodically too."""
    user = rng.choice(["ann", "ann", "bob"])
    yield lambda s: s.login(user)
    yield rng.choice([lambda s: s.renew(), lambda s: (s.get("k"), s.set("k", 1))])
    yield lambda s: s.renew()
    yield lambda s: s.logout()


def worker(url: str, seed: int, done: Any, place: int) -> None:
    """Cycles of four browsers at once, counted at ``done[place]``, until it is killed."""
    rng = random.Random(seed)
    api = api_at(url, session__renew_after=0.001, session__touch_interval=0)
    browsers = [Browser(api) for _ in range(4)]
    acts = [cycle(rng) for _ in browsers]
    while True:
        at = rng.randrange(4)
        act = next(acts[at], None)
        if act is None:
            done[place] += 1
            acts[at] = cycle(rng)
        else:
            browsers[at].does(act)


@pytest.mark.volume
def test_killed_workers(server: Server) -> None:
    """Workers killed at random points in 10,000 cycles of login, renewal and logout leave no
    signed-in session that the index misses and no key without a TTL."""
    rng = random.Random(4)
    done = memoryview(mmap.mmap(-1, 3 * 8)).cast("q")  # shared with the workers
    kills, deadline = 0, time.monotonic() + 600
    while (sum(done) < 10_000 or kills < 30) and time.monotonic() < deadline:
        processes = [
            FORK.Process(target=worker, args=(server.url, rng.randrange(10**9), done, place))
            for place in range(3)
        ]
        for process in processes:
            process.start()
        goal = sum(done) + rng.randrange(200, 800)
        assert eventually(lambda goal=goal: sum(done) >= goal)
        for process in processes:
            process.kill()
            process.join()
        kills += 3
    api = api_at(server.url)
    books = Books(store_in(api), server.client)
    held = books.signed_in()
    listed = {known.id: user for user in ("ann", "bob") for known in api.sessions_of(user)}
    api.close()
    print(f"{sum(done)} cycles, {kills} kills, {len(held)} sessions signed in")
    assert (books.endless(), held.items() - listed.items()) == ([], set())
    assert (sum(done) >= 10_000, kills >= 30, len(held) > 0) == (True, True, True)
