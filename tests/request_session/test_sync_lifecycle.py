"""When what changed in request.session is written: every line of the table in docs/sync.rst; and
what the layer costs on a real server."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest
import webob
from apps import Behind, Browser, Site
from inside import idle_in, lease_in, places_in, put_store
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPForbidden, HTTPFound
from pyramid.interfaces import IResponse, ISession
from pyramid.paster import bootstrap
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.session import SignedCookieSessionFactory
from pyramid.settings import aslist
from pyramid.testing import DummyRequest
from pyramid.threadlocal import manager as threadlocals
from pyramid.tweens import EXCVIEW, MAIN
from pyramid_retry import RetryableException, mark_error_retryable
from servers import Server, free_port, valkey
from workers import in_threads
from zope.interface import implementer

from pyramid_altsession import SessionGone, StoreUnavailable, ValueTooLarge
from pyramid_altsession.protocol.messages import Read, Write
from pyramid_altsession.web.request_session import SyncSession
from pyramid_altsession.web.transaction import TM, TRANSACTION
from pyramid_altsession.web.tween import NAME

OURS = "pyramid_altsession"
INCLUDES = [OURS, "pyramid_tm", "pyramid_retry", "pyramid_debugtoolbar"]
OURS_FIRST_AND_LAST = [INCLUDES, INCLUDES[::-1]]
ORDERS = list(permutations(INCLUDES))


def even(order: Sequence[str]) -> bool:
    """Whether an even number of exchanges makes the order."""
    places = [INCLUDES.index(name) for name in order]
    return sum(one > two for one, two in combinations(places, 2)) % 2 == 0


def left_out(params: Mapping[str, Any]) -> bool:
    """Of the orders but the first every even one is tried plainly and every odd one under
    pyramid_retry: so each order of any three includes is tried in both ways."""
    order = params.get("includes")
    return order in ORDERS[1:] and even(order) == (params["retried"] == "retried")


Browsers = Callable[[str], Any]


class Problem(Exception):
    """What goes wrong in a view."""


class Mistake(Exception):
    """What goes wrong in a view, and is the server's fault."""


class Unforeseen(Exception):
    """What goes wrong in a view, and has no page."""


DISCARDS = "apps.discard_first_attempt"


@pytest.fixture(autouse=True, params=["plain", "retried"])
def retried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every test once plainly, and once under pyramid_retry, where each request has a first
    attempt that changes ``request.session`` and is discarded."""
    again: bool = request.param == "retried"
    monkeypatch.setattr(sys.modules[__name__], "RETRIED", again)
    return again


RETRIED = False


def retrying(config: Configurator, includes: Sequence[str]) -> None:
    if "pyramid_retry" not in includes:
        config.include("pyramid_retry")
    config.add_tween(DISCARDS, under=EXCVIEW, over=MAIN)
    explicit = config.registry.settings.get("pyramid.tweens")
    if explicit is not None:
        config.registry.settings["pyramid.tweens"] = [*aslist(explicit), DISCARDS]


def make(
    url: str,
    view: Callable[[Request], Any],
    *,
    includes: Sequence[str] = (OURS,),
    settings: dict[str, object] | None = None,
    configure: Callable[[Configurator], object] = lambda config: None,
    **options: Any,
) -> Site:
    """An application whose / is the view, and whose visitor has a live session {"a": 1}."""
    given = {"altsession.redis.url": url, "altsession.sync.enabled": "true", **(settings or {})}
    config = Configurator(settings=given)
    for name in includes:
        config.include(name)
    if RETRIED:
        retrying(config, includes)
    config.add_route("root", "/")
    config.add_view(view, route_name="root", renderer="json", **options)
    config.add_route("other", "/other")
    config.add_view(lambda request: [], route_name="other", renderer="json")
    configure(config)
    return visited(Site(config.make_wsgi_app(), config.registry))


def visited(app: Site) -> Site:
    """With the visitor and nothing else that has happened."""
    app.extra_environ["REMOTE_ADDR"] = "127.0.0.1"
    app.token = str(app.api.create({"a": 1}).token)
    app.watched.operations.clear()
    return app


@lru_cache(16)  # tests with one order of includes follow one another (conftest.py)
def started(url: str, includes: Sequence[str], retried: bool, **settings: str) -> Site:
    """An application whose / and /inner are the views that ``in_order`` puts there, with pages
    for what goes wrong."""

    def inner(request: Request) -> Any:
        return request.registry.inner(request)

    def configure(config: Configurator) -> None:
        with_error_pages(config)
        config.add_route("inner", "/inner")
        config.add_view(inner, route_name="inner", renderer="json")

    def view(request: Request) -> Any:
        return request.registry.view(request)

    return make(url, view, includes=includes, settings={**settings}, configure=configure)


def in_order(
    url: str,
    view: Callable[[Request], Any],
    includes: Sequence[str],
    *,
    inner: Callable[[Request], Any] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Site:
    """An application as ``make`` makes it; tests of one order of includes share it, as it takes
    a second to start."""
    app = started(url, includes, RETRIED, **(settings or {}))
    app.registry.view, app.registry.inner = view, inner
    put_store(app.api, app.watched.store)
    return visited(Site(app.app, app.registry))


def test_first_attempts_are_discarded(server: Server, retried: bool) -> None:
    """The tests of this file are what they say: the view of the second runs in a second attempt."""
    app = make(server.url, lambda request: request.environ.get("retry.attempt", 0))
    assert app.get("/").json == int(retried)


def stored(app: Site) -> dict[str, Any]:
    assert app.token is not None
    return app.api.open(app.token).all()


def writes(app: Site) -> list[Write]:
    return [o for o in app.watched.operations if isinstance(o, Write) and not o.optional]


def set_cookies(response: Any) -> list[str]:
    return [h for h in response.headers.getall("Set-Cookie") if h.startswith("sid=")]


def change(request: Request) -> None:
    request.session["b"] = 2
    request.session.flash("hello")


CHANGED = {"a": 1, "b": 2, "_f_": ["hello"]}
UNCHANGED = {"a": 1}


def page(request: Request) -> dict[str, str]:
    change(request)
    return {}


def with_error_pages(config: Configurator) -> None:
    def problem(request: Request) -> Response:
        return Response("problem", status=400)

    def mistake(request: Request) -> Response:
        return Response("mistake", status=500)

    config.add_exception_view(problem, context=Problem)
    config.add_exception_view(mistake, context=Mistake)


# -- the table, in every order of includes


@pytest.fixture(
    params=[ORDERS[0], *[pytest.param(order, marks=pytest.mark.volume) for order in ORDERS[1:]]],
    ids="-".join,
)
def includes(request: pytest.FixtureRequest) -> Sequence[str]:
    order: Sequence[str] = request.param
    return order


def test_normal_answer(server: Server, includes: Sequence[str]) -> None:
    """A normal answer: the changes are written, in one step."""
    app = in_order(server.url, page, includes)
    app.get("/")
    assert (stored(app), len(writes(app))) == (CHANGED, 1)


def test_raised_redirect(server: Server, includes: Sequence[str]) -> None:
    """A raised HTTPFound: the changes are written."""

    def view(request: Request) -> None:
        change(request)
        raise HTTPFound("/other")

    app = in_order(server.url, view, includes, settings={"debugtoolbar.enabled": "false"})
    app.get("/", status=302)
    assert stored(app) == CHANGED


def test_exception_view_4xx(server: Server, includes: Sequence[str]) -> None:
    """An exception view that answers 4xx: the changes are written."""

    def view(request: Request) -> None:
        change(request)
        raise Problem

    app = in_order(server.url, view, includes)
    app.get("/", status=400)
    assert stored(app) == CHANGED


def test_exception_view_5xx(server: Server, includes: Sequence[str]) -> None:
    """An exception view that answers 5xx: nothing is written."""

    def view(request: Request) -> None:
        change(request)
        raise Mistake

    app = in_order(server.url, view, includes)
    app.get("/", status=500)
    assert stored(app) == UNCHANGED


def test_unhandled_exception(server: Server, includes: Sequence[str]) -> None:
    """An unhandled exception: nothing is written."""

    def view(request: Request) -> None:
        change(request)
        raise Unforeseen

    off = {"debugtoolbar.intercept_exc": "false"}
    app = in_order(server.url, view, includes, settings=off)
    with pytest.raises(Unforeseen):
        app.get("/")
    assert stored(app) == UNCHANGED


def test_returned_5xx(server: Server, includes: Sequence[str]) -> None:
    """A 5xx answer that the view returns: nothing is written."""

    def view(request: Request) -> Response:
        change(request)
        return Response(status=502)

    app = in_order(server.url, view, includes)
    app.get("/", status=502)
    assert stored(app) == UNCHANGED


def answering_tween_factory(handler: Callable[[Request], Response], registry: Any) -> Any:
    """A tween of the application's above ours, which has an answer for every failure."""

    def tween(request: Request) -> Response:
        try:
            response = handler(request)
        except (Unforeseen, ValueTooLarge):
            response = Response(status=500)
        if response.status_int < 500:
            return response
        request.session.flash("sorry")
        return Response("sorry", status=registry.settings["status"])

    return tween


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("failure", [Unforeseen, ValueTooLarge, Mistake])
def test_failure_that_a_tween_above_answers(
    server: Server, failure: type[Exception], status: int
) -> None:
    """Nothing of it is written, whatever the answer; what the tween itself changes is, unless it
    answers 5xx."""

    def view(request: Request) -> None:
        request.session["a"] = 5
        change(request)
        raise failure

    def configure(config: Configurator) -> None:
        with_error_pages(config)
        config.add_tween(f"{__name__}.answering_tween_factory")

    app = make(server.url, view, settings={"status": status}, configure=configure)
    app.get("/", status=status)
    assert stored(app) == UNCHANGED | ({"_f_": ["sorry"]} if status < 500 else {})


