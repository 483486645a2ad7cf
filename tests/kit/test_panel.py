"""The panel of pyramid_debugtoolbar, as the toolbar renders it."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bs4 import BeautifulSoup
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from servers import Server
from webtest import TestApp

from pyramid_altsession import ISessionAPI, SessionAPI

LOCAL = {"wsgi.url_scheme": "https", "REMOTE_ADDR": "127.0.0.1"}


class Page:
    """The panel of the newest request."""

    def __init__(self, text: str) -> None:
        soup = BeautifulSoup(text, "html.parser")
        self.panel = soup.find(id="pDebugPanel-altsession-content") or soup
        self.text = " ".join(self.panel.get_text(" ").split())
        self.advice = [found.get_text().strip() for found in self.panel.select(".alert")]
        self.rows = [
            [" ".join(cell.get_text(" ").split()) for cell in row.find_all("td")]
            for row in self.panel.select("tbody tr")
        ]


class Toolbar:
    def __init__(self, settings: dict[str, Any], view: Callable[[Request], object]) -> None:
        def page(request: Request) -> Response:
            view(request)
            return Response("<html><body>shop</body></html>")

        config = Configurator(
            settings={
                "debugtoolbar.includes": "pyramid_altsession.debugtoolbar",
                "debugtoolbar.panels": "altsession headers",  # the one for sessions reads them all
                "altsession.sync.enabled": "true",
                **settings,
            }
        )
        config.include("pyramid_debugtoolbar")
        if "altsession.redis.url" in settings:
            config.include("pyramid_altsession")
        config.add_route("page", "/page")
        config.add_view(page, route_name="page")
        self.browser = TestApp(config.make_wsgi_app(), extra_environ=LOCAL)
        self.registry = config.registry

    @property
    def api(self) -> SessionAPI:
        return self.registry.getUtility(ISessionAPI)

    def come_back(self) -> None:
        """The browser has been here before."""
        self.browser.set_cookie("sid", str(self.api.create().token))

    def visit(self) -> Page:
        """Ask for the page, and then for the toolbar's own, as its button does."""
        answer = self.browser.get("/page")
        (link,) = re.findall(r'href="[^"]*/(_debug_toolbar/[^"]+)" target', answer.text)
        return Page(self.browser.get(f"/{link}").text)


@pytest.fixture
def toolbar(server: Server) -> Iterator[Callable[..., Toolbar]]:
    made = []

    def make(view: Callable[[Request], object], **settings: Any) -> Toolbar:
        given = {f"altsession.{name}": value for name, value in settings.items()}
        made.append(Toolbar({"altsession.redis.url": server.url, **given}, view))
        made[-1].api.check()  # connects, and loads the script
        return made[-1]

    yield make
    for each in made:
        each.api.close()


def test_operations_in_order(toolbar: Callable[..., Toolbar]) -> None:
    """A row for each operation, in order, with keys, what became of the session, and its costs."""

    def view(request: Request) -> None:
        session = request.altsession
        session.mset({"cart": "secret tea", "theme": "dark"})
        session.mget(["theme", "language"], fresh=True)
        session.renew()
        session.invalidate()

    page = toolbar(view).visit()
    assert [row[:5] for row in page.rows] == [
        ["1", "create: set, set", "cart theme", "live", "1"],
        ["2", "read: get", "theme language", "live", "1"],
        ["3", "write: renew", "", "renewed", "1"],
        ["4", "write: invalidate", "", "ended", "1"],
    ]
    assert all(int(sent) and int(got) and int(took) for *_, sent, got, took in page.rows)
    assert page.text.startswith("altsession 4 operations, 4 round trips, ")
    assert "secret tea" not in page.text
    assert page.advice == []


@pytest.mark.slow
def test_gone(toolbar: Callable[..., Toolbar]) -> None:
    """A cookie that opens no session is seen at a glance."""
    shop = toolbar(lambda request: request.altsession.get("cart"))
    token = shop.api.create().token
    shop.browser.set_cookie("sid", token)
    shop.api.open(token).invalidate()
    page = shop.visit()
    assert [row[3] for row in page.rows] == ["gone"]


