"""The demo shop, from outside: through ``main``, in memory and on a real server."""

import configparser
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from bs4 import Tag
from inside import idle_in, lease_in, store_in
from jinja2.bccache import Bucket, BytecodeCache
from pyramid.router import Router
from servers import Server, valkey
from webtest import Form, TestApp, TestResponse

from pyramid_altsession.demo import main, why
from pyramid_altsession.demo.account import ago
from pyramid_altsession.demo.products import PRODUCTS, price
from pyramid_altsession.demo.recorder import KEPT
from pyramid_altsession.demo.texts import TEXTS
from pyramid_altsession.interfaces import ISessionAPI
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.traffic import Traffic

pytestmark = pytest.mark.volume  # whole pages, of a shop that is not part of what is measured

CART = ("language", *(product.key for product in PRODUCTS.values()))
"""The keys that every page of the shop reads."""
PAGES = ("/", "/cart", "/counter", "/why", "/about", "/sign-in", "/account", "/account/address")


def ini_file() -> dict[str, str]:
    """The shop's settings in development.ini."""
    found = configparser.ConfigParser()
    found.read(Path(__file__).parents[2] / "development.ini")
    settings = dict(found["app:main"])
    assert settings.pop("use") == "egg:pyramid_altsession#demo"
    return settings