@pytest.mark.parametrize("use_tweens", [True, False])
def test_subrequest(server: Server, includes: Sequence[str], use_tweens: bool) -> None:
    """A subrequest with the same cookie: its changes are written with the outer request's, once,
    and each sees the other's."""
    seen = []

    def inner(request: Request) -> dict[str, str]:
        seen.append(request.session["outer"])
        request.session["inner"] = 2
        return {}

    def view(request: Request) -> dict[str, str]:
        request.session["outer"] = 1
        sub = Request.blank("/inner", headers={"Cookie": request.headers["Cookie"]})
        request.invoke_subrequest(sub, use_tweens=use_tweens)
        seen.append(request.session["inner"])
        return {}

    app = in_order(server.url, view, includes, inner=inner)
    app.get("/")
    assert (seen, stored(app)) == ([1, 2], {"a": 1, "outer": 1, "inner": 2})
    assert len(writes(app)) == 1


@pytest.mark.parametrize("use_tweens", [True, False])
def test_subrequest_of_a_failure(server: Server, includes: Sequence[str], use_tweens: bool) -> None:
    """A subrequest of a request that fails: its changes are not written either."""

    def view(request: Request) -> None:
        sub = Request.blank("/inner", headers={"Cookie": request.headers["Cookie"]})
        request.invoke_subrequest(sub, use_tweens=use_tweens)
        raise Mistake

    app = in_order(server.url, view, includes, inner=page)
    app.get("/", status=500)
    assert stored(app) == UNCHANGED


def test_abort_without_transactional(server: Server, includes: Sequence[str]) -> None:
    """pyramid_tm aborts: without altsession.transactional a normal answer's changes are written."""

    def view(request: Request) -> dict[str, str]:
        change(request)
        request.tm.doom()
        return {}

    app = in_order(server.url, view, includes)
    app.get("/")
    assert stored(app) == CHANGED


def thrice(request: Request) -> int:
    attempt: int = request.environ["retry.attempt"]
    request.session[f"attempt{attempt}"] = 1
    request.session.setdefault("count", []).append(attempt)
    request.session.flash(attempt)
    if attempt < 2:
        raise RetryableException
    return attempt


@pytest.mark.parametrize("transactional", ["false", "true"])
def test_three_attempts(server: Server, includes: Sequence[str], transactional: str) -> None:
    """pyramid_retry makes three attempts: the last one's changes are written, once."""
    settings = TRANSACTIONAL if transactional == "true" else None
    app = in_order(server.url, thrice, includes, settings=settings)
    assert app.get("/").json == 2
    assert stored(app) == {"a": 1, "attempt2": 1, "count": [2], "_f_": [2]}


def test_attempts_that_an_exception_view_answers(server: Server, includes: Sequence[str]) -> None:
    """pyramid_retry discards these answers, too, and only the last one's changes are written."""

    def view(request: Request) -> None:
        request.session["count"] = request.session.get("count", 0) + 1
        request.session.flash("tried")
        error = Problem()
        mark_error_retryable(error)
        raise error

    app = in_order(server.url, view, includes)
    app.get("/", status=400)
    assert stored(app) == {"a": 1, "count": 1, "_f_": ["tried"]}


def test_three_attempts_of_a_stranger(server: Server, includes: Sequence[str]) -> None:
    """Three attempts of a visitor without a session make one session, with one cookie."""
    app = in_order(server.url, thrice, includes)
    app.reset()
    assert len(set_cookies(app.get("/"))) == 1
    assert stored(app) == {"attempt2": 1, "count": [2], "_f_": [2]}


