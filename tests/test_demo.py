"""The demo shop, from outside: through ``main``, in memory and on a real server."""

import configparser
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from bs4 import Tag
from servers import Server, valkey
from webtest import TestApp, TestResponse

from pyramid_altsession.demo import main
from pyramid_altsession.demo.products import PRODUCTS, price
from pyramid_altsession.demo.texts import TEXTS
from pyramid_altsession.interfaces import ISessionAPI

CART = ("language", *(product.key for product in PRODUCTS.values()))
"""The keys that every page of the shop reads."""


def shop_on(url: str, **settings: str) -> TestApp:
    return TestApp(
        main({}, **{"altsession.redis.url": url, "altsession.session.secure": "false", **settings})
    )


@contextmanager
def opened(url: str, **settings: str) -> Iterator[TestApp]:
    shop = shop_on(url, **settings)
    yield shop
    shop.app.registry.getUtility(ISessionAPI).close()


@pytest.fixture(params=["memory", "valkey"])
def shop(request: pytest.FixtureRequest) -> Iterator[TestApp]:
    """The shop on each kind of store."""
    url = "memory://"
    if request.param == "valkey":
        url = request.getfixturevalue("server").url
    with opened(url) as shop:
        yield shop


@pytest.fixture
def valkey_shop(server: Server) -> Iterator[TestApp]:
    with opened(server.url) as shop:
        yield shop


@dataclass
class Row:
    """A row of the panel, as a visitor reads it."""

    what: str
    sent: int
    received: int
    trips: int
    microseconds: int


@dataclass
class Section:
    """What the panel says of one request."""

    request: str
    sum: str
    rows: list[Row]


def text_of(element: Tag) -> str:
    return " ".join(element.get_text(" ").split())


def row_of(row: Tag) -> Row:
    numbers = [int(cell.text) for cell in row.find_all("td")]
    return Row(text_of(row.th), *numbers)


def panel(page: TestResponse) -> list[Section]:
    return [
        Section(
            text_of(section.h3), text_of(section.p), [row_of(r) for r in section.select("tbody tr")]
        )
        for section in page.html.find("aside").find_all("section")
    ]


def asked(page: TestResponse) -> list[list[str]]:
    return [[row.what for row in section.rows] for section in panel(page)]


def press(page: TestResponse, action: str, **button: str) -> TestResponse:
    """Press a button of the page's form for ``action``."""
    (form,) = {id(form): form for form in page.forms.values() if form.action == action}.values()
    for name, value in button.items():
        return form.submit(name, value=value)
    return form.submit()


READ = "Read get " + " ".join(CART)


# -- cart


def test_what_is_added_is_in_the_cart(shop: TestApp) -> None:
    """A product added twice and another one once are in the cart, with their sum."""
    for action in ("/cart/cup/add", "/cart/cup/add", "/cart/honey/add"):
        press(shop.get("/"), action)
    text = text_of(shop.get("/cart").html.table)
    assert "Cup and saucer 2 × €25.00 Remove Linden honey 1 × €7.20" in text
    assert "Total €32.20" in text


def test_what_is_removed_is_not_in_the_cart(shop: TestApp) -> None:
    """Removing one product leaves the other."""
    for action in ("/cart/cup/add", "/cart/honey/add"):
        press(shop.get("/"), action)
    page = press(shop.get("/cart"), "/cart/cup/remove").follow()
    assert [product.id for product in PRODUCTS.values() if product.name["en"] in page] == ["honey"]


def test_the_cart_is_counted_on_every_page(shop: TestApp) -> None:
    """The navigation says how many things are in the cart."""
    press(shop.get("/"), "/cart/cup/add")
    press(shop.get("/"), "/cart/honey/add")
    counts = [shop.get(path).html.find(class_="badge").text for path in ("/", "/cart", "/counter")]
    assert counts == ["2", "2", "2"]


def test_removing_from_nothing_makes_no_session(shop: TestApp) -> None:
    """A remove without a session asks nothing and sets no cookie."""
    answer = shop.post("/cart/cup/remove")
    assert answer.headers.getall("Set-Cookie") == []
    assert asked(answer.follow()) == [[], []]


def test_a_product_that_does_not_exist_is_not_found(shop: TestApp) -> None:
    """Adding an unknown product is 404, and makes no session."""
    answer = shop.post("/cart/samovar/add", status=404)
    assert answer.headers.getall("Set-Cookie") == []
    assert "There is no such page" in answer


# -- counter


