"""The demo's outage switch and its product pages, on an embedded server that is really stopped."""

import configparser
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from waitress.server import create_server
from webtest import TestApp, TestResponse
from workers import eventually

from pyramid_altsession.demo import halt, main
from pyramid_altsession.demo.outage import SWITCH, Switch, process_id
from pyramid_altsession.demo.products import PRODUCTS
from pyramid_altsession.errors import StoreUnavailable
from pyramid_altsession.interfaces import ISessionAPI
from pyramid_altsession.stores import supervisor
from pyramid_altsession.testing import PrivateServer, private_server

pytestmark = pytest.mark.process

HERE = {"REMOTE_ADDR": "127.0.0.1"}
OURS = {"Origin": "http://localhost"}
"""What a browser sends with a form of the shop."""


def shop_on(url: str, **settings: str) -> TestApp:
    asked = {
        "altsession.redis.url": url,
        "altsession.session.secure": "false",
        "altsession.sync.enabled": "true",
        "altsession.session.prefetch": "_csrft_ _f_",
        **settings,
    }
    return TestApp(main({}, **asked), extra_environ=HERE)


@pytest.fixture
def server() -> Iterator[PrivateServer]:
    with private_server() as found:
        yield found


@pytest.fixture
def shop(server: PrivateServer) -> Iterator[TestApp]:
    """A shop that waits for its server as long as it takes, with a teapot in the visitor's cart."""
    shop = shop_on(server.url)
    shop.post("/cart/teapot/add")
    yield shop
    switch_of(shop).start()


@pytest.fixture
def hasty(server: PrivateServer, shop: TestApp) -> TestApp:
    """The same visitor in the same shop, which soon gives up waiting."""
    soon = {"altsession.redis.timeout": "0.05", "altsession.redis.connect_timeout": "0.05"}
    hasty = shop_on(server.url, **soon)
    hasty.cookiejar = shop.cookiejar
    hasty.app.registry[SWITCH] = switch_of(shop)
    with suppress(StoreUnavailable):  # as a busy machine may take longer than that
        hasty.app.registry.getUtility(ISessionAPI).check()
    return hasty


def switch_of(shop: TestApp) -> Switch:
    return shop.app.registry[SWITCH]


def text_of(page: TestResponse) -> str:
    return " ".join(page.html.main.get_text(" ").split())


def press(shop: TestApp) -> TestResponse:
    """The only button of the switch's page; the page that follows."""
    (form,) = shop.get("/outage").forms.values()
    return form.submit(headers=OURS).follow()


# -- the switch


def test_while_the_server_is_stopped(shop: TestApp, hasty: TestApp) -> None:
    """The cart is a 503 that leads back to the switch, a product is shown without the cart, what
    does not use the session comes as always; then all is as before."""
    page = shop.get("/outage")
    assert "The session server is running." in page
    assert "no-cache" in page.headers["Cache-Control"]
    assert "The session server is stopped." in press(shop)
    cart = hasty.get("/cart", status=503)
    assert "Back in a moment" in text_of(cart)
    assert "You have stopped the session server yourself." in text_of(cart)
    assert [link["href"] for link in cart.html.main("a")] == ["/outage", "/cart"]
    product = hasty.get("/product/teapot", status=200)
    assert "We cannot see your cart or your sign-in just now." in text_of(product)
    assert (list(product.forms), product.headers["Cache-Control"]) == ([], "no-store")
    assert hasty.get("/about").status_int == 200
    assert TestApp(hasty.app).get("/cart").status_int == 200  # without a session
    assert "The session server is running." in press(shop)
    assert "Teapot 1 ×" in text_of(shop.get("/cart"))
    assert "1 in the cart" in text_of(shop.get("/product/teapot"))


def test_the_page_says_what_to_try(shop: TestApp) -> None:
    """It names the words of the page that follows, the seconds of waiting and those of the outage;
    its links are pages of the shop. It asks nothing of the session."""
    page = shop.get("/outage")
    text = text_of(page)
    assert "answers “Back in a moment”, with status 503" in text
    assert "after 60 seconds at the latest" in text
    assert "waits at most 30 s" in text
    assert [shop.get(link["href"]).status_int for link in page.html.main("a")] == [200] * 3
    assert "0 operations" in page.html.aside.get_text()
    german = shop.get("/outage", headers={"Accept-Language": "de"})
    assert "antwortet dann „Gleich wieder da“" in text_of(german)


