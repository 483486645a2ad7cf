"""A realistic shop under waitress and gunicorn: one user at a laptop and a phone, over HTTP."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import (
    HTTPCookieProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    Request,
    build_opener,
)

import pytest
from servers import Server
from shop.models import Base, Order, Product, User
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session
from workers import eventually

import pyramid_altsession

pytestmark = pytest.mark.process

INI = """
[app:main]
use = call:shop:main
sqlalchemy.url = sqlite:///%(here)s/shop.db
tm.manager_hook = pyramid_tm.explicit_manager
tm.annotate_user = false
retry.attempts = 3
shop.warehouse = %(here)s/warehouse
altsession.redis.url = {url}
altsession.redis.timeout = 30
altsession.session.secure = false
altsession.sync.enabled = true
altsession.session.prefetch = _csrft_ _f_
altsession.transactional = true

[server:main]
use = egg:waitress#main
unix_socket = %(here)s/http
"""
COMMANDS = {
    "waitress": ["pserve", "shop.ini"],
    "gunicorn": [
        *("gunicorn", "--paste", "shop.ini", "--bind", "unix:http"),
        *("--workers", "2", "--threads", "4", "--no-control-socket"),
    ],
}
ADDRESS = "http://shop.example/"
TIMEOUT = 60.0  # seconds


class Page:
    """An answer of the shop's."""

    def __init__(self, answer: Any) -> None:
        self.status = int(answer.status)
        self.location = answer.headers["Location"]
        self.text = answer.read().decode()

    def all(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.text, re.DOTALL)

    @property
    def messages(self) -> list[str]:
        return self.all(r'<p class="message">(.*?)</p>')

    @property
    def cart(self) -> str:
        return self.all(r'<b id="cart">(.*?)</b>')[0]

    @property
    def bought(self) -> int:
        return int(self.all(r'<b id="bought">(.*?)</b>')[0])

    @property
    def user(self) -> str:
        return self.all("<h1>(.*?)</h1>")[0]

    @property
    def devices(self) -> dict[str, str]:
        """Id by name."""
        return {name: id for id, name in self.all(r'<li data-id="(.*?)".*?>(.*?)</li>')}

    @property
    def this_device(self) -> list[str]:
        return self.all(r'class="current">(.*?)</li>')