def test_the_counter_counts_presses(shop: TestApp) -> None:
    """Each press adds one, and the page shows the sum."""
    for _ in range(3):
        page = press(shop.get("/counter"), "/counter").follow()
    assert page.html.find(id="counted").text == "3"


def test_two_tabs_hammer_the_counter(valkey_shop: TestApp) -> None:
    """Of 4 × 50 presses with one cookie at once none is lost."""
    valkey_shop.post("/counter")
    cookie = f"sid={valkey_shop.cookies['sid']}"

    def tab() -> None:
        browser = TestApp(valkey_shop.app)
        for _ in range(50):
            browser.post("/counter", headers={"Cookie": cookie}, status=303)

    tabs = [threading.Thread(target=tab) for _ in range(4)]
    for thread in tabs:
        thread.start()
    for thread in tabs:
        thread.join()
    assert valkey_shop.get("/counter").html.find(id="counted").text == "201"


# -- language


def test_the_chosen_language_speaks_on_every_page(shop: TestApp) -> None:
    """After choosing Deutsch the shop's pages are German, and say so."""
    press(shop.get("/"), "/language", language="de")
    spoken = [shop.get(path).html.html["lang"] for path in ("/", "/cart", "/counter")]
    assert spoken == ["de", "de", "de"]
    assert "Sortiment" in shop.get("/")


def test_before_a_choice_the_browser_decides(shop: TestApp) -> None:
    """Without a choice in the session the Accept-Language header chooses."""
    page = shop.get("/", headers={"Accept-Language": "fr, de;q=0.9, en;q=0.5"})
    assert page.html.html["lang"] == "de"


def test_an_unknown_language_is_refused(shop: TestApp) -> None:
    """A language that the shop does not speak is 400, and stored nowhere."""
    answer = shop.post("/language", {"language": "tlh"}, status=400)
    assert answer.headers.getall("Set-Cookie") == []


def test_every_language_says_everything() -> None:
    """All languages have the same texts, products included."""
    assert len({frozenset(texts) for texts in TEXTS.values()}) == 1
    assert {frozenset(p.name) for p in PRODUCTS.values()} == {frozenset(TEXTS)}
    assert {frozenset(p.line) for p in PRODUCTS.values()} == {frozenset(TEXTS)}


@pytest.mark.parametrize(("language", "written"), [("en", "€12.05"), ("de", "12,05 €")])
def test_prices_are_written_as_the_language_does(language: str, written: str) -> None:
    """Cents become euros, with the language's separator and place of the sign."""
    assert price(1205, language) == written


# -- signing out


def test_signing_out_forgets_everything(shop: TestApp) -> None:
    """After signing out cart and language are gone, and so is the cookie."""
    press(shop.get("/"), "/cart/cup/add")
    press(shop.get("/"), "/language", language="de")
    page = press(shop.get("/cart"), "/sign-out").follow()
    assert "sid" not in shop.cookies
    assert (page.html.html["lang"], page.html.find(class_="badge")) == ("en", None)


def test_signing_out_leaves_nothing_on_the_server(valkey_shop: TestApp, server: Server) -> None:
    """Of a session that was signed out the server keeps a tombstone alone."""
    valkey_shop.post("/cart/cup/add")
    valkey_shop.post("/sign-out")
    (key,) = server.client.keys()
    assert server.client.hkeys(key) == [b"@x"]


# -- the panel


def test_a_page_asks_once(shop: TestApp) -> None:
    """A page with a live session is one read of the keys that it shows."""
    shop.post("/cart/cup/add")
    assert [asked(shop.get(path)) for path in ("/", "/cart", "/counter")] == [
        [[READ]], [[READ]], [[READ + " counter"]],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "fields", "row"),
    [
        ("/cart/cup/add", {}, "Write increment cart.cup"),
        ("/cart/cup/remove", {}, "Write remove cart.cup"),
        ("/counter", {}, "Write increment counter"),
        ("/language", {"language": "en"}, "Write set language"),
        ("/sign-out", {}, "Write invalidate"),
    ],
)
def test_the_panel_shows_what_a_form_wrote(
    shop: TestApp, path: str, fields: dict[str, str], row: str
) -> None:
    """The page after a form shows the one write of the form's own request first."""
    shop.post("/cart/honey/add")
    section = panel(shop.post(path, fields).follow())[0]
    assert (section.request, [r.what for r in section.rows]) == (f"Before it POST {path}", [row])