class Compiled(BytecodeCache):
    """The templates, compiled once for all shops of this process."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key + bucket.checksum in self.held:
            bucket.bytecode_from_string(self.held[bucket.key + bucket.checksum])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.held[bucket.key + bucket.checksum] = bucket.bytecode_to_string()


VISITOR = {"REMOTE_ADDR": "192.0.2.7"}
COMPILED = {"jinja2.bytecode_caching": Compiled()}


def shop_on(url: str, **settings: str) -> TestApp:
    app = main({}, **ini_file() | COMPILED | {"altsession.redis.url": url, **settings})
    return TestApp(app, extra_environ=VISITOR)


@contextmanager
def opened(url: str, **settings: str) -> Iterator[TestApp]:
    shop = shop_on(url, **settings)
    yield shop
    shop.app.registry.getUtility(ISessionAPI).close()


Shops = Callable[..., AbstractContextManager[TestApp]]


@pytest.fixture(scope="module")
def shops() -> Iterator[Shops]:
    """Shops that tests share, as one takes longer to start than most tests take; each test finds
    its shop as new."""
    with ExitStack() as stack:

        @cache
        def started(url: str, **settings: str) -> Router:
            return stack.enter_context(opened(url, **settings)).app

        @contextmanager
        def shop(url: str, **settings: str) -> Iterator[TestApp]:
            app = started(url, **settings)
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setattr(Traffic, "measured", True)  # as when it was started
                yield TestApp(app, extra_environ=VISITOR)
            as_new(app)

        yield shop


def as_new(app: Router) -> None:
    """Without sessions (those on a server end with the server's), traces and connections."""
    app.registry[KEPT].clear()
    store = store_in(store_in(app.registry.getUtility(ISessionAPI)))  # the observed one
    if isinstance(store, MemoryStore):
        store.hashes.clear()
        store.indexes.clear()
    else:
        for connection in idle_in(lease_in(store)):
            connection.disconnect()


@pytest.fixture(params=["memory", "valkey", "retried"])
def shop(request: pytest.FixtureRequest, shops: Shops) -> Iterator[TestApp]:
    """The shop on each kind of store, and where pyramid_retry discards every first attempt."""
    url, settings = "memory://", {}
    if request.param == "valkey":
        url = request.getfixturevalue("server").url
    elif request.param == "retried":
        settings = {"pyramid.includes": "apps.discarding"}
    with shops(url, **settings) as shop:
        yield shop


@pytest.fixture
def valkey_shop(server: Server, shops: Shops) -> Iterator[TestApp]:
    with shops(server.url) as shop:
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


def form_for(page: TestResponse, action: str) -> Form:
    """The page's form for ``action``."""
    (form,) = {id(form): form for form in page.forms.values() if form.action == action}.values()
    return form


def press(page: TestResponse, action: str, **button: str) -> TestResponse:
    """Press a button of the page's form for ``action``."""
    form = form_for(page, action)
    for name, value in button.items():
        return form.submit(name, value=value)
    return form.submit()


READ, FETCHED = "Read get " + " ".join(CART), " _csrft_ _f_"
"""What a page reads: the keys that it shows, and those that the settings fetch with them."""
WHO = "Read get @u" + FETCHED
"""What a form reads: whether somebody is signed in, whose token it then has to bring."""


def sign_in(shop: TestApp, name: str = "Ann", **fields: str) -> TestResponse:
    """Sign in by the form; the answer is a redirect."""
    form = form_for(shop.get("/sign-in"), "/sign-in")
    for field, value in {"name": name, **fields}.items():
        form[field] = value
    return form.submit()


def browser_of(shop: TestApp) -> TestApp:
    """Another browser in the same shop."""
    return TestApp(shop.app)


def messages(page: TestResponse) -> list[str]:
    return [message.text for message in page.html.select("[role=status].message")]


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
    rows = [row.span.text for row in page.html.find(class_="cart").tbody.find_all("th")]
    assert rows == ["Linden honey"]


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


# -- messages


def test_a_form_tells_what_it_did_once(shop: TestApp) -> None:
    """The page after a form has its message, the next one has not."""
    press(shop.get("/"), "/cart/cup/add")
    assert [messages(shop.get("/")) for _ in range(2)] == [["In your cart: Cup and saucer."], []]


def test_two_messages_at_once_are_both_shown(shop: TestApp) -> None:
    """What two tabs did before a page was shown is told by that page."""
    shop.post("/cart/cup/add")
    shop.post("/cart/cup/remove")
    assert messages(shop.get("/")) == ["In your cart: Cup and saucer.", "Removed: Cup and saucer."]


def test_a_message_is_in_the_language_of_the_page(shop: TestApp) -> None:
    """A message that waits while another language is chosen is told in that language."""
    shop.post("/cart/cup/add")
    shop.post("/language", {"language": "de"})
    assert messages(shop.get("/")) == ["Im Korb: Tasse mit Untertasse."]


# -- signing in


def test_signing_in_keeps_the_cart_under_another_cookie(shop: TestApp) -> None:
    """After a sign-in the cart is there, the cookie is another and the old one is worth nothing."""
    press(shop.get("/"), "/cart/cup/add")
    before = shop.cookies["sid"]
    page = sign_in(shop).follow()
    assert (page.html.find(class_="badge").text, messages(page)[-1]) == ("1", "Welcome, Ann.")
    assert shop.cookies["sid"] != before
    stale = browser_of(shop).get("/", headers={"Cookie": f"sid={before}"})
    assert stale.html.find(class_="badge") is None


def test_another_user_finds_an_empty_cart(shop: TestApp) -> None:
    """A sign-in under another name keeps nothing of the one before."""
    press(shop.get("/"), "/cart/cup/add")
    sign_in(shop, "Ann")
    page = sign_in(shop, "Bob").follow()
    assert page.html.find(class_="badge") is None


def test_only_who_asks_is_remembered(shop: TestApp) -> None:
    """The cookie lasts 30 days with the tick, else until the browser is closed."""
    answers = [sign_in(shop), sign_in(shop, remember="yes")]
    ages = [re.findall(r"Max-Age=(\d+)", answer.headers["Set-Cookie"]) for answer in answers]
    assert [[round(int(age) / 86400) for age in found] for found in ages] == [[], [30]]


@pytest.mark.parametrize("name", ["", "   ", "x" * 41, "a\nb", "\0"])
def test_a_name_that_is_none_is_refused(shop: TestApp, name: str) -> None:
    """A sign-in without a printable name of at most 40 characters is 400 and makes no session."""
    answer = shop.post("/sign-in", {"name": name}, status=400)
    assert answer.headers.getall("Set-Cookie") == []


@pytest.mark.parametrize(
    ("to", "path"),
    [
        ("cart", "/cart"),
        ("address", "/account/address"),
        ("sign_out", "/"),
        ("//evil.example", "/"),
    ],
)
def test_a_sign_in_leads_to_pages_of_ours_alone(shop: TestApp, to: str, path: str) -> None:
    """The form leads where its page was asked to, if that is a page to go to."""
    form = form_for(shop.get("/sign-in", {"to": to}), "/sign-in")
    form["name"] = "Ann"
    assert form.submit().location.partition("?")[0] == f"http://localhost{path}"


def test_a_form_with_a_made_up_way_on_leads_to_the_catalogue(shop: TestApp) -> None:
    """What a sign-in sends as its way on is looked up, not followed."""
    answer = shop.post("/sign-in", {"name": "Ann", "to": "https://evil.example/"})
    assert answer.location.partition("?")[0] == "http://localhost/"


def test_a_sign_in_that_is_sent_twice_signs_in(shop: TestApp) -> None:
    """The second of two sends carries the cookie that the first one has just replaced."""
    shop.post("/counter")
    cookie = {"Cookie": f"sid={shop.cookies['sid']}"}
    answers = [browser_of(shop).post("/sign-in", {"name": "Ann"}, cookie) for _ in range(2)]
    assert [(a.status_int, "sid=" in a.headers["Set-Cookie"]) for a in answers] == [(303, True)] * 2


def test_too_many_sessions_get_a_page() -> None:
    """Where a user may have so many sessions, a further sign-in is a 403 page."""
    limit = {
        "altsession.session.max_sessions_per_user": "1",
        "altsession.session.on_max_sessions": "deny",
    }
    with opened("memory://", **limit) as shop:
        sign_in(shop)
        page = browser_of(shop).post("/sign-in", {"name": "Ann"}, status=403)
    assert page.html.h1.text == "Signed in at too many places"


# -- the CSRF token


def test_every_form_of_somebody_carries_the_token(shop: TestApp) -> None:
    """Signed in, each form of each page that uses the session has the same token."""
    press(shop.get("/"), "/cart/cup/add")
    sign_in(shop)
    sign_in(browser_of(shop))  # "My devices" then has all its forms
    tokens = [
        [field["value"] for field in form.select("[name=csrf_token]")]
        for path in PAGES
        for form in shop.get(path).html.find_all("form")
    ]
    assert len(tokens) > 10
    assert tokens == [tokens[0]] * len(tokens)


def test_forms_of_a_visitor_carry_no_token(shop: TestApp) -> None:
    """Not signed in, forms have no token, with a session as without."""
    assert "csrf_token" not in shop.get("/")
    assert "csrf_token" not in press(shop.get("/"), "/cart/cup/add").follow()


@pytest.mark.parametrize(
    "path",
    ["/cart/cup/add", "/counter", "/sign-out", "/account/sessions/end-all", "/account/address"],
)
@pytest.mark.parametrize("fields", [{}, {"csrf_token": ""}, {"csrf_token": "a" * 40}])
def test_a_form_without_the_token_is_refused(
    shop: TestApp, path: str, fields: dict[str, str]
) -> None:
    """Signed in, a form without the token, or with another one, is 400 and does nothing."""
    sign_in(shop)
    page = shop.post(path, fields, status=400)
    assert (page.html.h1.text, page.headers.getall("Set-Cookie")) == ("This cannot be done", [])
    after = shop.get("/counter")
    assert (after.html.find(id="counted").text, after.html.find(class_="badge")) == ("0", None)


def test_the_token_of_before_the_sign_in_is_refused(shop: TestApp) -> None:
    """A page that was open during a new sign-in has a token that counts no more."""
    sign_in(shop)
    old = shop.get("/counter")
    sign_in(shop)
    assert form_for(old, "/counter").submit(status=400).html.h1.text == "This cannot be done"


def test_the_page_of_a_refused_form_leads_back(shop: TestApp) -> None:
    """The refused form's page is linked, where it gets its token."""
    sign_in(shop)
    page = shop.post("/counter", headers={"Referer": "http://localhost/counter"}, status=400)
    assert page.html.main.find("a")["href"] == "/counter"


def test_after_the_session_has_expired_a_form_is_taken(
    valkey_shop: TestApp, server: Server
) -> None:
    """The form of a page whose session is forgotten begins a new one, like any visitor's."""
    sign_in(valkey_shop)
    page = valkey_shop.get("/")
    server.client.flushall()
    assert press(page, "/cart/cup/add").follow().html.find(class_="badge").text == "1"


# -- my devices

AGENTS = {
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0": "Firefox, Linux",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0": "Edge, Windows",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0"
    " Mobile Safari/537.36": "Chrome, Android",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like"
    " Gecko) Version/18.6 Mobile/15E148 Safari/604.1": "Safari, iPhone",
    "x" * 2000: "Some browser",
}


@dataclass
class Device:
    """An entry of the list, as a visitor reads it."""

    agent: str
    facts: list[str]
    current: bool


def devices(page: TestResponse) -> list[Device]:
    return [
        Device(
            entry.h2.text,
            [fact.text for fact in entry.find_all("dd")],
            entry.find(class_="mark") is not None,
        )
        for entry in page.html.find_all(class_="device")
    ]


@pytest.fixture
def elsewhere(shop: TestApp) -> TestApp:
    """Another browser, where Ann is signed in; in the shop itself she is, too."""
    browser = browser_of(shop)
    sign_in(browser)
    sign_in(shop)
    return browser


def last_link(browser: TestApp) -> str:
    """What the head's last link says: there it shows whether somebody is signed in."""
    text: str = browser.get("/").html.header.find_all("a")[-1].text
    return text


@pytest.mark.parametrize(("agent", "shown"), AGENTS.items())
def test_a_device_is_named_in_short(shop: TestApp, agent: str, shown: str) -> None:
    """The list says browser, system, address and when, and marks the device that looks."""
    shop.post("/sign-in", {"name": "Ann"}, headers={"User-Agent": agent})
    page = shop.get("/account")
    assert devices(page) == [Device(shown, ["192.0.2.7", "just now", "just now"], True)]


def test_every_device_is_listed(shop: TestApp, elsewhere: TestApp) -> None:
    """Each browser sees both sessions, and itself marked, the newest sign-in first."""
    pages = [browser.get("/account") for browser in (shop, elsewhere)]
    assert [[d.current for d in devices(page)] for page in pages] == [[True, False], [False, True]]


def test_nobody_else_is_listed(shop: TestApp) -> None:
    """Bob does not see Ann's session."""
    sign_in(browser_of(shop), "Ann")
    sign_in(shop, "Bob")
    assert len(devices(shop.get("/account"))) == 1


@pytest.mark.parametrize(
    ("seconds", "english", "german"),
    [
        (59, "just now", "gerade eben"),
        (-300, "just now", "gerade eben"),
        (60, "1 min ago", "vor 1 Min."),
        (7199, "119 min ago", "vor 119 Min."),
        (7200, "2 h ago", "vor 2 Std."),
        (172_799, "47 h ago", "vor 47 Std."),
        (172_800, "2 days ago", "vor 2 Tagen"),
    ],
)
def test_time_is_told_in_one_unit(seconds: int, english: str, german: str) -> None:
    """Minutes up to two hours, hours up to two days, then days."""
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    assert [ago(then, TEXTS[language]) for language in ("en", "de")] == [english, german]


def test_one_device_is_ended(shop: TestApp, elsewhere: TestApp) -> None:
    """The button beside another device ends its session and says so."""
    page = press(shop.get("/account"), other_device(shop)).follow()
    assert (messages(page), len(devices(page))) == (["That session has ended."], 1)
    assert (last_link(shop), last_link(elsewhere)) == ("My devices", "Sign in")


def other_device(shop: TestApp) -> str:
    """Where the form beside the other device goes to."""
    action: str = shop.get("/account").html.select_one(".device form")["action"]
    return action


def test_ending_a_device_twice_says_so(shop: TestApp, elsewhere: TestApp) -> None:
    """The second press on the same button finds the session ended."""
    page, action = shop.get("/account"), other_device(shop)
    press(page, action).follow()
    assert messages(press(page, action).follow()) == ["That session had ended already."]


def test_nobody_ends_the_session_of_another(shop: TestApp, elsewhere: TestApp) -> None:
    """The id of Ann's session in Bob's form ends nothing."""
    action = other_device(shop)
    bob = browser_of(shop)
    sign_in(bob, "Bob")
    token = form_for(bob.get("/counter"), "/counter")["csrf_token"].value
    page = bob.post(action, {"csrf_token": token}).follow()
    assert messages(page)[-1] == "That session had ended already."
    assert last_link(elsewhere) == "My devices"


def test_signing_out_everywhere_else_keeps_this_session(shop: TestApp, elsewhere: TestApp) -> None:
    """All others end, and the page says how many."""
    page = press(shop.get("/account"), "/account/sessions/end-others").follow()
    assert messages(page) == ["Sessions ended elsewhere: 1."]
    assert (last_link(shop), last_link(elsewhere)) == ("My devices", "Sign in")


def test_signing_out_everywhere_ends_this_session_too(shop: TestApp, elsewhere: TestApp) -> None:
    """All of the user's sessions end, and this browser's cookie goes."""
    press(shop.get("/account"), "/account/sessions/end-all").follow()
    assert "sid" not in shop.cookies
    assert (last_link(shop), last_link(elsewhere)) == ("Sign in", "Sign in")


def test_where_a_session_was_ended_one_can_sign_in_at_once(
    shop: TestApp, elsewhere: TestApp
) -> None:
    """The cookie of a session ended moments ago does not stand in the way of a sign-in."""
    press(shop.get("/account"), "/account/sessions/end-others")
    sign_in(elsewhere)
    assert last_link(elsewhere) == "My devices"


def test_the_panel_shows_what_a_list_of_devices_costs(shop: TestApp) -> None:
    """One read, the user's index, and one look at all sessions in it."""
    sign_in(shop).follow()
    page = shop.get("/account")
    id = shop.cookies["sid"][:8]
    (rows,) = asked(page)
    assert rows == [
        READ + FETCHED,
        "Of the user list Ann",
        f"Of the user describe {id}…",
    ]


def test_the_panel_shows_the_end_of_other_sessions(shop: TestApp, elsewhere: TestApp) -> None:
    """Ending a session by its id is shown with that id."""
    id = elsewhere.cookies["sid"][:8]
    page = press(shop.get("/account"), "/account/sessions/end-others").follow()
    assert f"Of the user end {id}…" in asked(page)[0]


@pytest.mark.parametrize("path", ["/account", "/account/address"])
def test_the_account_is_for_who_is_signed_in(shop: TestApp, path: str) -> None:
    """A visitor gets the sign-in form in its place, as 403, which leads there."""
    page = shop.get(path, status=403)
    assert page.headers.getall("Set-Cookie") == []
    form = form_for(page, "/sign-in")
    form["name"] = "Ann"
    assert form.submit().location.partition("?")[0] == f"http://localhost{path}"


@pytest.mark.parametrize("path", ["/account/sessions/end-all", "/account/address"])
def test_forms_of_the_account_are_for_who_is_signed_in(shop: TestApp, path: str) -> None:
    """A form that comes after the session is over gets the sign-in form."""
    assert "Sign in" in shop.post(path, status=403).html.h1.text


def test_pages_of_the_account_are_not_kept_by_browsers(shop: TestApp) -> None:
    """After a sign-out the browser's way back does not show them."""
    sign_in(shop)
    kept = [shop.get(path).headers["Cache-Control"] for path in ("/account", "/account/address")]
    assert ["no-store" in header for header in kept] == [True, True]


# -- a page that wants a fresh sign-in


def signed_in_before(server: Server, seconds: int) -> None:
    """The one session's sign-in was so many seconds earlier."""
    (key,) = server.client.keys("sess:" + "?" * 22)
    server.client.hset(key, "@l", int(server.client.hget(key, "@l")) - seconds * 1000)


def test_an_address_is_kept(shop: TestApp) -> None:
    """Right after the sign-in the page opens, and what is saved is there again."""
    sign_in(shop)
    form = form_for(shop.get("/account/address"), "/account/address")
    form["address"] = "1 Leaf Lane\nTeatown"
    page = form.submit().follow()
    assert messages(page)[-1] == "Your address is saved."
    assert shop.get("/account/address").html.textarea.text.split() == [
        "1", "Leaf", "Lane", "Teatown",
    ]  # fmt: skip


def test_an_older_sign_in_has_to_be_repeated(valkey_shop: TestApp, server: Server) -> None:
    """After a minute the page asks to sign in again, with the name filled in, and then opens."""
    sign_in(valkey_shop)
    signed_in_before(server, 59)
    assert valkey_shop.get("/account/address").html.h1.text == "My address"
    signed_in_before(server, 2)
    page = valkey_shop.get("/account/address", status=403)
    form = form_for(page, "/sign-in")
    assert form["name"].value == "Ann"
    assert form.submit().follow().html.h1.text == "My address"


def test_the_form_is_good_for_longer_than_its_page(valkey_shop: TestApp, server: Server) -> None:
    """Ten minutes of typing are taken, more are not."""
    sign_in(valkey_shop)
    form = form_for(valkey_shop.get("/account/address"), "/account/address")
    signed_in_before(server, 590)
    assert form.submit().status_int == 303
    signed_in_before(server, 20)
    assert form.submit(status=403).html.h1.text == "Sign in"


def test_too_long_an_address_is_refused(shop: TestApp) -> None:
    """More than 300 characters are 400."""
    sign_in(shop)
    form = form_for(shop.get("/account/address"), "/account/address")
    form["address"] = "x" * 301
    assert form.submit(status=400).html.h1.text == "This cannot be done"


def test_the_page_that_wants_a_fresh_sign_in_asks_once(shop: TestApp) -> None:
    """The view's option ``altsession`` asks for what it shows; the sign-in's age comes along."""
    sign_in(shop).follow()
    (rows,) = asked(shop.get("/account/address"))
    assert rows == [f"{READ} address{FETCHED}"]


# -- signing out


def test_signing_out_forgets_everything(shop: TestApp) -> None:
    """After signing out cart and language are gone, and so is the cookie."""
    press(shop.get("/"), "/cart/cup/add")
    press(shop.get("/"), "/language", language="de")
    sign_in(shop)
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
    shop.post("/cart/cup/add").follow()
    assert [asked(shop.get(path)) for path in ("/", "/cart", "/counter")] == [
        [[READ + FETCHED]], [[READ + FETCHED]], [[READ + " counter" + FETCHED]],
    ]  # fmt: skip


def test_a_page_of_somebody_asks_once(shop: TestApp) -> None:
    """Who is signed in, the CSRF token and whether there are messages come with the same read."""
    sign_in(shop).follow()
    assert asked(shop.get("/")) == [[READ + FETCHED]]


@pytest.mark.parametrize(
    ("path", "fields", "writes"),
    [
        ("/cart/cup/add", {}, ["Write increment cart.cup", "Write append _f_"]),
        ("/cart/honey/remove", {}, ["Write remove cart.honey", "Write append _f_"]),
        ("/cart/cup/remove", {}, ["Write remove cart.cup"]),
        ("/counter", {}, ["Write increment counter"]),
        ("/language", {"language": "en"}, ["Write set language"]),
        ("/sign-in", {"name": "Ann"}, ["Write login", "Write set, append _csrft_ _f_"]),
        ("/sign-out", {}, ["Write invalidate"]),
    ],
)
def test_the_panel_shows_what_a_form_wrote(
    shop: TestApp, path: str, fields: dict[str, str], writes: list[str]
) -> None:
    """The page after a form shows first what the form's own request asked: who is signed in, the
    one write, and the message."""
    shop.post("/cart/honey/add")
    section = panel(shop.post(path, fields).follow())[0]
    assert section.request == f"Before it POST {path}"
    assert [row.what for row in section.rows] == [WHO, *writes]


def test_the_panel_shows_that_a_session_was_made(shop: TestApp) -> None:
    """The first write of a visitor is told from the later ones."""
    rows = asked(shop.post("/counter").follow())[0]
    assert rows == ["New session increment counter"]


def notes(page: TestResponse) -> list[list[str]]:
    """What each section of the panel says in words below its rows."""
    sections = page.html.find("aside").find_all("section")
    return [[text_of(note) for note in section.select(".note")] for section in sections]


def test_the_panel_says_what_a_first_write_costs(valkey_shop: TestApp, server: Server) -> None:
    """A write that made a session is explained, and one that met a dead cookie; no other is. What
    the words say of the round trips is what the numbers say."""
    first, later = (valkey_shop.post("/counter").follow() for _ in range(2))
    server.client.flushall()
    dead = valkey_shop.post("/counter").follow()
    made = TEXTS["en"]["panel_created"]
    assert "costs one round trip, or two if the server does not know" in made
    assert panel(first)[0].rows[0].trips in (1, 2)  # the server may have run the script before
    assert [panel(page)[0].rows[-1].trips for page in (later, dead)] == [1, 1]
    told = [notes(page) for page in (first, later, dead)]
    assert told == [[[made], []], [[], []], [[made, TEXTS["en"]["panel_dead"]], []]]


def test_the_panel_shows_what_a_dead_cookie_costs(valkey_shop: TestApp, server: Server) -> None:
    """With a cookie whose session is forgotten a write asks again, and makes a new session."""
    valkey_shop.post("/counter")
    server.client.flushall()
    rows = asked(valkey_shop.post("/counter").follow())[0]
    assert rows == [
        WHO.replace("get", "get → dead"),
        "Write increment → dead counter",
        "New session increment counter",
    ]


def test_a_visitor_without_a_cookie_costs_nothing(shop: TestApp) -> None:
    """Looking at the shop without a session asks the server nothing and sets no cookie."""
    page = shop.get("/")
    assert page.headers.getall("Set-Cookie") == []
    assert [section.sum for section in panel(page)] == ["0 operations, 0 round trips"]


def test_the_about_page_does_not_use_the_session(shop: TestApp) -> None:
    """With a live session the about page asks nothing and says nothing about cookies."""
    sign_in(shop)
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
    assert [panel(page)[0].rows[1].trips for page in (twice, once)] == [2, 1]


def test_the_size_of_the_session_costs_a_page_nothing(valkey_shop: TestApp, server: Server) -> None:
    """A page's bytes are the same with another 60 kB in the session."""
    valkey_shop.post("/counter")
    (key,) = server.client.keys()
    small = panel(valkey_shop.get("/counter"))[0].rows[0]
    server.client.hset(key, "report", "x" * 60_000)
    large = panel(valkey_shop.get("/counter"))[0].rows[0]
    assert large.sent == small.sent
    assert abs(large.received - small.received) <= 10  # digits of the server's times


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


# -- what it is, and why


def test_the_home_page_says_what_this_is(shop: TestApp) -> None:
    """It names the package and the panel, links to what there is to try, and costs nothing."""
    page = shop.get("/")
    intro = page.html.find(class_="intro")
    assert "demo of pyramid_altsession" in text_of(intro)
    assert "The panel beside or below each page" in text_of(intro)
    links = [link["href"] for link in intro.find_all("a")]
    assert links == ["/counter", "/why", "/sign-in"]
    assert {shop.get(link).status_int for link in links} == {200}
    assert asked(page) == [[]]


def test_in_a_checkout_the_home_page_links_to_the_documentation() -> None:
    """Each link opens a page of docs/ as plain text; other files of that folder are not shown."""
    docs = Path(__file__).parents[2] / "docs"
    with opened("memory://", **{"demo.docs": str(docs)}) as shop:
        links = [
            link["href"]
            for link in shop.get("/").html.find(class_="intro").find_all("a")
            if link["href"].startswith("/docs/")
        ]
        pages = [shop.get(link) for link in links]
        assert "/docs/why" in links
        assert [page.text for page in pages] == [
            (docs / f"{Path(link).name}.rst").read_text() for link in links
        ]
        assert {page.content_type for page in pages} == {"text/plain"}
        for other in ("conf.py", "conf", "design", "..%2FREADME"):
            shop.get(f"/docs/{other}", status=404)


def test_the_documentation_is_looked_for_beside_the_ini_file(tmp_path: Path) -> None:
    """pserve tells main the folder of its file; a page that is missing there is not linked to."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tutorial.rst").write_text("Tutorial")
    settings = ini_file() | COMPILED | {"altsession.redis.url": "memory://"}
    shop = TestApp(main({"here": str(tmp_path)}, **settings))
    assert [a["href"] for a in shop.get("/").html.find_all("a", hreflang="en")] == [
        "/docs/tutorial"
    ]
    assert shop.get("/docs/tutorial").text == "Tutorial"
    shop.get("/docs/why", status=404)


Held = dict[str, str] | str
"""What a cell of the tables says the server holds: a session, or in words that there is none."""


def held(cell: Tag) -> Held:
    pairs = {row.dt.text: row.dd.text for row in cell.select("dl div")}
    return pairs or text_of(cell)


def argument(page: TestResponse, id: str) -> tuple[list[tuple[Held, Held]], list[str]]:
    """What the server holds after each step, with one value and key by key; both outcomes."""
    table = page.html.find(id=id).table
    rows = [(held(one), held(ours)) for one, ours in (r("td") for r in table.tbody("tr"))]
    return rows, [text_of(cell) for cell in table.tfoot("td")]


def test_an_update_is_lost_with_one_value_alone(shop: TestApp) -> None:
    """The theme that the fast request set is overwritten on the left, and kept on the right."""
    steps, outcomes = argument(shop.get("/why"), "why_update")
    before = {"user": "Ann", "cart": "tea"}
    assert steps == [
        (before, before),
        (before, before),
        (before | {"theme": "dark"}, before | {"theme": "dark"}),
        (before | {"cart": "tea, honey"}, before | {"cart": "tea, honey", "theme": "dark"}),
    ]
    assert outcomes == ["The theme is lost.", "The theme and the cart are kept."]


def test_a_logout_is_undone_with_one_value_alone(shop: TestApp) -> None:
    """The slow request brings the session back on the left, and is SessionGone on the right."""
    steps, outcomes = argument(shop.get("/why"), "why_logout")
    assert steps[1:] == [
        ("nothing", "nothing"),
        ({"user": "Ann", "cart": "tea, honey, cup"}, "→ SessionGone nothing"),
    ]
    assert outcomes == ["Ann is signed in again.", "Ann stays signed out."]


def test_the_two_arguments_are_run_for_each_page(valkey_shop: TestApp, server: Server) -> None:
    """Each view of the page makes a session on the server, writes to it and ends it; the panel
    says so. A visitor without a session gets none by it."""
    for _ in range(2):
        page = valkey_shop.get("/why")
        rows = [row for row in asked(page)[0] if not row.startswith("Of the user inspect")]
        assert rows == [
            "New session set, set user cart",
            "Read get cart",
            "Write set theme",
            "Write set cart",
            "Read get cart",
            "Write invalidate",
            "Write set → owed cart",
        ]
        assert page.headers.getall("Set-Cookie") == []
    left = [set(server.client.hkeys(key)) for key in server.client.scan_iter()]
    assert left == [{b"@x", b"@o"}] * 2  # marks of sessions that have ended


def test_the_outcomes_are_those_of_this_run(shop: TestApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a session that keeps both in place of the one value, the page says so."""
    api = shop.app.registry.getUtility(ISessionAPI)
    monkeypatch.setattr(why, "OneValue", lambda: why.KeyByKey(api))
    page = shop.get("/why")
    assert argument(page, "why_update")[1] == ["The theme and the cart are kept."] * 2
    assert argument(page, "why_logout")[1] == ["Ann stays signed out."] * 2


# -- what goes wrong


@pytest.fixture
def away() -> Iterator[TestApp]:
    """A shop with a live session, whose server went away."""
    server = valkey()
    with opened(server.url) as shop:
        shop.post("/counter")
        server.stop()
        yield shop


@pytest.mark.parametrize("path", ["/", "/cart", "/counter", "/why"])
def test_without_a_server_a_page_says_to_try_again(away: TestApp, path: str) -> None:
    """An outage is a 503 page in the shop's dress, with a link to the same page."""
    page = away.get(path, status=503)
    assert (page.headers["Retry-After"], page.headers["Cache-Control"]) == ("2", "no-store")
    assert page.html.main.find("a")["href"] == path


def test_without_a_server_a_form_leads_back(away: TestApp) -> None:
    """A form that failed links to the page that it was on."""
    page = away.post("/counter", headers={"Referer": "http://localhost/cart"}, status=503)
    assert page.html.main.find("a")["href"] == "/cart"


def test_the_panel_shows_the_failure(away: TestApp) -> None:
    """The operation that failed is on the page, with the error and no round trip."""
    (section,) = panel(away.get("/", status=503))
    assert [(row.what, row.trips) for row in section.rows] == [
        (f"Read get → StoreUnavailable {' '.join(CART)}{FETCHED}", 0)
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
        ("http://[/cart", "/"),
    ],
)
def test_a_form_leads_to_pages_of_ours_alone(referrer: str, back: str) -> None:
    """The way back is the path of our own page, else the catalogue."""
    with opened("memory://") as shop:
        headers = {"Referer": referrer, "Host": "localhost"}
        answer = shop.post("/language", {"language": "de"}, headers=headers)
    assert answer.location.partition("?")[0] == f"http://localhost{back}"