def test_a_second_press_changes_nothing(shop: TestApp) -> None:
    """Stopping what is stopped is no error and takes no answer of it; nor is starting what runs."""
    for path, said in [("stop", "stopped"), ("stop", "stopped"), ("start", "running")] * 2:
        page = shop.post(f"/outage/{path}", headers=OURS).follow()
        assert f"The session server is {said}." in page
    assert "running" in shop.post("/outage/start", headers=OURS).follow()


def test_it_goes_on_by_itself(shop: TestApp) -> None:
    """After its time, with nobody pressing anything; and it can be stopped again."""
    switch_of(shop).seconds = 0
    for _ in range(2):
        shop.post("/outage/stop", headers=OURS)
        assert eventually(lambda: not switch_of(shop).off)
        assert "Teapot 1 ×" in text_of(shop.get("/cart"))


STOPS = """
import os, signal, sys
from pyramid_altsession.demo.outage import Switch

switch = Switch()
switch.stop(sys.argv[1])
print(switch.off, flush=True)
os.killpg(0, signal.SIGKILL)
"""


def test_it_goes_on_when_the_shop_is_killed(shop: TestApp, server: PrivateServer) -> None:
    """Whoever kills the shop, with all that its terminal started, leaves no stopped server."""
    command = [sys.executable, "-c", STOPS, server.url]
    done = subprocess.run(command, stdout=subprocess.PIPE, start_new_session=True)
    assert (done.stdout, done.returncode) == (b"True\n", -signal.SIGKILL)
    assert "Teapot 1 ×" in text_of(shop.get("/cart"))


def halting(pid: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, halt.__file__, str(pid), "600"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize("how", ["closed", "SIGTERM"])
def test_a_process_is_stopped_and_goes_on(how: str) -> None:
    """The script stops it and says so. It goes on when the script's input is closed, and when
    the script is ended."""
    with subprocess.Popen(["sleep", "600"]) as process:
        with halting(process.pid) as script:
            assert script.stdout.read(1) == b"+"
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            if how == "SIGTERM":
                script.terminate()
            else:
                script.stdin.close()
            os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        process.kill()
    assert script.returncode == 0


def test_a_process_that_is_gone_is_not_stopped() -> None:
    """The script then ends with an error, having said nothing."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    said, error = halting(process.pid).communicate()
    assert (said, error.splitlines()[-1]) == (b"", b"ProcessLookupError: [Errno 3] No such process")


def test_a_server_that_does_not_answer(
    shop: TestApp, server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that somebody else has stopped: the switch's form is a 503, and the switch is not off."""
    pid = process_id(server.url)
    os.kill(pid, signal.SIGSTOP)
    try:
        monkeypatch.setattr(supervisor, "PATIENCE", 0.05)
        assert "Back in a moment" in shop.post("/outage/stop", headers=OURS, status=503)
        assert not switch_of(shop).off
        with pytest.raises(StoreUnavailable, match="the outage switch found no server to stop"):
            process_id(server.url)
    finally:
        os.kill(pid, signal.SIGCONT)


ELSEWHERE = [
    {"REMOTE_ADDR": "192.0.2.7"},
    {"HTTP_HOST": "shop.example"},
    {"HTTP_HOST": "["},
    {"HTTP_X_FORWARDED_FOR": "192.0.2.7"},
    {"HTTP_FORWARDED": "for=192.0.2.7"},
    {"HTTP_VIA": "1.1 proxy"},
    {"HTTP_X_REAL_IP": "192.0.2.7"},
]
HOSTS = ("localhost", "localhost:6543", "127.0.0.1:6543", "[::1]:6543")


def offered(shop: TestApp, environ: dict[str, str]) -> list[str]:
    """The pages that link to the switch."""
    pages = {path: shop.get(path, extra_environ=environ) for path in ("/", "/about")}
    return [path for path, page in pages.items() if page.html.find("a", href="/outage")]


def answers(shop: TestApp, environ: dict[str, str]) -> list[int]:
    """To who asks for the switch's page and sends its forms."""
    origin = {"Origin": f"http://{environ.get('HTTP_HOST', 'localhost')}"}
    asked = {"extra_environ": environ, "expect_errors": True}
    page = shop.get("/outage", **asked)
    forms = [shop.post(f"/outage/{path}", headers=origin, **asked) for path in ("stop", "start")]
    return [answer.status_int for answer in (page, *forms)]


def test_there_is_none_for_other_machines(server: PrivateServer) -> None:
    """From another address, under another name or by a proxy the switch is 404 and no page links
    to it. No server is started for that."""
    shop = shop_on(server.url)
    for environ in ELSEWHERE:
        assert (offered(shop, environ), answers(shop, environ)) == ([], [404] * 3), environ
    assert not Path(urlsplit(server.url).path).exists()


def test_waitress_hides_no_proxy(server: PrivateServer) -> None:
    """Nor is there one by a proxy where waitress serves the shop as development.ini says."""
    file = configparser.ConfigParser()
    file.read(Path(__file__).parents[2] / "development.ini")
    settings = dict(file["server:main"]) | {"listen": "127.0.0.1:0"}
    assert settings.pop("use") == "egg:waitress#main"
    waitress = create_server(shop_on(server.url).app, **settings)
    shop = TestApp(waitress.application, extra_environ=HERE)
    statuses = [answers(shop, environ) for environ in ({}, *ELSEWHERE)]
    waitress.task_dispatcher.shutdown()
    waitress.close()
    assert statuses == [[200, 303, 303], *[[404] * 3 for _ in ELSEWHERE]]


def test_there_is_one_for_this_machine(shop: TestApp) -> None:
    """By whatever name the browser on the same machine calls it; home and about link to it."""
    for address in ("127.0.0.1", "::1"):
        for host in HOSTS:
            environ = {"REMOTE_ADDR": address, "HTTP_HOST": host}
            assert offered(shop, environ) == ["/", "/about"], environ
            assert answers(shop, environ) == [200, 303, 303], environ


@pytest.mark.parametrize("url", ["memory://", "redis://localhost", "unix:///nowhere"])
def test_there_is_none_for_other_servers(url: str) -> None:
    """Only the server that the shop has started itself can be stopped."""
    shop = shop_on(url)
    assert (offered(shop, HERE), answers(shop, HERE)) == ([], [404] * 3)


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "https://evil.example"}, {"Origin": "null"}], ids=repr
)
def test_a_form_of_no_page_of_ours_is_refused(shop: TestApp, headers: dict[str, str]) -> None:
    """Another site cannot stop the server, nor start it."""
    for path in ("stop", "start"):
        shop.post(f"/outage/{path}", headers=headers, status=400)
        assert not switch_of(shop).off


