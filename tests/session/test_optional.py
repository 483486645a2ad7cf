"""The view option ``altsession_optional=True``: the page renders while the server is away."""

from collections.abc import Callable
from typing import Any

import pytest
from apps import Site, site
from pyramid.authorization import Authenticated
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from pyramid.response import Response
from pyramid_retry import RetryableException, is_last_attempt

from pyramid_altsession import AltSession, StoreUnavailable
from pyramid_altsession.protocol.messages import Operation, Read
from pyramid_altsession.security import AltSessionAuthenticationHelper

SYNC = {"altsession.sync.enabled": "true"}
Act = Callable[[Request], Any]


class Outage:
    """In front of a store: nothing answers while it is on; ``tried`` is what was asked."""

    def __init__(self, shop: Site) -> None:
        self.on = False
        self.tried: list[Operation] = []
        self.answered, self.sent = shop.watched.execute, shop.watched.send
        shop.watched.execute = self.execute  # type: ignore[method-assign]
        shop.watched.send = self.send  # type: ignore[method-assign]

    def execute(self, operation: Operation) -> Any:
        self.ask(operation)
        return self.answered(operation)

    def send(self, operation: Read) -> Any:
        self.ask(operation)
        return self.sent(operation)

    def ask(self, operation: Operation) -> None:
        self.tried.append(operation)
        if self.on:
            raise StoreUnavailable("away")


def start(request: Request) -> Any:
    request.altsession.mset({"cart": ["tea"], "theme": "dark"})
    request.altsession.login("ann")


def nothing(config: Configurator) -> None:
    """No more to configure."""


def shop_with(
    act: Act, more: Callable[[Configurator], None] = nothing, **options: Any
) -> tuple[Site, Outage]:
    """``/start`` signs in, ``/page`` can do without the session."""

    def configure(config: Configurator) -> None:
        more(config)
        config.add_route("page", "/page")
        config.add_view(
            act, route_name="page", renderer="json", altsession_optional=True, **options
        )

    shop = site("memory://", {"start": start, "strict": act}, settings=SYNC, configure=configure)
    shop.get("/start")
    return shop, Outage(shop)