@pytest.mark.slow
def test_nothing_secret(toolbar: Callable[..., Toolbar]) -> None:
    """Values are shown only where the setting says so; the cookie and the CSRF token never."""
    seen: list[str] = []

    def view(request: Request) -> None:
        session = request.altsession
        session.set("cart", "green tea")
        session.set("visits", 7, ttl=60)
        seen.append(request.session.new_csrf_token())
        session.increment("visits")
        session.pop("cart")
        with session.batch() as batch:
            batch.get("visits")
            batch.all()
        session.all(fresh=True)
        request.session.flash("saved")
        session.login("ann")
        seen.append(session.driver.state.current.verifier)

    shop = toolbar(view, debugtoolbar_values="true")
    page = shop.visit()
    csrf_token, verifier = seen
    assert csrf_token not in page.text
    assert verifier not in page.text
    shown = [row[2] for row in page.rows]
    assert shown[:4] == ['cart = "green tea"', "visits = 7", "visits = 8", 'cart = "green tea"']
    assert "visits = 8" in shown[4]


def test_values_are_cut(toolbar: Callable[..., Toolbar]) -> None:
    view = lambda request: request.altsession.set("cart", "x" * 1000)  # noqa: E731
    page = toolbar(view, debugtoolbar_values="true").visit()
    assert page.rows[0][2] == 'cart = "' + "x" * 199 + "…"


def test_after_the_response(toolbar: Callable[..., Toolbar]) -> None:
    """What comes after the response belongs to the request: a cookie that is renewed then, and a
    prefetch that nobody used."""

    def view(request: Request) -> None:
        if request.altsession.userid() is None:
            request.altsession.login("ann")
        request.altsession.prefetch("cart")

    shop = toolbar(view, **{"session.renew_after": "0.001"})
    shop.visit()
    page = shop.visit()
    assert [row[1:4] for row in page.rows[-2:]] == [
        ["read: get", "cart", ""],
        ["write: rotate", "", "renewed"],
    ]


def test_single_gets(toolbar: Callable[..., Toolbar]) -> None:
    """Five gets that one mget would serve are pointed out, with the call to make instead."""

    def view(request: Request) -> None:
        for key in "abcde":
            request.altsession.get(key)

    shop = toolbar(view)
    shop.come_back()
    (advice,) = shop.visit().advice
    assert advice == (
        "5 keys were read one by one; one round trip fetches them all:"
        " request.altsession.mget(['a', 'b', 'c', 'd', 'e'])"
    )


def test_second_flash_queue(toolbar: Callable[..., Toolbar]) -> None:
    """A second flash queue is pointed out, with the setting that brings it along; with that
    setting it is not."""

    def view(request: Request) -> None:
        request.session.peek_flash()
        request.session.peek_flash("error")

    shop = toolbar(view)
    shop.come_back()
    (advice,) = shop.visit().advice
    assert advice.endswith("with the setting: altsession.session.prefetch = _f_ _f_error")
    better = toolbar(view, **{"session.prefetch": "_f_ _f_error"})
    better.come_back()
    assert better.visit().advice == []


def test_further_sessions(toolbar: Callable[..., Toolbar]) -> None:
    """What is asked of another session than the first is in the list, with its name; advice is for
    each session."""

    def view(request: Request) -> None:
        for key in ("a", "b", "c"):
            request.altsession_admin.get(key)
            request.altsession.get(key)

    shop = toolbar(view, sessions="admin")
    shop.come_back()
    admin = shop.registry.getUtility(ISessionAPI, "admin")
    shop.browser.set_cookie("sid_admin", str(admin.create().token))
    page = shop.visit()
    admin.close()
    assert [row[1] for row in page.rows] == ["read: get altsession_admin", "read: get"] * 3
    assert [line.partition(": request")[2] for line in page.advice] == [
        ".altsession_admin.mget(['a', 'b', 'c'])",
        ".altsession.mget(['a', 'b', 'c'])",
    ]


def test_unused(toolbar: Callable[..., Toolbar]) -> None:
    page = toolbar(lambda request: None).visit()
    assert page.text.endswith("This request did not use its session.")


@pytest.mark.slow
def test_one_observer(toolbar: Callable[..., Toolbar]) -> None:
    """However many requests there are, each operation is written down once."""
    shop = toolbar(lambda request: request.altsession.get("cart", fresh=True))
    shop.come_back()
    assert [len(shop.visit().rows) for _ in range(3)] == [1, 1, 1]


def test_without_the_package() -> None:
    """An application that does not include the package has an empty panel."""
    text = Toolbar({}, lambda request: None).visit().text
    assert "This request did not use its session" not in text