def test_prepare(server: Server, includes: Sequence[str]) -> None:
    """prepare(): reads work, and nothing is written."""
    app = in_order(server.url, page, includes)
    request = Request.blank("/", headers={"Cookie": f"sid={app.token}"})
    with prepare(request=request, registry=app.registry) as env:
        assert env["request"].session["a"] == 1
        change(env["request"])
    assert stored(app) == UNCHANGED


def from_ini(global_config: object, **settings: str) -> Any:
    """What the .ini file of test_bootstrap runs."""
    config = Configurator(settings=settings)
    return config.make_wsgi_app()


def test_bootstrap(server: Server, includes: Sequence[str], tmp_path: Path) -> None:
    """bootstrap(): the same."""
    app = in_order(server.url, page, includes)
    ini = tmp_path / "app.ini"
    settings = {
        "use": "call:test_sync_lifecycle:from_ini",
        "pyramid.includes": " ".join(includes),
        "altsession.redis.url": server.url,
        "altsession.sync.enabled": "true",
    }
    ini.write_text("[app:main]\n" + "".join(f"{name} = {settings[name]}\n" for name in settings))
    request = Request.blank("/", headers={"Cookie": f"sid={app.token}"})
    with bootstrap(str(ini), request=request) as env:
        assert env["request"].session["a"] == 1
        change(env["request"])
    assert stored(app) == UNCHANGED


def test_dummy_request(server: Server, includes: Sequence[str]) -> None:
    """DummyRequest has a session of Pyramid's own, and ours leaves it alone."""
    app = in_order(server.url, page, includes)
    threadlocals.push({"registry": app.registry, "request": None})
    try:
        request = DummyRequest()
        page(request)
    finally:
        threadlocals.pop()
    assert not isinstance(request.session, SyncSession)
    assert (request.session["b"], app.watched.operations) == (2, [])


EXPLICIT = {"pyramid.tweens": "pyramid.tweens.excview_tween_factory"}


