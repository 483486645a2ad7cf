"""Several sessions in one application: each with a cookie, keys and times of its own."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apps import Site, site
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from pyramid.response import Response
from servers import Server

from pyramid_altsession import AltSession, ISessionAPI, SessionAPI, SessionGone
from pyramid_altsession.config.sessions import read_sessions

TWO = {"altsession.sessions": "admin"}


def put(request: Request) -> None:
    request.altsession.set("cart", "tea")


def admin_put(request: Request) -> None:
    request.altsession_admin.set("cart", "files")


def both(request: Request) -> list[Any]:
    return [request.altsession.get("cart"), request.altsession_admin.get("cart")]


def put_both(request: Request) -> None:
    put(request)
    admin_put(request)


def leave(request: Request) -> None:
    request.altsession_admin.invalidate()


VIEWS: dict[str, Callable[[Request], Any]] = {
    "put": put,
    "admin_put": admin_put,
    "put_both": put_both,
    "both": both,
    "leave": leave,
    "neither": lambda request: "nothing",
}


@pytest.fixture(params=["memory", "valkey"])
def shop(request: pytest.FixtureRequest) -> Site:
    """With a session for visitors and one for administrators."""
    url = "memory://"
    if request.param != "memory":
        server: Server = request.getfixturevalue("server")
        url = server.url
    return site(url, VIEWS, settings=TWO)


def test_each_has_its_own(shop: Site) -> None:
    """One key name, two values; each session has its own cookie, and ends without the other."""
    shop.get("/put")
    assert set(shop.cookies) == {"sid"}
    shop.get("/admin_put")
    assert set(shop.cookies) == {"sid", "sid_admin"}
    assert shop.get("/both").json == ["tea", "files"]
    shop.get("/leave")
    assert shop.get("/both").json == ["tea", None]


def test_two_cookies_in_one_answer(shop: Site) -> None:
    """Both are first written in one request: its answer has both cookies."""
    names = [
        value.partition("=")[0] for value in shop.get("/put_both").headers.getall("Set-Cookie")
    ]
    assert sorted(names) == ["sid", "sid_admin"]
    assert shop.get("/both").json == ["tea", "files"]


def test_a_request_that_uses_neither(shop: Site) -> None:
    answer = shop.get("/neither")
    assert "Vary" not in answer.headers
    assert "Set-Cookie" not in answer.headers


def test_the_keys_on_the_server(server: Server) -> None:
    """They stand apart, under prefixes of their own."""
    shop = site(server.url, VIEWS, settings=TWO)
    shop.get("/put_both")
    prefixes = {key.partition(b":")[0] for key in server.client.keys("*")}
    assert prefixes == {b"sess", b"sess_admin"}


def test_times_of_their_own(server: Server) -> None:
    """The settings of a further session are its own; it takes the server of the first."""
    shop = site(server.url, VIEWS, settings={**TWO, "altsession_admin.session.tti": "60"})
    shop.get("/put_both")
    lasts = {key.partition(b":")[0]: server.client.pttl(key) for key in server.client.keys("*")}
    assert lasts[b"sess_admin"] < 100_000 < lasts[b"sess"]


def test_each_with_its_user(shop: Site) -> None:
    """A visitor can be signed in as one user in the shop and as another one in its back office."""
    api: SessionAPI = shop.api
    sessions = {"sid": api.create(), "sid_admin": further(shop).create()}
    sessions["sid"].login("ann")
    sessions["sid_admin"].login("root")
    assert [info.id for info in api.sessions_of("ann")] == [sessions["sid"].id]
    assert [info.id for info in further(shop).sessions_of("root")] == [sessions["sid_admin"].id]
    assert list(api.sessions_of("root")) == []
    assert further(shop).invalidate_user("root") == 1
    with pytest.raises(SessionGone):
        sessions["sid_admin"].set("cart", "files")
    assert sessions["sid"].userid() == "ann"


def further(shop: Site) -> SessionAPI:
    api: SessionAPI = shop.registry.getUtility(ISessionAPI, "admin")
    return api


def test_a_subrequest_shares_both() -> None:
    """What a subrequest begins is there for the request around it, and its cookies go out."""

    def around(request: Request) -> list[Any]:
        for tweens in (True, False):
            sub = Request.blank("/put_both", environ={"wsgi.url_scheme": "https"})
            sub.environ = request.environ | sub.environ
            request.invoke_subrequest(sub, use_tweens=tweens)
        return both(request)

    shop = site("memory://", {**VIEWS, "around": around}, settings=TWO)
    assert shop.get("/around").json == ["tea", "files"]
    assert set(shop.cookies) == {"sid", "sid_admin"}


def test_errors_are_each_their_own_answer(shop: Site) -> None:
    """A dead session of one kind is its 409, whatever the other one is; it is not asked."""
    shop.get("/put_both")
    token = shop.cookies["sid_admin"]
    further(shop).invalidate_id(token.partition(".")[0])
    assert shop.get("/put").status_int == 200
    answer = shop.get("/both")
    assert answer.json == ["tea", None]


def test_in_response_callbacks() -> None:
    """Both can still be used while the answer goes out; their own callbacks come last."""

    def late(request: Request) -> Response:
        def use(request: Request, response: Response) -> None:
            put_both(request)

        request.add_response_callback(use)
        return Response("late")

    shop = site("memory://", {**VIEWS, "late": late}, settings=TWO)
    shop.get("/late")
    assert shop.get("/both").json == ["tea", "files"]


@pytest.mark.parametrize("signed_in", [False, True])
def test_after_the_answer(signed_in: bool) -> None:
    """No cookie can be sent any more, whichever session was used first."""
    said: list[str] = []

    def late(request: Request) -> Response:
        def body() -> Iterator[bytes]:
            request.altsession.get("cart")
            for act in (admin_put, lambda request: request.altsession_admin.login("root")):
                with suppress(SessionGone):
                    try:
                        act(request)
                    except RuntimeError as error:
                        said.append(str(error))
            yield b"late"

        return Response(app_iter=body())

    shop = site("memory://", {**VIEWS, "late": late}, settings=TWO)
    if signed_in:
        shop.get("/put_both")
    shop.get("/late")
    refused = ["the session's cookie cannot be sent any more" in each for each in said]
    assert refused == ([True] if signed_in else [True, True])  # a set needs no cookie then
    assert shop.get("/both").json == (["tea", "files"] if signed_in else [None, None])


def test_testing_altsession() -> None:
    """``config.testing_altsession`` puts all of them into memory."""
    config = Configurator(settings={**TWO, "altsession.redis.url": "redis://nowhere.invalid"})
    config.include("pyramid_altsession")
    config.testing_altsession({"cart": "tea"})
    config.commit()
    api: SessionAPI = config.registry.getUtility(ISessionAPI, "admin")
    session: AltSession = api.create({"cart": "files"})
    assert session.get("cart") == "files"


def test_a_file_of_its_own(tmp_path: Path) -> None:
    """``altsession_admin.config`` names a YAML file."""
    path = tmp_path / "admin.yaml"
    path.write_text("session:\n  tti: 60\n  cookie_name: backoffice\n")
    given = {**TWO, "altsession.redis.url": "redis://a", "altsession_admin.config": str(path)}
    admin = read_sessions(given)["admin"]
    assert (admin.session.tti, admin.session.cookie_name) == (60, "backoffice")
    assert (admin.session.prefix, admin.redis.host) == ("sess_admin", "a")


def test_a_server_of_its_own() -> None:
    given = {**TWO, "altsession.redis.url": "redis://a", "altsession_admin.redis.url": "redis://b"}
    found = read_sessions({**given, "altsession_admin.session.prefix": "sess"})
    assert {name: each.redis.host for name, each in found.items()} == {"": "a", "admin": "b"}


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [("timeout", "3", 3.0), ("db", "2", 2), ("username", "clerk", "clerk")],
)
def test_the_first_server_in_other_words(name: str, value: str, read: object) -> None:
    """Settings of the server that do not say where it is change only what they say."""
    given = {
        "altsession.redis.url": "redis://shop@a:7000/1",
        f"altsession_admin.redis.{name}": value,
    }
    first, admin = read_sessions({**TWO, **given}).values()
    assert admin.redis == replace(first.redis, **{name: read})


def test_a_password_in_place_of_the_first_file() -> None:
    given = {"altsession.redis.url": "redis://a", "altsession.redis.password_file": "/run/secret"}
    admin = read_sessions({**TWO, **given, "altsession_admin.redis.password": "word"})["admin"]
    assert (admin.redis.password, admin.redis.password_file) == ("word", None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"altsession_admin.session.tti": "soon"},
            "altsession_admin.session.tti: must be a number of seconds above 0 and at most"
            " 9999999999, not 'soon'",
        ),
        (
            {"altsession_admin.session.timeot": "1"},
            "altsession_admin.session.timeot: there is no such setting; did you mean"
            " altsession_admin.session.",
        ),
        (
            {"altsession_admin.session.cookie_name": "sid"},
            "altsession_admin.session.cookie_name: must be another than that of altsession, 'sid'",
        ),
        (
            {"altsession_admin.session.prefix": "sess:admin"},
            "altsession_admin.session.prefix: its keys must stand apart from those of altsession;"
            " 'sess:admin' and 'sess' do not",
        ),
        (
            {"altsession_admin.session.prefix": "sess", "altsession_admin.redis.timeout": "3"},
            "altsession_admin.session.prefix: its keys must stand apart from those of altsession;"
            " 'sess' and 'sess' do not",
        ),
        (
            {
                "altsession_admin.session.prefix": "sess",
                "altsession_admin.redis.url": "redis://clerk@a:6379/0",
            },
            "altsession_admin.session.prefix: its keys must stand apart from those of altsession;"
            " 'sess' and 'sess' do not",
        ),
        (
            {"altsession_admin.sync.enabled": "true"},
            "altsession_admin.sync: request.session is that of altsession; remove it",
        ),
        (
            {"altsession_admin.admin_permission": "view"},
            "altsession_admin.admin_permission: is a setting of the application; remove it",
        ),
        *[
            (
                {"altsession.redis.url": "embedded://", f"altsession_admin.redis.{name}": "word"},
                f"altsession_admin.redis.{name}: embedded:// has no users and no passwords;"
                " remove it",
            )
            for name in ("username", "auth_pass", "password_file")
        ],
        (
            {"altsession.sessions": "Admin"},
            "altsession.sessions: must be a list of names, each of a-z, 0-9 and _ and beginning"
            " with a letter, not 'Admin'",
        ),
        ({"altsession.sessions": 7}, "altsession.sessions: must be a list of names"),
    ],
)
def test_faults(given: dict[str, object], message: str) -> None:
    """One message names the setting as it is written for that session."""
    with pytest.raises(ConfigurationError) as info:
        read_sessions({**TWO, "altsession.redis.url": "redis://a", **given})
    assert message in str(info.value)