def test_the_panel_shows_that_a_session_was_made(shop: TestApp) -> None:
    """The first write of a visitor is told from the later ones."""
    rows = asked(shop.post("/counter").follow())[0]
    assert rows == ["New session increment counter"]


def test_the_panel_shows_what_a_dead_cookie_costs(valkey_shop: TestApp, server: Server) -> None:
    """With a cookie whose session is forgotten a write asks twice: dead, then a new session."""
    valkey_shop.post("/counter")
    server.client.flushall()
    rows = asked(valkey_shop.post("/counter").follow())[0]
    assert rows == ["Write increment → dead counter", "New session increment counter"]


def test_a_visitor_without_a_cookie_costs_nothing(shop: TestApp) -> None:
    """Looking at the shop without a session asks the server nothing and sets no cookie."""
    page = shop.get("/")
    assert page.headers.getall("Set-Cookie") == []
    assert [section.sum for section in panel(page)] == ["0 operations, 0 round trips"]


def test_the_about_page_does_not_use_the_session(shop: TestApp) -> None:
    """With a live session the about page asks nothing and says nothing about cookies."""
    shop.post("/counter")
    page = shop.get("/about")
    assert [section.sum for section in panel(page)] == ["0 operations, 0 round trips"]
    assert (page.headers.getall("Set-Cookie"), page.headers["Vary"]) == ([], "Accept-Language")


def test_nothing_travels_in_memory() -> None:
    """Without a server the panel's bytes and round trips are 0."""
    with opened("memory://") as shop:
        (row,) = panel(shop.post("/counter").follow())[0].rows
    assert (row.sent, row.received, row.trips) == (0, 0, 0)


def traffic(server: Server) -> tuple[int, int]:
    """Bytes in and out, as the server counts them."""
    stats = server.client.info("stats")
    return stats["total_net_input_bytes"], stats["total_net_output_bytes"]


def travelled(server: Server, act: Callable[[], object]) -> tuple[int, int]:
    """Bytes that reached and left the server for ``act``, without those of our asking."""
    start = traffic(server)
    middle = traffic(server)
    act()
    end = traffic(server)
    return end[0] - 2 * middle[0] + start[0], end[1] - 2 * middle[1] + start[1]


@pytest.mark.parametrize("path", ["/", "/counter"])
def test_the_panel_counts_the_bytes_that_travel(
    valkey_shop: TestApp, server: Server, path: str
) -> None:
    """Bytes out are those the server received; bytes in those it sent, to a few of INFO's own."""
    valkey_shop.post("/counter")
    pages: list[TestResponse] = []
    received, sent = travelled(server, lambda: pages.append(valkey_shop.get(path)))
    ((row,),) = [section.rows for section in panel(pages[0])]
    assert row.sent == received
    assert abs(row.received - sent) <= 8  # the numbers in INFO grow a digit


def test_the_panel_counts_round_trips(valkey_shop: TestApp, server: Server) -> None:
    """One for a write; two when the server does not know the script yet."""
    valkey_shop.post("/counter")
    server.client.script_flush()
    twice = valkey_shop.post("/counter").follow()
    once = valkey_shop.post("/counter").follow()
    assert [panel(page)[0].rows[0].trips for page in (twice, once)] == [2, 1]


def test_the_size_of_the_session_costs_a_page_nothing(valkey_shop: TestApp, server: Server) -> None:
    """A page's bytes are the same with another 60 kB in the session."""
    valkey_shop.post("/counter")
    (key,) = server.client.keys()
    small = panel(valkey_shop.get("/counter"))[0].rows[0]
    server.client.hset(key, "report", "x" * 60_000)
    large = panel(valkey_shop.get("/counter"))[0].rows[0]
    assert (large.sent, large.received) == (small.sent, small.received)


def test_the_panel_shows_microseconds(valkey_shop: TestApp) -> None:
    """An operation takes some time, and less than the whole request."""
    valkey_shop.post("/counter")
    began = time.perf_counter()
    (row,) = panel(valkey_shop.get("/"))[0].rows
    assert 0 < row.microseconds < (time.perf_counter() - began) * 1e6


def test_a_trace_is_shown_to_who_knows_its_name_alone(shop: TestApp) -> None:
    """A made-up name in the address shows this page's own trace and no other."""
    shop.post("/counter")
    assert [s.request for s in panel(shop.get("/?after=guess"))] == ["This page GET /"]


# -- what goes wrong


@pytest.fixture
def away() -> Iterator[TestApp]:
    """A shop with a live session, whose server went away."""
    server = valkey()
    with opened(server.url) as shop:
        shop.post("/counter")
        server.stop()
        yield shop


