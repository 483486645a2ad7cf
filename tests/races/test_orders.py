"""The application starts in whatever order it puts Pyramid's own parts, and ours work there."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from apps import Site, site
from inside import store_in
from pyramid import viewderivers
from pyramid.config import Configurator
from pyramid.interfaces import ITweens, IViewDerivers
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.tweens import EXCVIEW, INGRESS, MAIN

from pyramid_altsession import ISessionAPI
from pyramid_altsession.web.security import AltSessionAuthenticationHelper
from pyramid_altsession.web.transaction import TM, TRANSACTION
from pyramid_altsession.web.tween import NAME

OURS = "pyramid_altsession"
SETTINGS = {"altsession.redis.url": "memory://"}
DERIVERS = (
    "secured_view", "csrf_view", "owrapped_view", "http_cached_view", "decorated_view",
    "rendered_view",
)  # fmt: skip
Arrange = Callable[[Configurator], object]


def arranged(order: tuple[str, ...]) -> Arrange:
    """Put Pyramid's view derivers into this order."""

    def arrange(config: Configurator) -> None:
        above = viewderivers.INGRESS
        for name in order:
            deriver = getattr(viewderivers, name)
            config.add_view_deriver(deriver, name, under=above, over=viewderivers.VIEW)
            above = name

    return arrange


def warehouse(config: Configurator) -> None:
    """CSRF tokens are checked before permissions."""
    config.add_view_deriver(viewderivers.csrf_view, under=viewderivers.INGRESS, over="secured_view")


def first(arrange: Arrange, config: Configurator) -> None:
    arrange(config)
    config.include(OURS)


def last(arrange: Arrange, config: Configurator) -> None:
    config.include(OURS)
    arrange(config)


def after_a_commit(arrange: Arrange, config: Configurator) -> None:
    config.include(OURS)
    config.commit()
    arrange(config)


WAYS = [first, last, after_a_commit]


class Policy:
    def __init__(self) -> None:
        helper = AltSessionAuthenticationHelper()
        self.authenticated_userid = self.identity = helper.authenticated_userid

    def permits(self, request: Request, context: Any, permission: str) -> bool:
        return self.authenticated_userid(request) is not None


def configured(way: Any, arrange: Arrange, settings: dict[str, Any] = SETTINGS) -> Configurator:
    config = Configurator(settings=settings)
    way(arrange, config)
    return config


def names(config: Configurator) -> list[str]:
    """The view derivers, outermost first."""
    return [name for name, _ in config.registry.getUtility(IViewDerivers).sorted()]


def shop(config: Configurator, ran: list[str]) -> Site:
    """A page for who is signed in, and has signed in within the last minute."""

    def secret(request: Request) -> dict[str, str]:
        ran.append("secret")
        return {}

    config.set_security_policy(Policy())
    config.add_route("in", "/in")
    config.add_route("secret", "/secret")
    config.add_view(lambda r: r.altsession.login("ann"), route_name="in", renderer="json")
    config.add_view(
        secret, route_name="secret", renderer="json", permission="see", fresh_login=60,
        http_cache=0, decorator=lambda view: view,
    )  # fmt: skip
    return Site(config.make_wsgi_app(), config.registry)


def check(config: Configurator) -> None:
    """The permission counts first, then the age of the login, and only then does the view run."""
    ran: list[str] = []
    browser = shop(config, ran)
    place = names(config).index
    assert place("fetch_keys") < min(place("csrf_view"), place("secured_view"))
    assert place("secured_view") < place("fresh_login")
    refused = browser.get("/secret", status=403)
    assert ("sign in again" in refused.text, ran) == (False, [])
    browser.get("/in")
    assert (browser.get("/secret").json, ran) == ({}, ["secret"])
    id, _, _ = str(browser.token).partition(".")
    store = store_in(browser.api).store
    store.hashes[id]["@l"] = b"%d" % (int(store.hashes[id]["@l"]) - 61_000)
    refused = browser.get("/secret", status=403)
    assert ("sign in again" in refused.text, ran) == (True, ["secret"])


