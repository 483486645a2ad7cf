"""What the application is told at start, and at the first use of what cannot work."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from apps import Site, site
from inside import store_in
from pyramid import testing
from pyramid.authentication import SessionAuthenticationHelper, SessionAuthenticationPolicy
from pyramid.authorization import ACLAuthorizationPolicy
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.session import SignedCookieSessionFactory
from webtest import TestApp
from workers import FORK

from pyramid_altsession import ISessionAPI, SessionAPI
from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import RedisSettings
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.web.security import AltSessionAuthenticationHelper
from pyramid_altsession.web.transaction import TM

MEMORY = {"altsession.redis.url": "memory://"}
SYNC = MEMORY | {"altsession.sync.enabled": "true"}


def started(settings: dict[str, Any], *includes: str, policy: object = None) -> Configurator:
    config = Configurator(settings=settings)
    config.include("pyramid_altsession")
    for include in includes:
        config.include(include)
    if policy is not None:
        config.set_security_policy(policy)
    config.make_wsgi_app()
    return config


def warnings(caplog: pytest.LogCaptureFixture, about: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if about in r.getMessage()]


# -- no server


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"altsessions.redis.url": "redis://db"},
        {"altsession.session.tti": "60"},
        {"altsession.redis.password": "x", "altsession.redis.db": "1"},
        {"altsession.redis.url": ""},
    ],
    ids=str,
)
def test_no_server(settings: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing says where the server is, it is taken to be on this host, and a warning names
    the setting: a misspelt section would be overlooked."""
    started(settings)
    (warning,) = warnings(caplog, "no server is configured")
    assert "altsession.redis.url" in warning
    assert "localhost:6379" in warning