def test_explicit_tweens_without_ours(
    server: Server, includes: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    """An explicit pyramid.tweens without ours: a warning at start, and the same by a response
    callback."""
    with caplog.at_level(logging.WARNING, "pyramid_altsession"):
        app = make(server.url, page, includes=includes, settings=EXPLICIT)
    (record,) = caplog.records
    assert (record.levelname, NAME in record.getMessage()) == ("WARNING", True)
    app.get("/")
    assert stored(app) == CHANGED


def test_explicit_tweens_and_failures(server: Server, includes: Sequence[str]) -> None:
    """Without our tween a 5xx page writes nothing either."""

    def view(request: Request) -> None:
        change(request)
        raise Mistake

    app = in_order(server.url, view, includes, settings=EXPLICIT)
    app.get("/", status=500)
    assert stored(app) == UNCHANGED


def test_explicit_tweens_and_a_gone_session(server: Server, includes: Sequence[str]) -> None:
    """Without our tween a write-back that finds the session gone is a 409 page all the same."""
    app = in_order(server.url, leaves(ended), includes, settings=EXPLICIT)
    app.registry.site = app
    response = app.get("/", status=409)
    assert ("reload the page" in response, set_cookies(response)) == (True, [])


def test_explicit_tweens_with_ours(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """An explicit pyramid.tweens with ours: no warning, and the changes are written."""
    with caplog.at_level(logging.WARNING, "pyramid_altsession"):
        app = make(
            server.url, page, settings={"pyramid.tweens": [NAME, EXPLICIT["pyramid.tweens"]]}
        )
    app.get("/")
    assert (stored(app), caplog.records) == (CHANGED, [])


# -- two requests at once, in threads


def overlapping(server: Server, other: Callable[[Request], object]) -> tuple[Site, Browsers]:
    """A request that changes the session, and another that does its part as soon as the first has
    come to the end of its view."""
    both = threading.Barrier(2)

    def slow(request: Request) -> dict[str, str]:
        number = int(request.params["number"])
        if number % 2:
            assert request.session["a"] == 1
        request.session["slow"] = number
        request.session.flash("slow")
        both.wait(120)
        return {}

    def fast(request: Request) -> dict[str, str]:
        both.wait(120)
        other(request)
        return {}

    def configure(config: Configurator) -> None:
        config.add_route("fast", "/fast")
        config.add_view(fast, route_name="fast", renderer="json")

    app = make(server.url, slow, includes=INCLUDES[:3], configure=configure)
    return app, lambda path: app.other().get(path, status="*")


@pytest.mark.volume
def test_different_keys_in_threads(server: Server) -> None:
    """Two requests that overlap and change different keys, and flash: both kept, both shown, 1000
    of 1000."""

    def other(request: Request) -> None:
        request.session["fast"] = int(request.params["number"])
        request.session.flash("fast")

    app, get = overlapping(server, other)
    kept = 0
    with ThreadPoolExecutor(2) as pool:
        for number in range(1000):
            paths = [f"/?number={number}", f"/fast?number={number}"]
            answers = {answer.status_int for answer in pool.map(get, paths)}
            shown = sorted(app.api.open(str(app.token)).pop("_f_"))
            both = stored(app) == {"a": 1, "slow": number, "fast": number}
            kept += (both, shown, answers) == (True, ["fast", "slow"], {200})
    assert kept == 1000


@pytest.mark.volume
def test_logout_in_threads(server: Server) -> None:
    """A logout that overlaps a slow request, whichever ends first: the session is dead, and no
    answer gives a cookie, 1000 of 1000."""
    app, get = overlapping(server, lambda request: request.session.invalidate())
    dead, statuses = 0, set()
    with ThreadPoolExecutor(2) as pool:
        for number in range(1000):
            app.token = str(app.api.create({"a": 1}).token)
            slow, fast = pool.map(get, [f"/?number={number}", "/fast"])
            statuses.add(slow.status_int)
            (cookie,) = set_cookies(fast)
            alive = app.api.open(str(app.token)).exists()
            dead += (alive, set_cookies(slow), cookie[:5]) == (False, [], "sid=;")
    assert (dead, statuses - {200, 409}) == (1000, set())


# -- altsession.transactional

TRANSACTIONAL = {"altsession.transactional": "true"}


def test_commit_writes(server: Server, includes: Sequence[str]) -> None:
    """A commit writes the changes, in one step."""
    app = in_order(server.url, page, includes, settings=TRANSACTIONAL)
    app.get("/")
    assert (stored(app), len(writes(app))) == (CHANGED, 1)


def test_doomed_transaction(server: Server, includes: Sequence[str]) -> None:
    """An abort leaves the session as it was, even with a normal answer."""

    def view(request: Request) -> dict[str, str]:
        change(request)
        request.session["a"] = 5
        request.tm.doom()
        return {}

    app = in_order(server.url, view, includes, settings=TRANSACTIONAL)
    app.get("/", status=200)
    assert stored(app) == UNCHANGED


def test_aborted_by_an_exception_view(server: Server) -> None:
    """A 4xx page of an exception view, for which pyramid_tm aborts, leaves the session alone."""

    def view(request: Request) -> None:
        change(request)
        raise Problem

    app = make(
        server.url, view, includes=INCLUDES, settings=TRANSACTIONAL, configure=with_error_pages
    )
    app.get("/", status=400)
    assert stored(app) == UNCHANGED


def test_subrequest_that_aborts(server: Server) -> None:
    """It takes back its own changes, and not the outer request's."""

    def inner(request: Request) -> None:
        request.session["inner"] = 2
        raise Problem

    def view(request: Request) -> dict[str, str]:
        request.session["outer"] = 1
        sub = Request.blank("/inner", headers={"Cookie": request.headers["Cookie"]})
        assert request.invoke_subrequest(sub, use_tweens=True).status_int == 400
        return {}

    # The default manager has one transaction for a thread, which a subrequest's tween would begin
    # anew.
    settings = TRANSACTIONAL | {"tm.manager_hook": "pyramid_tm.explicit_manager"}
    app = in_order(server.url, view, tuple(INCLUDES), inner=inner, settings=settings)
    app.get("/")
    assert stored(app) == {"a": 1, "outer": 1}


@pytest.mark.parametrize("use", ["nothing", "assign", "within", "written"])
def test_value_at_hand_while_a_subrequest_aborts(server: Server, use: str) -> None:
    """What the outer request puts into a value that it has got before is written, also if the
    subrequest assigned another one. If the subrequest changed the value itself, or wrote another
    one with a call, it is not the session's any more."""

    def inner(request: Request) -> None:
        request.session["inner"] = 2
        if use == "assign":
            request.session["cart"] = ["inner"]
        elif use == "within":
            request.session["cart"].append("inner")
        elif use == "written":
            request.altsession.set("cart", ["inner"])
        raise Problem

    def view(request: Request) -> list[str]:
        cart = request.session.setdefault("cart", [])
        cart.append("tea")
        sub = Request.blank("/inner", headers={"Cookie": request.headers["Cookie"]})
        assert request.invoke_subrequest(sub, use_tweens=True).status_int == 400
        cart.append("cup")
        cart = request.session["cart"]
        cart.append("honey")
        return list(cart)

    settings = TRANSACTIONAL | {"tm.manager_hook": "pyramid_tm.explicit_manager"}
    app = in_order(server.url, view, tuple(INCLUDES), inner=inner, settings=settings)
    expected = {"within": ["tea", "honey"], "written": ["inner", "honey"]}
    cart = expected.get(use, ["tea", "cup", "honey"])
    assert app.get("/").json == cart
    assert stored(app) == {"a": 1, "cart": cart}


@pytest.mark.parametrize("ends", ["commits", "aborts"])
def test_subrequest_in_the_same_transaction(server: Server, ends: str) -> None:
    """A copy of the request has the outer request's transaction; what both changed is written at
    its commit, and taken back together."""

    def inner(request: Request) -> dict[str, str]:
        request.session["inner"] = 2
        return {}

    def view(request: Request) -> dict[str, str]:
        request.session["outer"] = 1
        sub = request.copy()
        sub.path_info = "/inner"
        assert request.invoke_subrequest(sub, use_tweens=True).status_int == 200
        if ends == "aborts":
            request.tm.doom()
        return {}

    settings = TRANSACTIONAL | {"tm.manager_hook": "pyramid_tm.explicit_manager"}
    app = in_order(server.url, view, tuple(INCLUDES), inner=inner, settings=settings)
    app.get("/")
    both = {"outer": 1, "inner": 2} if ends == "commits" else {}
    assert (stored(app), len(writes(app))) == (UNCHANGED | both, int(ends == "commits"))


def test_committed_5xx(server: Server) -> None:
    """A 5xx answer writes nothing, though pyramid_tm commits."""

    def view(request: Request) -> Response:
        change(request)
        return Response(status=502)

    app = make(server.url, view, includes=INCLUDES, settings=TRANSACTIONAL)
    app.get("/", status=502)
    assert stored(app) == UNCHANGED


class Database:
    """Another part of the transaction, which fails in its vote, as zope.sqlalchemy's does."""

    def __init__(self, transaction_manager: Any, fails: bool) -> None:
        self.transaction_manager = transaction_manager
        self.fails = fails
        self.done: list[str] = []

    def sortKey(self) -> str:
        return "~sqlalchemy:1"

    def tpc_vote(self, transaction: object) -> None:
        if self.fails:
            raise Problem("serialization")
        self.done.append("vote")

    def tpc_begin(self, transaction: object) -> None:
        pass

    def tpc_abort(self, transaction: object) -> None:
        self.done.append("abort")

    commit = tpc_finish = tpc_begin
    abort = tpc_abort

    def should_retry(self, error: Exception) -> bool:
        return isinstance(error, Problem)


def test_database_that_cannot_commit(server: Server) -> None:
    """A database that fails at the commit leaves the session as it was."""

    def view(request: Request) -> dict[str, str]:
        change(request)
        request.tm.get().join(Database(request.tm, fails=True))
        return {}

    app = make(
        server.url,
        view,
        includes=[OURS, "pyramid_tm"],
        settings=TRANSACTIONAL,
        configure=with_error_pages,
    )
    app.get("/", status=400)
    assert stored(app) == UNCHANGED


def test_session_that_cannot_be_written(server: Server) -> None:
    """A session that ended meanwhile aborts the transaction, and is a 409 page."""
    databases = []

    def view(request: Request) -> dict[str, str]:
        change(request)
        databases.append(Database(request.tm, fails=False))
        request.tm.get().join(databases[0])
        ended(app)
        return {}

    app = make(server.url, view, includes=[OURS, "pyramid_tm"], settings=TRANSACTIONAL)
    response = app.get("/", status=409)
    assert (databases[0].done, set_cookies(response)) == (["vote", "abort"], [])


def test_calls_are_immediate(server: Server) -> None:
    """What is called on request.altsession is written at once and outlives an abort."""

    def view(request: Request) -> dict[str, str]:
        request.altsession.set("now", 1)
        request.session["later"] = 1
        request.tm.doom()
        return {}

    app = make(server.url, view, includes=[OURS, "pyramid_tm"], settings=TRANSACTIONAL)
    app.get("/")
    assert stored(app) == {"a": 1, "now": 1}


def test_savepoint(server: Server) -> None:
    """A rollback to a savepoint takes back what changed since, and no more."""

    def view(request: Request) -> list[Any]:
        session = request.session
        session["before"] = [1]
        session.flash("before")
        savepoint = request.tm.savepoint()
        session["before"].append(2)
        session["after"] = 1
        session.flash("after")
        del session["a"]
        savepoint.rollback()
        return [session["before"], session.get("after"), session["a"]]

    app = make(server.url, view, includes=[OURS, "pyramid_tm"], settings=TRANSACTIONAL)
    assert app.get("/").json == [[1], None, 1]
    assert stored(app) == {"a": 1, "before": [1], "_f_": ["before"]}


@pytest.mark.parametrize("spoiled", [True, False])
def test_savepoint_and_what_was_written_since(server: Server, spoiled: bool) -> None:
    """A rollback to a savepoint does not have written again what a call wrote meanwhile; what a
    refused call did not write, it does."""

    def view(request: Request) -> dict[str, str]:
        session = request.session
        session["x"] = "text"
        session.flash("once")
        savepoint = request.tm.savepoint()
        if spoiled:
            with pytest.raises(TypeError):
                request.altsession.increment("x")
        else:
            session.write_back()
            request.altsession.set("x", 5)
        savepoint.rollback()
        return {}

    app = make(server.url, view, includes=[OURS, "pyramid_tm"], settings=TRANSACTIONAL)
    app.get("/")
    found = stored(app)
    assert (found["x"], found["_f_"]) == ("text" if spoiled else 5, ["once"])


@pytest.mark.parametrize("used", [True, False])
def test_savepoint_before_the_first_use(server: Server, used: bool) -> None:
    """A rollback to a savepoint older than the first use takes everything back."""

    def view(request: Request) -> dict[str, str]:
        savepoint = request.tm.savepoint()
        if used:
            change(request)
        savepoint.rollback()
        return {}

    app = make(server.url, view, includes=[OURS, "pyramid_tm"], settings=TRANSACTIONAL)
    app.get("/")
    assert stored(app) == UNCHANGED


def test_untouched_transaction(server: Server) -> None:
    """A transaction, committed or aborted, without a use of the session costs no command."""

    def view(request: Request) -> dict[str, str]:
        if "doom" in request.params:
            request.tm.doom()
        return {}

    app = make(server.url, view, includes=[OURS, "pyramid_tm"], settings=TRANSACTIONAL)
    with app.watched.costs(0):
        app.get("/")
        app.get("/?doom=1")


def test_inactive_transaction_manager(server: Server) -> None:
    """Where tm.activate_hook leaves a request alone, the changes are written as usual."""
    settings = {**TRANSACTIONAL, "tm.activate_hook": lambda request: False}
    app = make(server.url, page, includes=[OURS, "pyramid_tm"], settings=settings)
    app.get("/")
    assert stored(app) == CHANGED


@pytest.mark.parametrize(
    ("includes", "settings"),
    [
        ([OURS], {}),
        ([OURS, "pyramid_tm"], {"pyramid.tweens": [NAME, TM]}),
        ([OURS, "pyramid_tm"], {"pyramid.tweens": [NAME, TRANSACTION]}),
        ([OURS, "pyramid_tm"], {"pyramid.tweens": [TM, TRANSACTION]}),
    ],
)
def test_transactional_without_its_tweens(
    server: Server, includes: list[str], settings: dict[str, object]
) -> None:
    """altsession.transactional without pyramid_tm or one of the tweens is an error at start."""
    with pytest.raises(ConfigurationError, match=r"altsession\.transactional"):
        make(server.url, page, includes=includes, settings={**TRANSACTIONAL, **settings})


def test_transactional_with_explicit_tweens(server: Server) -> None:
    """With all three tweens listed by hand it works."""
    tweens = [NAME, TM, TRANSACTION, *EXPLICIT.values()]
    app = make(
        server.url,
        page,
        includes=[OURS, "pyramid_tm"],
        settings={**TRANSACTIONAL, "pyramid.tweens": tweens},
    )
    app.get("/")
    assert stored(app) == CHANGED


# -- a write-back that fails


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that the test may make read-only."""
    server = valkey()
    yield server
    server.stop()


def read_only(server: Server) -> None:
    """Make it the replica of nobody."""
    server.client.replicaof("127.0.0.1", free_port())


@pytest.mark.parametrize("order", OURS_FIRST_AND_LAST, ids="-".join)
@pytest.mark.parametrize("transactional", ["false", "true"])
def test_read_only_server(own: Server, order: list[str], transactional: str) -> None:
    """A server made read-only during the request: a 503 page, and no cookie of a session that was
    not stored."""

    def view(request: Request) -> dict[str, str]:
        change(request)
        read_only(own)
        return {}

    app = make(own.url, view, includes=order, settings={"altsession.transactional": transactional})
    app.reset()
    response = app.get("/", status=503)
    assert (response.headers["Retry-After"], set_cookies(response)) == ("2", [])


def test_read_only_server_with_a_page_of_the_application(own: Server) -> None:
    """The application's exception view renders it, once, and may use the session itself."""
    rendered = []

    def sorry(request: Request) -> Response:
        rendered.append((type(request.exception), request.session.get("b", "not stored")))
        return Response("sorry", status=503)

    def view(request: Request) -> dict[str, str]:
        change(request)
        read_only(own)
        return {}

    app = make(
        own.url,
        view,
        configure=lambda config: config.add_exception_view(sorry, context=StoreUnavailable),
    )
    token = app.token
    response = app.get("/", status=503)
    assert (response.text, set_cookies(response)) == ("sorry", [])
    own.client.replicaof("NO", "ONE")
    assert stored(app) == UNCHANGED
    app.reset()
    response = app.get("/", status=503)
    assert (response.text, set_cookies(response)) == ("sorry", [])
    assert rendered == [(StoreUnavailable, "not stored")] * 2
    own.client.replicaof("NO", "ONE")
    (id,) = Behind(app.watched.store, own.client).ids()
    assert id == str(token).partition(".")[0]


def leaves(act: Callable[[Site], object]) -> Callable[[Request], Any]:
    """A view that changes request.session before something happens to the session."""

    def view(request: Request) -> dict[str, str]:
        change(request)
        act(request.registry.site)
        return {}

    return view


def ended(app: Site) -> None:
    """Signed out by another request of the same browser."""
    browser = Browser(app.api, app.token)
    in_threads(1, lambda number: browser.does(lambda session: session.invalidate()))


@implementer(IResponse)
class OwnResponse(webob.Response):
    """What a view may return in place of Pyramid's class."""


@pytest.mark.parametrize("status", [200, 500])
def test_response_of_another_class(server: Server, status: int) -> None:
    """The end of a request is the same whatever class provides the answer: changes are written
    before the answer, or not at all with a failure, and response callbacks may still use the
    session."""
    late: list[Any] = []

    def view(request: Request) -> Any:
        change(request)
        request.add_response_callback(lambda request, response: late.append(use(request)))
        return OwnResponse("page", status=status)

    def use(request: Request) -> Any:
        request.session["late"] = True
        return request.altsession.get("a")

    app = make(server.url, view)
    response = app.get("/", status=status)
    assert (response.text, response.headers["Vary"], late) == ("page", "Cookie", [1])
    assert stored(app) == (CHANGED | {"late": True} if status == 200 else UNCHANGED)


@pytest.mark.parametrize("order", OURS_FIRST_AND_LAST, ids="-".join)
@pytest.mark.parametrize("read_first", [True, False])
def test_gone_at_the_write_back(server: Server, order: list[str], read_first: bool) -> None:
    """A session that ended meanwhile: 409, no cookie, and nothing comes back to life."""

    def view(request: Request) -> dict[str, str]:
        if read_first:
            assert request.session["a"] == 1
        change(request)
        ended(app)
        return {}

    app = make(server.url, view, includes=order)
    response = app.get("/", status=409)
    (id,) = Behind(app.watched.store, server.client).ids()
    fields = Behind(app.watched.store, server.client).fields(id)
    assert (set_cookies(response), set(fields)) == ([], {"@x"})


def test_gone_with_a_page_of_the_application(server: Server) -> None:
    """The application's page for it is rendered once, though it changes the session as well."""
    rendered = []

    def again(request: Request) -> Response:
        rendered.append(request.exception)
        request.session.flash("try again")
        return Response("again", status=409)

    app = make(
        server.url,
        leaves(ended),
        configure=lambda config: config.add_exception_view(again, context=SessionGone),
    )
    app.registry.site = app
    assert app.get("/", status=409).text == "again"
    assert len(rendered) == 1


def test_gone_dropped(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """sync.on_gone = drop: the answer goes out, the changes are dropped, and the log says so."""
    app = make(server.url, leaves(ended), settings={"altsession.sync.on_gone": "drop"})
    app.registry.site = app
    with caplog.at_level(logging.WARNING, "pyramid_altsession"):
        response = app.get("/", status=200)
    (record,) = [r for r in caplog.records if "is lost" in r.getMessage()]
    assert str(app.token).partition(".")[2] not in record.getMessage()
    assert set_cookies(response) == []
    with pytest.raises(SessionGone):
        stored(app)


@pytest.mark.parametrize("status", [400, 500])
def test_not_json_at_the_write_back(server: Server, status: int) -> None:
    """A nested value that JSON cannot carry is rendered by the exception view, and nothing at all
    is written."""

    def view(request: Request) -> dict[str, str]:
        change(request)
        request.session["b"] = [1]
        request.session["b"].append(object())
        return {}

    def refuse(request: Request) -> Response:
        return Response(str(request.exception), status=status)

    app = make(
        server.url,
        view,
        configure=lambda config: config.add_exception_view(refuse, context=TypeError),
    )
    assert "'b'" in app.get("/", status=status)
    assert stored(app) == UNCHANGED


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("spoil", ["item", "message"])
@pytest.mark.parametrize("call", range(4))
def test_not_json_before_the_write_back(server: Server, call: int, spoil: str, status: int) -> None:
    """A call that meets such a value raises the error; the page for it can use the session all the
    same, and nothing at all is written."""

    def batch(request: Request) -> None:
        with request.altsession.batch() as batch:
            batch.set("c", 1)

    calls: list[Callable[[Request], object]] = [
        lambda request: request.altsession.get("c"),
        lambda request: request.altsession.set("c", 1),
        lambda request: request.session.flash("bye"),
        batch,
    ]

    def view(request: Request) -> dict[str, str]:
        change(request)
        if spoil == "item":
            request.session["b"] = [1]
            request.session["b"].append(object())
        else:
            message: list[object] = []
            request.session.flash(message)
            message.append(object())
        calls[call](request)
        return {}

    def refuse(request: Request) -> Response:
        known = request.altsession.get("a"), request.session.get("c"), request.altsession.userid()
        return Response(f"{request.exception} {known}", status=status)

    app = make(
        server.url,
        view,
        configure=lambda config: config.add_exception_view(refuse, context=TypeError),
    )
    assert "JSON cannot carry object" in app.get("/", status=status)
    assert stored(app) == UNCHANGED


def test_not_json_without_a_page(server: Server) -> None:
    """Without an exception view it is a TypeError for the WSGI server."""

    def view(request: Request) -> dict[str, str]:
        request.session["b"] = [1]
        request.session["b"].append(object())
        return {}

    app = make(server.url, view)
    with pytest.raises(TypeError, match="'b'"):
        app.get("/")
    assert stored(app) == UNCHANGED


def test_change_after_our_tween(server: Server) -> None:
    """What a response callback changes is written as well."""

    def view(request: Request) -> dict[str, str]:
        request.add_response_callback(lambda request, response: change(request))
        return {}

    app = make(server.url, view)
    app.get("/")
    assert stored(app) == CHANGED


# -- who serves request.session


def test_ours_is_served(server: Server) -> None:
    """request.session is ours and the same within a request."""

    def view(request: Request) -> list[bool]:
        session = request.session
        return [
            ISession.providedBy(session),
            session is request.session,
            type(session) is SyncSession,
        ]

    assert make(server.url, view).get("/").json == [True, True, True]


def test_off_by_default(server: Server) -> None:
    """Without sync.enabled the package serves no request.session."""
    app = make(
        server.url,
        lambda request: hasattr(request, "session"),
        settings={"altsession.sync.enabled": "false"},
    )
    assert app.get("/").json is False


THEIRS = SignedCookieSessionFactory("secret")


def include_theirs(config: Configurator) -> None:
    config.set_session_factory(THEIRS)


@pytest.mark.parametrize("where", ["constructor", "before", "after", "include", "include_before"])
def test_the_applications_factory_wins(
    server: Server, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The application's own session factory wins wherever it is set, and the log says that the
    setting does nothing."""
    settings = {"altsession.redis.url": server.url, "altsession.sync.enabled": "true"}
    config = Configurator(
        settings=settings, session_factory=THEIRS if where == "constructor" else None
    )
    if where == "before":
        config.set_session_factory(THEIRS)
    if where == "include_before":
        config.include(include_theirs)
    config.include(OURS)
    if where == "after":
        config.set_session_factory(THEIRS)
    if where == "include":
        config.include(include_theirs)
    config.add_route("root", "/")
    config.add_view(
        lambda request: isinstance(request.session, SyncSession),
        route_name="root",
        renderer="json",
    )
    assert Site(config.make_wsgi_app(), config.registry).get("/").json is False
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("sessions: altsession.sync.enabled does nothing")


def test_no_warning_of_another_factory(caplog: pytest.LogCaptureFixture) -> None:
    """Neither after a second include, nor if request.session is not asked for."""
    for enabled, theirs in (("true", False), ("false", True)):
        settings = {"altsession.redis.url": "memory://", "altsession.sync.enabled": enabled}
        config = Configurator(settings=settings)
        if theirs:
            include_theirs(config)
        config.include(OURS)
        config.commit()
        config.include(OURS)
        config.make_wsgi_app()
    assert "does nothing" not in caplog.text


RESTRICTED = {"altsession.sync.keys": "b _f_"}
FORBIDDEN: list[Callable[[Any], Any]] = [
    lambda s: s["a"],
    lambda s: s.get("a"),
    lambda s: "a" in s,
    lambda s: s.__setitem__("a", 1),
    lambda s: s.__delitem__("a"),
    lambda s: s.pop("a", None),
    lambda s: s.setdefault("a", 1),
    lambda s: s.update(a=1),
    lambda s: s.get_csrf_token(),
    lambda s: s.new_csrf_token(),
    lambda s: s.flash("x", "other"),
    lambda s: s.pop_flash("other"),
    lambda s: s.peek_flash("other"),
]


@pytest.mark.parametrize("use", range(len(FORBIDDEN)))
def test_keys_not_named(server: Server, use: int) -> None:
    """Touching a key that sync.keys does not name is a KeyError that names the setting, at no
    command."""

    def view(request: Request) -> str:
        with pytest.raises(KeyError, match=r"altsession\.sync\.keys"):
            FORBIDDEN[use](request.session)
        return "done"

    app = make(server.url, view, settings=RESTRICTED)
    with app.watched.costs(0):
        app.get("/")


def test_keys_named(server: Server) -> None:
    """The named keys work, and no other one is seen or removed."""

    def view(request: Request) -> list[str]:
        change(request)
        keys = sorted(request.session)
        request.session.clear()
        request.session["b"] = 2
        return keys

    app = make(server.url, view, settings=RESTRICTED)
    assert app.get("/").json == ["_f_", "b"]
    assert stored(app) == {"a": 1, "b": 2}


# -- what it costs


class Meter:
    """Bytes that arrive at a server."""

    def __init__(self, server: Server) -> None:
        self.client = server.client
        self.read()
        self.own = -self.read() + self.read()

    def read(self) -> int:
        return int(self.client.info("stats")["total_net_input_bytes"])

    def of(self, act: Callable[[], object]) -> int:
        before = self.read()
        act()
        return self.read() - before - self.own


def costing(server: Server, view: Callable[[Request], Any], keys: int = 100, **more: Any) -> Site:
    """A session of so many keys, with a list of its own at each, on a warm connection."""
    app = make(server.url, lambda request: (view(request), None)[1], **more)
    app.token = str(app.api.create({f"key{n}": [n] * 20 for n in range(keys)}).token)
    app.get("/")
    app.watched.operations.clear()
    return app


def test_cost_of_nothing(server: Server) -> None:
    """A request that has request.session at hand and does not use it costs no command, no byte."""
    app = costing(server, lambda request: request.session)
    assert Meter(server).of(lambda: app.get("/")) == 0
    assert app.watched.operations == []


def test_cost_of_reading(server: Server) -> None:
    """Reading one key of 100, as often as one likes, costs one packet that asks for one field."""
    app = costing(server, lambda request: [request.session["key5"], request.session.get("key5")])
    assert Meter(server).of(lambda: app.get("/")) < 250
    (read,) = app.watched.operations
    assert isinstance(read, Read)
    assert read.fields == ("key5",)


def test_cost_of_changing(server: Server) -> None:
    """Changing one key of 100 within costs one read and one script that carries one field, less
    than 400 bytes of it."""
    app = costing(server, lambda request: request.session["key5"].append(1))
    whole = Meter(server).of(lambda: app.get("/"))
    read, write = app.watched.operations
    assert isinstance(write, Write)
    assert (type(read), [verb.wire()[:2] for verb in write.verbs]) == (Read, [(b"set", b"key5")])
    reading = costing(server, lambda request: request.session["key5"])
    assert 0 < whole - Meter(server).of(lambda: reading.get("/")) < 400


def test_cost_of_writing(server: Server) -> None:
    """A request that only writes costs one round trip."""
    app = costing(server, lambda request: request.session.update(x=1, y=2))
    with app.watched.costs(1):
        app.get("/")


@pytest.mark.parametrize(
    "view",
    [
        lambda request: dict(request.session.items()),
        lambda request: len(request.session),
        lambda request: [request.session[key] for key in request.session],
    ],
)
def test_cost_of_everything(server: Server, view: Callable[[Request], Any]) -> None:
    """Iteration, len and all items cost one round trip."""
    app = costing(server, view)
    with app.watched.costs(1):
        app.get("/")


def test_prefetch_setting(server: Server) -> None:
    """The keys of session.prefetch come with the first read, whichever it is."""
    app = costing(
        server,
        lambda request: [
            request.session.get("other"),
            request.session["key1"],
            request.altsession.get("key2"),
        ],
        settings={"altsession.session.prefetch": "key1 key2"},
    )
    with app.watched.costs(1):
        app.get("/")


PREFETCHED: list[tuple[Callable[[Any], object], Any]] = [
    (lambda s: s.set("key1", "own"), "own"),
    (lambda s: s.pop("key1"), None),
    (lambda s: s.remove("key1"), None),
    (lambda s: s.login("ann"), [1] * 20),
    (lambda s: (s.login("ann"), s.login("bob")), None),
    (lambda s: s.invalidate(), None),
    (lambda s: (s.invalidate(), s.set("k", 1)), None),
]


@pytest.mark.parametrize("case", range(len(PREFETCHED)))
def test_prefetch_after_a_write(server: Server, case: int) -> None:
    """What is prefetched with the first read never takes the place of what the same request has
    written, or has ended, before."""
    act, expected = PREFETCHED[case]
    seen: list[Any] = []

    def view(request: Request) -> None:
        act(request.altsession)
        request.altsession.get("other")
        seen.append(request.altsession.get("key1"))

    settings = {"altsession.session.prefetch": "key1"}
    app = make(server.url, view, settings=settings)
    app.token = str(app.api.create({"key1": [1] * 20}).token)
    app.get("/")
    assert seen == [expected]


@pytest.mark.parametrize(
    "more",
    [
        {"altsession": ("key1", "key2", "key3")},
        {"altsession": "key1", "settings": {"altsession.session.prefetch": "key2 key3"}},
    ],
)
def test_view_option(server: Server, more: dict[str, Any]) -> None:
    """The view option altsession asks before the view begins, for the keys of session.prefetch
    too: one round trip in all, also for who is signed in."""
    app = costing(
        server,
        lambda request: [
            request.altsession.userid(),
            request.session["key1"],
            request.altsession.mget(["key2", "key3"]),
        ],
        **more,
    )
    with app.watched.costs(1):
        app.get("/")
    assert [type(operation) for operation in app.watched.operations[-1:]] == [Read]


def test_view_option_of_a_stranger(server: Server) -> None:
    """Without a cookie the view option costs nothing."""
    app = costing(server, lambda request: None, altsession=("key1",))
    app.reset()
    with app.watched.costs(0):
        app.get("/")


def test_view_option_of_an_idle_view(server: Server) -> None:
    """Keys that a view asked for and did not take: its connection serves on, nothing is left."""
    app = costing(server, lambda request: None, altsession=("key1",))
    for _ in range(5):
        with app.watched.costs(1):
            response = app.get("/")
    assert response.headers["Vary"] == "Cookie"
    pool = lease_in(app.watched.store)
    assert (len(idle_in(pool)), len(places_in(pool))) == (1, 1)


# -- with others


def test_csrf_view(server: Server) -> None:
    """Pyramid's default CSRF policy works: a form with the token passes, one without is refused."""

    def view(request: Request) -> str:
        return get_csrf_token(request)

    def configure(config: Configurator) -> None:
        config.add_route("form", "/form")
        config.add_view(view, route_name="form", renderer="json", require_csrf=True)

    app = make(server.url, view, configure=configure)
    token = app.get("/").json
    assert app.get("/").json == token
    app.post(
        "/form", {"csrf_token": "guess"}, status=400, headers={"Referer": "https://localhost/"}
    )
    same = app.post("/form", {"csrf_token": token}, headers={"Referer": "https://localhost/"})
    assert same.json == token


def test_debugtoolbar_session_panel(server: Server) -> None:
    """debugtoolbar's session panel shows the values, and writes nothing."""
    settings = {
        "debugtoolbar.active_panels": "session",
        "debugtoolbar.hosts": "127.0.0.1",
    }

    def view(request: Request) -> Response:
        request.session["panel"] = "shown there"
        return Response("<html><body></body></html>")

    for order in OURS_FIRST_AND_LAST:
        app = make(server.url, view, includes=order, settings=settings)
        response = app.get("/")
        assert "_debug_toolbar" in response
        assert stored(app) == {"a": 1, "panel": "shown there"}


def test_forbidden_page_may_write(server: Server) -> None:
    """A 403 page's own changes are written: where to go after the sign-in."""

    def forbidden(request: Request) -> Response:
        request.session["came_from"] = request.path
        return Response(status=403)

    def view(request: Request) -> None:
        raise HTTPForbidden

    app = make(server.url, view, configure=lambda config: config.add_forbidden_view(forbidden))
    app.get("/", status=403)
    assert stored(app) == {"a": 1, "came_from": "/"}


def test_session_of_the_write_back(server: Server) -> None:
    """A session that was made by the write-back is alive for the answer: Vary, no-store, cookie."""
    app = make(server.url, page)
    app.reset()
    response = app.get("/")
    assert (len(set_cookies(response)), response.headers["Cache-Control"]) == (1, "no-store")
    assert response.headers["Vary"] == "Cookie"


@pytest.mark.parametrize("active", ["", "session"])
def test_debugtoolbar_over_an_error_page(own: Server, active: str) -> None:
    """debugtoolbar's panel, which looks at every session, leaves the 503 page as it is."""

    def view(request: Request) -> dict[str, str]:
        change(request)
        own.kill()
        return {}

    settings = {"debugtoolbar.active_panels": active}
    app = make(own.url, view, includes=INCLUDES, settings=settings)
    app.get("/", status=503)


def test_debugtoolbar_over_dropped_changes(server: Server) -> None:
    """With sync.on_gone = drop the panel does not fail either."""
    app = make(
        server.url,
        leaves(ended),
        includes=INCLUDES,
        settings={"altsession.sync.on_gone": "drop"},
    )
    app.registry.site = app
    app.get("/", status=200)


def test_subrequest_that_fails_is_no_report(server: Server) -> None:
    """A subrequest's error page leaves the outer request's session readable."""

    def inner(request: Request) -> None:
        raise StoreUnavailable("a moment")

    def view(request: Request) -> list[Any]:
        sub = Request.blank("/inner", headers={"Cookie": request.headers["Cookie"]})
        assert request.session is not None
        return [request.invoke_subrequest(sub, use_tweens=True).status_int, request.session["a"]]

    def configure(config: Configurator) -> None:
        config.add_route("inner", "/inner")
        config.add_view(inner, route_name="inner", renderer="json")

    assert make(server.url, view, configure=configure).get("/").json == [503, 1]


def test_commit_within_the_view(server: Server) -> None:
    """A view that commits by itself, and so leaves the transaction, has its changes written at the
    end of the request."""

    def view(request: Request) -> dict[str, str]:
        change(request)
        request.tm.commit()
        request.tm.begin()
        return {}

    app = make(server.url, view, includes=[OURS, "pyramid_tm"], settings=TRANSACTIONAL)
    app.get("/")
    assert stored(app) == CHANGED


def test_attempt_after_an_error_page(server: Server) -> None:
    """An attempt after one that ended with an error page of ours reads the session as usual."""

    def view(request: Request) -> int:
        if request.environ["retry.attempt"] == 0:
            assert request.session["a"] == 1
            error = StoreUnavailable("a moment")
            mark_error_retryable(error)
            raise error
        value: int = request.session["a"]
        return value

    assert make(server.url, view, includes=[OURS, "pyramid_retry"]).get("/").json == 1


def test_committed_midway(server: Server) -> None:
    """A commit in the middle of a request writes no session: whether the request succeeds is not
    known yet."""
    seen = []

    def view(request: Request) -> dict[str, str]:
        request.session["a"] = 2
        request.tm.commit()
        seen.append(stored(app)["a"])
        request.tm.begin()
        return {}

    app = make(server.url, view, includes=[OURS, "pyramid_tm"], settings=TRANSACTIONAL)
    app.get("/")
    assert seen == [1]