@pytest.mark.parametrize("way", WAYS)
def test_tokens_before_permissions(way: Any) -> None:
    """An application that checks CSRF tokens before permissions starts."""
    config = configured(way, warehouse)
    config.commit()
    assert names(config)[:5] == [
        "do_without",
        "fetch_keys",
        "csrf_view",
        "secured_view",
        "fresh_login",
    ]
    check(configured(way, warehouse))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_orders_of_view_derivers(way: Any) -> None:
    """So does one with any order of Pyramid's derivers that Pyramid itself works with."""
    orders = [o for o in itertools.permutations(DERIVERS) if o[-1] == "rendered_view"]
    for order in random.Random(1).sample(orders, 25):
        check(configured(way, arranged(order)))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_order_starts(way: Any) -> None:
    """No order is a cycle."""
    for order in random.Random(2).sample(list(itertools.permutations(DERIVERS)), 40):
        config = configured(way, arranged(order))
        config.commit()
        found = names(config)
        assert [name for name in found if name in order] == list(order)
        assert found.index("secured_view") < found.index("fresh_login") < len(found) - 1


def test_usual_order() -> None:
    """Where the application moves nothing, the age of the login is looked at next to the
    permission, before CSRF tokens are."""
    config = configured(first, lambda config: None)
    config.commit()
    assert names(config)[:5] == [
        "do_without",
        "fetch_keys",
        "secured_view",
        "fresh_login",
        "csrf_view",
    ]


# -- tweens


def outer(handler: Any, registry: Registry) -> Any:
    return handler


inner = outer


def tweens(config: Configurator) -> list[str]:
    config.commit()
    return [name for name, _ in config.registry.getUtility(ITweens).implicit()]


MOVES: dict[str, Arrange] = {
    "nothing": lambda config: None,
    "exception views below": lambda config: (
        config.add_tween(f"{__name__}.outer", over=MAIN),
        config.add_tween(EXCVIEW, under=f"{__name__}.outer"),
    ),
    "exception views above": lambda config: (
        config.add_tween(f"{__name__}.outer", under=INGRESS),
        config.add_tween(EXCVIEW, over=f"{__name__}.outer"),
    ),
    "transactions below exception views": lambda config: config.add_tween(TM, under=EXCVIEW),
    "between": lambda config: (
        config.add_tween(f"{__name__}.outer", over=EXCVIEW),
        config.add_tween(f"{__name__}.inner", under=EXCVIEW),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("move", MOVES)
def test_orders_of_tweens(way: Any, move: str) -> None:
    """Ours is above the exception views and the transaction, wherever these are."""
    found = tweens(configured(way, MOVES[move]))
    assert found.index(NAME) < found.index(EXCVIEW)
    assert min([NAME, *({TM} & set(found))], key=found.index) == NAME


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("move", ["nothing", "exception views below", "between"])
def test_orders_of_transactions(way: Any, move: str) -> None:
    """With a transaction the changes join it above the exception views, next below its tween."""

    def arrange(config: Configurator) -> None:
        MOVES[move](config)
        config.include("pyramid_tm")

    settings = SETTINGS | {"altsession.transactional": "true", "altsession.sync.enabled": "true"}
    config = Configurator(settings=settings)
    config.include("pyramid_tm")
    config.commit()
    way(MOVES[move], config)
    found = tweens(config)
    assert found[found.index(TM) + 1] == TRANSACTION
    assert found.index(NAME) < found.index(TM) < found.index(EXCVIEW)


def test_no_transactions() -> None:
    """The tween of the transactions is there with the setting alone, and does nothing where
    ``pyramid.tweens`` lists it without the setting."""
    assert TRANSACTION not in tweens(configured(first, lambda config: None))
    browser = site(
        "memory://",
        {"set": lambda request: request.altsession.set("k", 1)},
        settings={"pyramid.tweens": [NAME, TRANSACTION, EXCVIEW]},
    )
    browser.get("/set")
    assert browser.token is not None


# -- a registry without anything


def test_bare_registry() -> None:
    """A Configurator on a registry that has none of Pyramid's own parts yet takes us too."""
    config = Configurator(Registry())
    config.add_settings(SETTINGS)
    config.include(OURS)
    config.commit()
    assert config.registry.getUtility(ISessionAPI).create({"k": 1}).get("k") == 1


def test_bare_registry_set_up_later() -> None:
    """What is set up afterwards finds its place."""
    config = Configurator(Registry())
    config.setup_registry(settings=SETTINGS)
    config.include(OURS)
    check(config)


def test_bare_registry_then_derivers() -> None:
    """Pyramid's derivers, added after ours, stand in the usual order."""
    config = Configurator(Registry())
    config.add_settings(SETTINGS)
    config.include(OURS)
    config.commit()
    config.add_default_view_derivers()
    config.add_default_tweens()
    config.commit()
    found = names(config)
    assert found[:2] == ["do_without", "fetch_keys"]
    assert found.index("secured_view") < found.index("fresh_login") < found.index("mapped_view")
    assert tweens(config) == [NAME, EXCVIEW]