def test_pages_load_nothing_from_outside() -> None:
    """Every page forbids other sites' content, and names none; the cart links to its live twin."""
    with opened("memory://") as shop:
        sign_in(shop)
        assert shop.get("/cart").html.main.find("a", href=ini_file()["demo.live"])
    with opened("memory://", **{"demo.live": ""}) as shop:
        sign_in(shop)
        pages = [shop.get(path) for path in PAGES]
    assert {"default-src 'none'" in page.headers["Content-Security-Policy"] for page in pages} == {
        True
    }
    assert [re.findall(r"""(?:src|href|action)=["'](?:[a-z]+:)?//""", p.text) for p in pages] == [
        []
    ] * len(PAGES)


@pytest.mark.parametrize("address", ["/?after=%ff", "/sign-in?to=%ff", "/cart/%ff/add"])
def test_an_address_that_cannot_be_read_is_refused(address: str) -> None:
    """What is no UTF-8 in an address is 400."""
    with opened("memory://") as shop:
        assert shop.get(address, status=400).headers.getall("Set-Cookie") == []


@pytest.mark.parametrize("path", ["/sign-in", "/language", "/counter"])
def test_a_form_with_a_file_is_refused(path: str) -> None:
    """No form of the shop sends files: one that does is 400, whatever the field."""
    with opened("memory://") as shop:
        page = shop.post(path, upload_files=[("name", "x.txt", b"hi")], status=400)
    assert page.html.h1.text == "This cannot be done"


# -- development.ini


def test_the_ini_file_runs_the_shop() -> None:
    """main takes development.ini's settings: a server of its own, a cookie for plain http."""
    api = main({}, **ini_file()).registry.getUtility(ISessionAPI)
    assert (api.settings.redis.url, api.settings.session.secure) == ("embedded://", False)


def test_every_setting_of_the_ini_file_is_explained() -> None:
    """A comment stands above each setting of the package's in development.ini."""
    lines = (Path(__file__).parents[2] / "development.ini").read_text().splitlines()
    bare = [
        line
        for above, line in pairwise(["", *lines])
        if line.startswith("altsession.") and not above.startswith("#")
    ]
    assert bare == []