READS: dict[str, Act] = {
    "get": lambda r: r.altsession.get("cart", "none"),
    "mget": lambda r: r.altsession.mget(["cart"]),
    "all": lambda r: r.altsession.all(),
    "keys": lambda r: r.altsession.keys(),
    "exists": lambda r: r.altsession.exists(),
    "a key exists": lambda r: r.altsession.exists("cart"),
    "created": lambda r: str(r.altsession.created()),
    "ttl": lambda r: r.altsession.ttl(),
    "userid": lambda r: r.altsession.userid(),
    "login_age": lambda r: r.altsession.login_age(),
    "fresh": lambda r: r.altsession.get("cart", fresh=True),
    "prefetched": lambda r: [r.altsession.prefetch("cart"), r.altsession.get("cart")],
    "item": lambda r: r.session.get("cart", "none"),
    "items": lambda r: dict(r.session),
    "flash": lambda r: [r.session.pop_flash(), r.session.peek_flash()],
    "new": lambda r: r.session.new,
}
FOUND: dict[str, Any] = {
    "get": "none", "mget": {"cart": None}, "all": {}, "keys": [], "exists": False,
    "a key exists": False, "created": "None", "ttl": None, "userid": None, "login_age": None,
    "fresh": None, "prefetched": [None, None], "item": "none", "items": {}, "flash": [[], []],
    "new": True,
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
def test_reads_find_nothing(name: str) -> None:
    """The page renders, is kept from caches and leaves the cookie alone; a view without the
    option is a 503. When the server is back, everything is there."""
    shop, outage = shop_with(READS[name], http_cache=3600)
    outage.on = True
    answer = shop.get("/page")
    assert answer.json == FOUND[name]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    shop.get("/strict", status=503)
    outage.on = False
    assert shop.get("/page").headers["Cache-Control"] == "max-age=3600"
    assert shop.api.open(shop.token or "").get("cart") == ["tea"]


def with_late(act: Act, outage: list[Outage]) -> Act:
    """A read fails; then the server is back, and the view goes on."""

    def view(request: Request) -> Any:
        cart = request.altsession.get("cart", [])
        outage[0].on = False
        return act(request) if cart == [] else cart

    return view


WRITES: dict[str, Act] = {
    "set": lambda r: r.altsession.set("cart", ["honey"]),
    "modify": lambda r: r.altsession.modify("cart", lambda cart: [*cart, 1], default=[]),
    "compare": lambda r: r.altsession.compare_and_set("cart", None, []),
    "pop": lambda r: r.altsession.pop("cart"),
    "touch": lambda r: r.altsession.touch(),
    "renew": lambda r: r.altsession.renew(),
    "login": lambda r: r.altsession.login("bob"),
    "invalidate": lambda r: r.altsession.invalidate(),
    "end_others": lambda r: r.altsession.end_others(),
    "item": lambda r: r.session.update(cart=["honey"]),
    "default": lambda r: r.session.setdefault("cart", []),
    "flash": lambda r: r.session.flash("hello"),
    "csrf": lambda r: r.session.get_csrf_token(),
}


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("name", WRITES)
def test_writes_raise(name: str, back: bool) -> None:
    """Also when the server is back by then: what was made of a default replaces nothing."""
    outages: list[Outage] = []
    shop, outage = shop_with(with_late(WRITES[name], outages) if back else WRITES[name])
    outages.append(outage)
    outage.on = True
    shop.get("/page", status=503)
    outage.on = False
    session = shop.api.open(shop.token or "")
    assert (session.get("cart"), session.userid()) == (["tea"], "ann")


def test_one_failure_is_enough() -> None:
    """Later reads do not wait for a server that does not answer; what was read stays."""

    def view(request: Request) -> Any:
        session: AltSession = request.altsession
        theme = session.get("theme")
        outages[0].on = True
        return [theme, session.get("cart"), session.get("other"), session.get("theme")]

    shop, outage = shop_with(view)
    outages = [outage]
    assert shop.get("/page").json == ["dark", None, None, "dark"]
    assert len(outage.tried) == 2


def test_several_cookies() -> None:
    """Which of them is the right one is not found out: nothing is written, the page renders."""
    shop, outage = shop_with(lambda r: r.session.get("cart", "none"))
    outage.on = True
    header = f"sid={'A' * 22}.{'A' * 43}; sid={shop.token}"
    assert shop.other("").get("/page", headers={"Cookie": header}).json == "none"
    assert all(isinstance(each, Read) for each in outage.tried)


def test_a_write_with_several_cookies() -> None:
    """It is refused: which cookie is the right one is not asked again."""

    def view(request: Request) -> None:
        request.altsession.get("cart")
        request.altsession.set("cart", "tea")

    shop, outage = shop_with(view)
    outage.on = True
    header = f"sid={'A' * 22}.{'A' * 43}; sid={shop.token}"
    shop.other("").get("/page", headers={"Cookie": header}, status=503)
    assert [type(each) for each in outage.tried] == [Read]


def test_a_permission_is_not_granted() -> None:
    """Whoever signed in is nobody while the server is away."""

    class Policy:
        def __init__(self) -> None:
            self.helper = AltSessionAuthenticationHelper()

        def authenticated_userid(self, request: Request) -> str | None:
            return self.helper.authenticated_userid(request)

        identity = authenticated_userid

        def permits(self, request: Request, context: object, permission: str) -> bool:
            return self.authenticated_userid(request) is not None

    def configure(config: Configurator) -> None:
        config.set_security_policy(Policy())
        config.add_route("page", "/page")
        config.add_view(
            lambda request: Response("secret"),
            route_name="page",
            permission=Authenticated,
            altsession_optional=True,
        )

    shop = site("memory://", {"start": start}, configure=configure)
    shop.get("/start")
    assert shop.get("/page").text == "secret"
    outage = Outage(shop)
    outage.on = True
    shop.get("/page", status=403)


def test_other_views_are_strict_again() -> None:
    """What comes after the view, here a tween above it, gets errors where the view read nothing."""
    shop, outage = shop_with(lambda r: r.add_response_callback(read_late))
    outage.on = True
    with pytest.raises(StoreUnavailable):
        shop.get("/page")


def read_late(request: Request, response: Response) -> None:
    request.altsession.get("cart")


def test_a_corrupt_session_is_no_outage() -> None:
    """Other errors are raised."""
    shop, outage = shop_with(lambda r: r.altsession.get("cart"))

    def broken(operation: Operation) -> Any:
        raise ValueError("a mistake")

    shop.watched.execute = broken  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="a mistake"):
        shop.get("/page")
    assert outage.tried == []


@pytest.mark.parametrize("option", ["false", "true", 2])
def test_neither_true_nor_false(option: object) -> None:
    """The text "false" would count as true: it is an error when the application starts."""

    def configure(config: Configurator) -> None:
        config.add_route("page", "/page")
        config.add_view(start, route_name="page", renderer="json", altsession_optional=option)

    fault = f": altsession_optional: must be True or False, not {option!r}\n"
    with pytest.raises(ConfigurationError, match=fault):
        site("memory://", {}, configure=configure)


def test_another_attempt_asks_again() -> None:
    """What an attempt that pyramid_retry discards did not get is no matter of the next one."""

    def view(request: Request) -> Any:
        found = request.altsession.get("cart")
        if not is_last_attempt(request):
            outage.on = False
            raise RetryableException
        return found

    def twice(config: Configurator) -> None:
        config.add_settings({"retry.attempts": 2})
        config.include("pyramid_retry")

    shop, outage = shop_with(view, twice)
    outage.on = True
    assert shop.get("/page").json == ["tea"]
