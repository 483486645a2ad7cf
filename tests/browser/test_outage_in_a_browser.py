"""The outage switch of the demo shop, which is on an embedded server here."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import PATIENCE, Shop, served_shop
from playwright.sync_api import Browser, Page, expect

from pyramid_altsession.testing import private_server

pytestmark = pytest.mark.process

SECONDS = "5"
"""That a page waits for the server: much longer than it takes to answer while it runs."""


@pytest.fixture(scope="module")
def embedded_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("outage")
    with private_server() as server:
        settings = {"url": server.url, "timeout": SECONDS, "connect_timeout": SECONDS}
        named = {f"altsession.redis.{name}": value for name, value in settings.items()}
        with served_shop(folder, **named) as shop:
            yield shop


def looked_at(page: Page, text: str) -> None:
    """It says that, fits a narrow screen, and axe-core finds nothing."""
    expect(page.get_by_role("main")).to_contain_text(text)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert Axe().run(page).violations_count == 0, text


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("de", "dark")])
def test_outage(browser: Browser, embedded_shop: Shop, language: str, scheme: str) -> None:
    """A visitor puts a teapot into the cart on its page, stops the server, sees the pages, starts
    the server again, and the teapot is there."""
    german = language == "de"
    with browser.new_context(
        base_url=embedded_shop.url,
        locale=language,
        color_scheme=scheme,
        viewport={"width": 360, "height": 800},
    ) as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto("/")
        page.get_by_role("link", name="Teekanne" if german else "Teapot").click()
        page.locator("#add-teapot").click()
        expect(page.locator(".cart")).to_contain_text("Teekanne" if german else "Teapot")
        page.goto("/")
        page.get_by_role("link", name="Ausfallschalter" if german else "Outage switch").click()
        looked_at(page, "Der Sitzungsserver läuft." if german else "The session server is running.")
        page.get_by_role("button").click()
        looked_at(page, "server ist angehalten." if german else "server is stopped.")
        assert page.goto("/product/teapot").status == 200
        looked_at(page, "gerade nicht sehen" if german else "cannot see your cart")
        assert page.goto("/about").status == 200
        looked_at(page, "Ausfallschalter" if german else "Outage switch")
        assert page.goto("/cart").status == 503
        looked_at(page, "Gleich wieder da" if german else "Back in a moment")
        page.get_by_role("main").get_by_role("link").first.click()
        page.get_by_role("button").click()
        looked_at(page, "Der Sitzungsserver läuft." if german else "The session server is running.")
        assert page.goto("/cart").status == 200
        expect(page.locator(".cart")).to_contain_text("Teekanne" if german else "Teapot")