def test_a_signed_in_visitor_needs_no_token(shop: TestApp, hasty: TestApp) -> None:
    """Whose other forms have a CSRF token, which nobody could read while the server is away."""
    form = shop.get("/sign-in").forms
    (sign_in,) = (each for each in form.values() if each.action == "/sign-in")
    sign_in["name"] = "Ann"
    sign_in.submit()
    press(shop)
    assert "stopped" in hasty.get("/outage")
    assert "running" in hasty.post("/outage/start", headers=OURS).follow()


# -- product pages


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_product_has_a_page(language: str) -> None:
    """The list leads to it; it describes the product, and its form adds it to the cart."""
    shop = shop_on("memory://")
    shop.post("/language", {"language": language})
    for product in PRODUCTS.values():
        link = shop.get("/").html.find(id=product.id).a
        assert link.text == product.name[language]
        page = shop.get(link["href"])
        assert page.html.h1.text == product.name[language]
        assert product.line[language] in text_of(page)
        assert product.about[language] in text_of(page)
        (form,) = {
            id(form): form for form in page.forms.values() if form.action.endswith("/add")
        }.values()
        assert form.submit().follow().html.main.find(id=product.id) is not None
        assert page.html.find(class_="has") is None
        assert shop.get(link["href"]).html.find(class_="has").text[0] == "1"


def test_a_product_page_costs_one_read() -> None:
    """The panel says so; without a session it asks nothing and sets no cookie."""
    shop = shop_on("memory://")
    page = shop.get("/product/cup")
    assert "0 operations" in page.html.aside.get_text()
    assert page.headers.getall("Set-Cookie") == []
    shop.post("/counter")
    assert "1 operation," in shop.get("/product/cup").html.aside.get_text()


def test_a_product_that_does_not_exist_has_none() -> None:
    """An unknown product is 404, and asks nothing."""
    page = shop_on("memory://").get("/product/samovar", status=404)
    assert "There is no such page" in page
    assert "0 operations" in page.html.aside.get_text()


def test_every_product_is_described_in_every_language() -> None:
    names = {frozenset(product.name) for product in PRODUCTS.values()}
    assert {frozenset(product.about) for product in PRODUCTS.values()} == names