@pytest.mark.parametrize(
    "where",
    [
        {"url": "redis://localhost"},
        {"host": "localhost"},
        {"port": "6379"},
        {"socket": "/run/valkey.sock"},
        {"url": "memory://"},
    ],
    ids=str,
)
def test_some_server(where: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """Who says so, be it what holds anyway, is not warned."""
    started({f"altsession.redis.{name}": value for name, value in where.items()})
    assert warnings(caplog, "no server") == []
    assert read_settings({"redis": where}).redis.configured


def test_no_server_in_a_unit_test(caplog: pytest.LogCaptureFixture) -> None:
    """Its sessions are in memory, and no application is made."""
    with testing.testConfig() as config:
        config.include("pyramid_altsession")
        config.testing_altsession().set("k", 1)
    assert warnings(caplog, "no server") == []


@pytest.mark.parametrize("kind", [SessionAPI, AsyncSessionAPI])
def test_no_server_without_pyramid(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A script's own object warns as well; one with a store of its own has nothing to warn of."""
    kind.from_settings({"session.tti": 60})
    assert len(warnings(caplog, "no server is configured")) == 1
    kind(read_settings({}), store=MemoryStore())
    assert len(warnings(caplog, "no server is configured")) == 1


def test_configured_is_no_setting() -> None:
    """Whether a server is configured is not itself a setting, nor part of what settings are."""
    with pytest.raises(ConfigurationError, match="there is no such setting"):
        read_settings({"redis.configured": True})
    assert read_settings({"redis.host": "localhost"}).redis == RedisSettings()
    assert read_settings({}) == read_settings({"redis.host": "localhost"})


# -- memory:// in several processes


def several_processes(request: Request) -> Any:
    return request.altsession.increment("n")


def test_memory_in_several_workers(caplog: pytest.LogCaptureFixture) -> None:
    """A server of several processes whose workers keep sessions in memory is told once, with the
    setting's name."""
    app = site("memory://", {"n": several_processes})
    app.extra_environ["wsgi.multiprocess"] = True
    for _ in range(2):
        app.get("/n")
        app.reset()
    (warning,) = warnings(caplog, "memory://")
    assert "altsession.redis.url = memory://" in warning


def test_memory_in_one_worker(caplog: pytest.LogCaptureFixture) -> None:
    """A server of one process is not."""
    app = site("memory://", {"n": several_processes})
    app.get("/n")
    assert warnings(caplog, "memory://") == []


def test_server_in_several_workers(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nor are several workers with a server."""
    app = site(server.url, {"n": several_processes})
    app.extra_environ["wsgi.multiprocess"] = True
    app.get("/n")
    assert warnings(caplog, "memory://") == []


def told_in_a_child(api: SessionAPI, told: Path) -> None:
    logging.getLogger("pyramid_altsession").handlers = [logging.FileHandler(told)]
    api.create()
    api.create()
    logging.shutdown()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_memory_after_a_fork(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A child that uses its parent's memory store is told once; the parent is not."""
    api = SessionAPI.from_settings({"redis.url": "memory://"})
    told = tmp_path / "told"
    child = FORK.Process(target=told_in_a_child, args=(api, told))
    child.start()
    child.join()
    api.create()
    (line,) = told.read_text().splitlines()
    assert "altsession.redis.url = memory://" in line
    assert warnings(caplog, "memory://") == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_while_another_thread_uses_the_memory() -> None:
    """The child does not wait for that thread, which it does not have."""
    busy, forked = threading.Event(), threading.Event()

    def clock() -> float:
        if threading.current_thread() is thread:
            busy.set()
            forked.wait()
        return 1e9

    store = MemoryStore(clock)
    api = SessionAPI(read_settings({}), store=store)
    thread = threading.Thread(target=api.create)
    thread.start()
    busy.wait()
    child = FORK.Process(target=api.create)
    child.start()
    child.join(20)
    child.kill()
    child.join()
    forked.set()
    thread.join()
    assert child.exitcode == 0


def test_memory_of_another_process(caplog: pytest.LogCaptureFixture) -> None:
    """The store remembers the process that made it, and tells once in another."""
    store = MemoryStore()
    store._process = -1
    api = SessionAPI(read_settings({}), store=store)
    api.create()
    api.create()
    assert len(warnings(caplog, "altsession.redis.url = memory://")) == 1


def test_memory_without_a_fork(caplog: pytest.LogCaptureFixture) -> None:
    """Several threads are one process."""
    api = SessionAPI.from_settings({"redis.url": "memory://"})
    thread = threading.Thread(target=api.create)
    thread.start()
    thread.join()
    api.create()
    assert warnings(caplog, "memory://") == []


# -- pyramid_tm's note of who is signed in


class Policy:
    """As the documentation has it."""

    def __init__(self) -> None:
        helper = AltSessionAuthenticationHelper()
        self.authenticated_userid = self.identity = helper.authenticated_userid


class Keeping:
    """Keeps the helper."""

    def __init__(self) -> None:
        self.helper = AltSessionAuthenticationHelper()


class OfTheClass:
    __slots__ = ()
    helper = AltSessionAuthenticationHelper()


class Itself(AltSessionAuthenticationHelper):
    pass


class ByHand:
    def identity(self, request: Request) -> Any:
        return request.altsession.get("user")


class OfPyramid:
    def __init__(self) -> None:
        self.helper = SessionAuthenticationHelper()


class Other:
    """Asks no session."""

    name = "other"
    identity = None

    def authenticated_userid(self, request: Request) -> None:
        return None


POLICIES = [Policy, Keeping, OfTheClass, Itself, ByHand]
ANNOTATES = "tm.annotate_user = false"


@pytest.mark.parametrize("policy", POLICIES)
def test_annotate_user(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A policy that asks the session, beside pyramid_tm, which asks the policy in every request."""
    started(MEMORY, "pyramid_tm", policy=policy())
    assert len(warnings(caplog, ANNOTATES)) == 1


def test_annotate_user_of_request_session(caplog: pytest.LogCaptureFixture) -> None:
    """So is Pyramid's own helper, where request.session is the same session."""
    started(SYNC, "pyramid_tm", policy=OfPyramid())
    assert len(warnings(caplog, ANNOTATES)) == 1


@pytest.mark.filterwarnings("ignore:Authentication and authorization policies")
def test_annotate_user_of_an_old_policy(caplog: pytest.LogCaptureFixture) -> None:
    """And Pyramid's authentication policy of old."""
    config = Configurator(settings=SYNC)
    config.include("pyramid_altsession")
    config.include("pyramid_tm")
    config.set_authentication_policy(SessionAuthenticationPolicy())
    config.set_authorization_policy(ACLAuthorizationPolicy())
    config.commit()
    assert len(warnings(caplog, ANNOTATES)) == 1


def test_annotate_user_of_listed_tweens(caplog: pytest.LogCaptureFixture) -> None:
    """A tween that ``pyramid.tweens`` lists counts, and one that it leaves out does not."""
    for tweens, told in (([TM], 1), (["pyramid_altsession.tween.altsession_tween_factory"], 0)):
        caplog.clear()
        started(MEMORY | {"pyramid.tweens": tweens}, "pyramid_tm", policy=Policy())
        assert len(warnings(caplog, ANNOTATES)) == told


@pytest.mark.parametrize(
    ("settings", "includes", "policy"),
    [
        (MEMORY, [], Policy()),
        (MEMORY, ["pyramid_tm"], None),
        (MEMORY, ["pyramid_tm"], Other()),
        (MEMORY, ["pyramid_tm"], OfPyramid()),
        (SYNC, ["pyramid_tm"], Other()),
        (MEMORY | {"tm.annotate_user": "false"}, ["pyramid_tm"], Policy()),
        (MEMORY | {"tm.annotate_user": False}, ["pyramid_tm"], Policy()),
    ],
)
def test_no_false_alarm(
    settings: dict[str, Any], includes: list[str], policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said without pyramid_tm, without its note, or where a policy asks no session."""
    started(settings, *includes, policy=policy)
    assert warnings(caplog, ANNOTATES) == []


# -- request.session where nobody serves it


def failure(request: Request) -> dict[str, str]:
    try:
        request.session["k"] = 1
    except AttributeError as error:
        return {"said": str(error), "has": str(hasattr(request, "session"))}
    return {"said": "", "has": "True"}


def test_request_session_is_not_served() -> None:
    """Who uses it without the setting is told the setting's name, in Pyramid's kind of error."""
    told = site("memory://", {"use": failure}).get("/use").json
    assert "altsession.sync.enabled" in told["said"]
    assert told["has"] == "False"


def test_request_session_of_the_application(caplog: pytest.LogCaptureFixture) -> None:
    """The application's own factory serves it, whenever it is set."""

    def own(config: Configurator) -> None:
        config.set_session_factory(SignedCookieSessionFactory("a secret of the application"))

    for configure in (own, lambda config: (config.commit(), own(config))):
        browser = site("memory://", {"use": failure}, configure=configure)
        assert browser.get("/use").json == {"said": "", "has": "True"}


def test_debugtoolbar_without_request_session() -> None:
    """pyramid_debugtoolbar, which looks for it, goes on."""
    config = Configurator(settings=MEMORY)
    config.include("pyramid_altsession")
    config.include("pyramid_debugtoolbar")
    config.add_route("use", "/use")
    config.add_view(failure, route_name="use", renderer="json")
    page = TestApp(config.make_wsgi_app(), extra_environ={"REMOTE_ADDR": "127.0.0.1"}).get("/use")
    assert page.json["has"] == "False"


# -- where an error comes from


def test_line_of_the_include() -> None:
    """A mistake in the settings points at the line that includes the package."""
    config = Configurator(settings={"altsession.session.ttl": "1"})
    config.include("pyramid_altsession")
    with pytest.raises(ConfigurationError) as caught:
        config.commit()
    assert "of file None" not in str(caught.value)
    assert f"of file {__file__}" in str(caught.value)
    assert 'config.include("pyramid_altsession")' in str(caught.value)


def test_line_of_other_mistakes() -> None:
    """So do those that are found later."""
    config = Configurator(settings=SYNC | {"altsession.transactional": "true"})
    config.include("pyramid_altsession")
    with pytest.raises(ConfigurationError, match="needs pyramid_tm") as caught:
        config.commit()
    assert f"of file {__file__}" in str(caught.value)


def test_included_by_the_settings() -> None:
    """``pyramid.includes`` names a line too."""
    settings = {"altsession.session.ttl": "1", "pyramid.includes": "pyramid_altsession"}
    with pytest.raises(ConfigurationError) as caught:
        Configurator(settings=settings).commit()
    assert "of file None" not in str(caught.value)


def test_registry_without_settings() -> None:
    """A registry that has no settings at all has the defaults."""
    config = Configurator(Registry())
    config.include("pyramid_altsession")
    config.commit()
    assert config.registry.getUtility(ISessionAPI).settings == read_settings({})


# -- what other programs left


@pytest.mark.parametrize("url", ["memory://", "server"])
@pytest.mark.parametrize("codec", ["", "pyramid_altsession.codecs.encrypted"])
def test_field_without_a_name(url: str, codec: str, server: Any) -> None:
    """A field whose name is empty is no key: it is not shown, and stands in nobody's way."""
    settings: dict[str, Any] = {"redis.url": server.url if url == "server" else url}
    if codec:
        settings |= {"session.codec": codec, "session.codec_secret": "x" * 16}
    api = SessionAPI.from_settings(settings)
    made = api.create({"k": 1})
    if url == "server":
        server.client.hset(f"sess:{made.id}", "", b"1")
    else:
        getattr(store_in(api), "store", store_in(api)).hashes[made.id][""] = b"1"
    session = api.open(str(made.token))
    assert (session.all(), session.keys()) == ({"k": 1}, ["k"])
    with session.batch() as batch:
        everything, names, _ = batch.all(), batch.keys(), batch.set("m", 2)
        after = batch.all()
    assert (everything.result(), names.result()) == ({"k": 1}, ["k"])
    assert after.result() == {"k": 1, "m": 2}
    assert session.all(fresh=True) == {"k": 1, "m": 2}
    api.close()


def test_field_without_a_name_in_request_session(server: Any) -> None:
    """``request.session`` does not meet it either, nor does what clears it."""

    def clear(request: Request) -> Any:
        names = list(request.session)
        request.session.clear()
        return names

    browser: Site = site(
        server.url,
        {"set": lambda r: r.altsession.set("k", 1), "clear": clear},
        settings={"altsession.sync.enabled": "true"},
    )
    browser.get("/set")
    id = str(browser.token).partition(".")[0]
    server.client.hset(f"sess:{id}", "", b"1")
    assert browser.get("/clear").json == ["k"]
    assert server.client.hkeys(f"sess:{id}").count(b"k") == 0