@pytest.mark.parametrize("path", ["/", "/cart", "/counter"])
def test_without_a_server_a_page_says_to_try_again(away: TestApp, path: str) -> None:
    """An outage is a 503 page in the shop's dress, with a link to the same page."""
    page = away.get(path, status=503)
    assert (page.headers["Retry-After"], page.headers["Cache-Control"]) == ("2", "no-store")
    assert page.html.main.find("a")["href"] == path


def test_without_a_server_a_form_leads_back(away: TestApp) -> None:
    """A form that failed links to the page that it was on."""
    page = away.post("/counter", headers={"Referer": "http://localhost:80/"}, status=503)
    assert page.html.main.find("a")["href"] == "/"


def test_the_panel_shows_the_failure(away: TestApp) -> None:
    """The operation that failed is on the page, with the error and no round trip."""
    (section,) = panel(away.get("/", status=503))
    assert [(row.what, row.trips) for row in section.rows] == [
        (f"Read get → StoreUnavailable {' '.join(CART)}", 0)
    ]


def test_without_a_server_the_about_page_is_there(away: TestApp) -> None:
    """A page that does not use the session does not notice the outage."""
    assert away.get("/about").status_int == 200


def test_a_request_that_lost_its_session_gets_a_page() -> None:
    """A write with a cookie signed out moments ago is 409, with a link to go on."""
    with opened("memory://") as shop:
        shop.post("/counter")
        cookie = f"sid={shop.cookies['sid']}"
        shop.post("/sign-out")
        page = shop.post("/counter", headers={"Cookie": cookie}, status=409)
    assert (page.html.h1.text, page.html.main.find("a")["href"]) == ("Your session has ended", "/")
    assert page.headers.getall("Set-Cookie") == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:81"])
def test_a_form_of_another_site_is_refused(origin: str) -> None:
    """A POST whose Origin is not ours is 400 and does nothing."""
    with opened("memory://") as shop:
        answer = shop.post("/counter", headers={"Origin": origin}, status=400)
        assert answer.headers.getall("Set-Cookie") == []


def test_a_form_of_ours_is_taken() -> None:
    """A POST whose Origin is ours is carried out."""
    with opened("memory://") as shop:
        host = {"Origin": "http://localhost:6543", "Host": "localhost:6543"}
        assert shop.post("/counter", headers=host).status_int == 303


@pytest.mark.parametrize(
    ("referrer", "back"),
    [
        ("http://localhost/cart?after=x", "/cart"),
        ("http://localhost//evil.example/", "/"),
        ("https://evil.example/cart", "/"),
        ("http://localhost", "/"),
    ],
)
def test_a_form_leads_to_pages_of_ours_alone(referrer: str, back: str) -> None:
    """The way back is the path of our own page, else the catalogue."""
    with opened("memory://") as shop:
        headers = {"Referer": referrer, "Host": "localhost"}
        answer = shop.post("/language", {"language": "de"}, headers=headers)
    assert answer.location.partition("?")[0] == f"http://localhost{back}"


def test_pages_load_nothing_from_outside() -> None:
    """Every page forbids other sites' content, and names none."""
    with opened("memory://") as shop:
        pages = [shop.get(path) for path in ("/", "/cart", "/counter", "/about")]
    assert {"default-src 'none'" in page.headers["Content-Security-Policy"] for page in pages} == {
        True
    }
    assert [re.findall(r"""(?:src|href|action)=["'](?:[a-z]+:)?//""", p.text) for p in pages] == [
        [], [], [], [],
    ]  # fmt: skip


# -- development.ini


def test_the_ini_file_runs_the_shop() -> None:
    """main takes development.ini's settings: a server of its own, a cookie for plain http."""
    found = configparser.ConfigParser()
    found.read(Path(__file__).parents[1] / "development.ini")
    settings = dict(found["app:main"])
    assert settings.pop("use") == "egg:pyramid_altsession#demo"
    api = main({}, **settings).registry.getUtility(ISessionAPI)
    assert (api.settings.redis.url, api.settings.session.secure) == ("embedded://", False)


def test_every_line_of_the_ini_file_is_explained() -> None:
    """A comment stands above each line of development.ini."""
    lines = (Path(__file__).parents[1] / "development.ini").read_text().splitlines()
    bare = [
        line
        for above, line in pairwise(["", *lines])
        if line and not line.startswith("#") and not above.startswith("#")
    ]
    assert bare == []