class Unix(HTTPHandler):
    """http over the unix socket at the path."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def http_open(self, request: Request) -> Any:
        path = self.path

        class Connection(HTTPConnection):
            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(TIMEOUT)
                self.sock.connect(path)

        return self.do_open(Connection, request)


class Stay(HTTPRedirectHandler):
    """Redirects are followed when a test says so."""

    def redirect_request(self, *args: Any) -> None:
        return None


class Browser:
    """One device: its cookies, and the page it shows."""

    def __init__(self, shop: "Shop", name: str) -> None:
        self.cookies = CookieJar()
        handlers = (Unix(str(shop.folder / "http")), Stay(), HTTPCookieProcessor(self.cookies))
        self.opener = build_opener(*handlers)
        self.opener.addheaders = [("User-Agent", name)]
        self.page: Page

    @property
    def token(self) -> str | None:
        """The csrf token of the page."""
        return next(iter(self.page.all('name="csrf_token" value="(.*?)"')), None)

    def get(self, path: str) -> Page:
        return self._open(path, None)

    def post(self, path: str, **fields: str) -> Page:
        """Send a form of the page that is shown, and go where the answer leads."""
        answer = self.send(path, **fields)
        assert answer.status == 303, (answer.status, answer.text)
        return self.get(answer.location)

    def send(self, path: str, **fields: str) -> Page:
        """Send a form of the page that is shown."""
        return self._open(path, urlencode({"csrf_token": self.token or "", **fields}).encode())

    def sign_in(self, name: str, password: str = "secret") -> Page:
        assert self.get("/sign-in").status == 200, self.page.text
        return self.post("/sign-in", name=name, password=password)

    def _open(self, path: str, data: bytes | None) -> Page:
        try:
            answer = self.opener.open(Request(urljoin(ADDRESS, path), data), timeout=TIMEOUT)
        except HTTPError as error:
            answer = error
        with answer:
            self.page = Page(answer)
        assert self.page.status < 500, self.page.text
        return self.page


class Question:
    """What the shop asks the warehouse, and waits for the answer."""

    def __init__(self, line: socket.socket) -> None:
        line.settimeout(TIMEOUT)
        self.line = line
        self.text = line.recv(200).decode().strip()

    def yes(self) -> None:
        with self.line:
            self.line.sendall(b"yes\n")


class Shop:
    """The shop in a folder of its own, its database, and the warehouse that it asks."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.log = folder / "log"
        (folder / "shop.ini").write_text(INI.format(url=url))
        self.engine = create_engine(f"sqlite:///{folder}/shop.db")
        Base.metadata.create_all(self.engine)
        self.warehouse = socket.socket(socket.AF_UNIX)
        self.warehouse.bind(str(folder / "warehouse"))
        self.warehouse.listen()
        self.warehouse.settimeout(TIMEOUT)

    def question(self) -> Question:
        """The next one for the warehouse."""
        return Question(self.warehouse.accept()[0])

    def serve(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Start it; it answers when this returns."""
        tool = Path(sys.executable).with_name(command[0])
        package = Path(pyramid_altsession.__file__).parents[1]
        with self.log.open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, str(tool), *command[1:]],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{package}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert eventually(lambda: server.poll() is not None or self.answers(), seconds=TIMEOUT)
        assert server.poll() is None, self.log.read_text()
        return server

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(self.folder / "http"))
            return True
        return False

    def close(self) -> None:
        self.warehouse.close()
        self.engine.dispose()

    def stock(self, product: str) -> int:
        with Session(self.engine) as database:
            return database.get_one(Product, product).stock

    def orders(self, user: str) -> list[str]:
        with Session(self.engine) as database:
            orders = database.scalars(select(Order).where(Order.user_name == user))
            return [order.product_name for order in orders]


class Customer:
    """A user of the shop with devices, and a product that nobody else buys."""

    def __init__(self, shop: Shop, name: str) -> None:
        self.shop, self.name, self.product = shop, name, f"tea for {name}"
        with Session(shop.engine) as database, database.begin():
            user = User(name=name)
            user.set_password("secret")
            database.add_all([user, Product(name=self.product, stock=10)])

    def device(self, name: str) -> Browser:
        """One that has signed in and shows the account page."""
        browser = Browser(self.shop, name)
        browser.sign_in(self.name)
        return browser


@pytest.fixture(scope="module", params=COMMANDS)
def shop(request: pytest.FixtureRequest, valkey_server: Server) -> Iterator[Shop]:
    """The shop, served by each server; its log holds no traceback in the end."""
    folder = Path(tempfile.mkdtemp(prefix="shop-"))
    shop = Shop(folder, valkey_server.url)
    server = shop.serve(COMMANDS[request.param])
    try:
        yield shop
        assert "Traceback" not in shop.log.read_text(), shop.log.read_text()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        shop.close()
        shutil.rmtree(folder)


@pytest.fixture
def ann(shop: Shop, request: pytest.FixtureRequest) -> Customer:
    """A user for this test."""
    return Customer(shop, f"ann of {request.node.name}")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """For requests that have to wait for something."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


# -- devices


def test_phone_signed_out_from_the_laptop_signs_in_again_at_once(ann: Customer) -> None:
    """Whoever was signed out from another device gets the sign-in page and can sign in, with the
    dead cookie still in the browser; the other device stays signed in."""
    phone, laptop = ann.device("phone"), ann.device("laptop")
    assert laptop.post("/devices/end", device=laptop.page.devices["phone"]).messages == [
        "The device is signed out."
    ]
    assert list(laptop.page.devices) == ["laptop"]
    answer = phone.get("/account")
    assert (answer.status, answer.location) == (303, urljoin(ADDRESS, "/sign-in"))
    assert phone.sign_in(ann.name).messages == [f"Welcome, {ann.name}."]
    assert (phone.page.status, phone.page.user) == (200, ann.name)
    assert sorted(phone.page.devices) == ["laptop", "phone"]
    assert phone.page.this_device == ["phone"]
    assert laptop.get("/account").this_device == ["laptop"]


def test_phone_signed_out_from_the_laptop_fills_a_new_cart(ann: Customer) -> None:
    """Whoever was signed out from another device goes on as a visitor like any other."""
    phone, laptop = ann.device("phone"), ann.device("laptop")
    phone.get("/")
    phone.post("/cart", product="old tea")
    laptop.get("/account")
    laptop.post("/devices/end", device=laptop.page.devices["phone"])
    assert phone.get("/").cart == ""
    assert phone.post("/cart", product=ann.product).cart == ann.product


def test_all_other_devices(ann: Customer) -> None:
    """“Sign out everywhere else” ends every session of the user but the one that asks."""
    devices = [ann.device(f"phone {number}") for number in range(3)]
    stranger = Customer(ann.shop, f"bob beside {ann.name}").device("his phone")
    laptop = ann.device("laptop")
    assert laptop.post("/devices/end-others").messages == ["3 signed out."]
    assert list(laptop.page.devices) == ["laptop"]
    assert [phone.get("/account").status for phone in devices] == [303, 303, 303]
    assert stranger.get("/account").status == 200


def test_device_of_somebody_else(ann: Customer) -> None:
    """The id of another user's session does not help to end it."""
    phone = ann.device("phone")
    stranger = Customer(ann.shop, f"bob beside {ann.name}").device("his phone")
    assert stranger.send("/devices/end", device=phone.page.devices["phone"]).status == 400
    assert phone.get("/account").user == ann.name


# -- sign-in


def test_sign_in_replaces_the_cookie_and_keeps_the_cart(ann: Customer) -> None:
    """Cookie and csrf token of before the sign-in are dead; what was in the cart stays in it."""
    browser, thief = Browser(ann.shop, "laptop"), Browser(ann.shop, "thief's")
    browser.get("/")
    browser.post("/cart", product=ann.product)
    (planted,) = browser.cookies
    known_token = browser.token
    thief.cookies.set_cookie(planted)
    browser.sign_in(ann.name)
    assert browser.get("/").cart == ann.product
    assert browser.token != known_token
    assert thief.get("/account").status == 303


def test_wrong_password(ann: Customer) -> None:
    """It signs nobody in, and the page says so once."""
    browser = Browser(ann.shop, "laptop")
    assert browser.sign_in(ann.name, "guessed").messages == ["Name or password is wrong."]
    assert browser.get("/sign-in").messages == []
    assert browser.get("/account").status == 303


def test_form_without_the_token(ann: Customer) -> None:
    """A form of another site is refused, and changes nothing."""
    laptop = ann.device("laptop")
    laptop.get("/")
    assert laptop.send("/cart", product=ann.product, csrf_token="made up").status == 400
    assert laptop.get("/").cart == ""


def test_sign_out_and_in_again(ann: Customer) -> None:
    """After signing out the visitor is nobody, and can sign in at once."""
    laptop = ann.device("laptop")
    assert laptop.post("/sign-out").status == 200
    assert laptop.get("/account").status == 303
    assert laptop.sign_in(ann.name).user == ann.name


def test_change_of_password(ann: Customer) -> None:
    """It signs the other devices out, and not the one where it was changed; from then on the new
    password counts, for the phone at once."""
    phone, laptop = ann.device("phone"), ann.device("laptop")
    changed = laptop.post("/password", old="secret", new="better")
    assert changed.messages == ["Your password is changed."]
    assert list(laptop.page.devices) == ["laptop"]
    assert phone.get("/account").status == 303
    assert phone.sign_in(ann.name).messages == ["Name or password is wrong."]
    assert phone.sign_in(ann.name, "better").user == ann.name
    assert laptop.get("/account").user == ann.name


# -- orders


def test_order_that_meets_a_conflict_counts_once(ann: Customer, pool: ThreadPoolExecutor) -> None:
    """The database makes the slower of two orders begin again: the retry finds the session as it
    was before the first attempt, and what it writes is written once."""
    phone, laptop = ann.device("phone"), ann.device("laptop")
    for browser in (phone, laptop):
        browser.get("/")
        browser.post("/cart", product=ann.product)
    slow = pool.submit(laptop.post, "/order")
    first_attempt = ann.shop.question()
    fast = pool.submit(phone.post, "/order")
    ann.shop.question().yes()
    assert fast.result().messages == ["Thank you."]
    first_attempt.yes()
    second_attempt = ann.shop.question()
    assert second_attempt.text == first_attempt.text == f"{ann.name}: {ann.product}"
    second_attempt.yes()
    assert slow.result().messages == ["Thank you."]
    assert (laptop.page.cart, laptop.page.bought) == ("", 1)
    assert (ann.shop.stock(ann.product), len(ann.shop.orders(ann.name))) == (8, 2)


def test_order_that_the_database_refuses(ann: Customer, pool: ThreadPoolExecutor) -> None:
    """Without a commit the session stays as it was: the cart is still full, nothing is bought."""
    laptop = ann.device("laptop")
    laptop.get("/")
    for _ in range(11):  # one more than there are
        laptop.post("/cart", product=ann.product)
    refused = pool.submit(laptop.send, "/order")
    ann.shop.question().yes()
    assert (refused.result().status, len(laptop.page.messages)) == (409, 1)
    assert "sold out" in laptop.page.messages[0]
    assert laptop.get("/").cart.count(ann.product) == 11
    assert laptop.page.bought == 0
    assert (ann.shop.stock(ann.product), ann.shop.orders(ann.name)) == (10, [])


def test_order_of_a_device_that_is_signed_out_meanwhile(
    ann: Customer, pool: ThreadPoolExecutor
) -> None:
    """An order under way when its device is signed out brings no session back to life."""
    phone, laptop = ann.device("phone"), ann.device("laptop")
    phone.get("/")
    phone.post("/cart", product=ann.product)
    order = pool.submit(phone.send, "/order")
    question = ann.shop.question()
    laptop.get("/account")
    laptop.post("/devices/end", device=laptop.page.devices["phone"])
    question.yes()
    assert order.result().status == 409
    assert phone.get("/account").status == 303
    assert list(laptop.get("/account").devices) == ["laptop"]
