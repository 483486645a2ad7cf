"""Every page of the demo shop and of the admin page: with a keyboard only, to axe-core, on a narrow
screen, without scripts."""

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import Shop, sign_in
from playwright.sync_api import BrowserContext, Page, expect
from workers import eventually

pytestmark = pytest.mark.process

NARROW = {"width": 360, "height": 800}
VISITORS_PAGES = ("/", "/product/teapot", "/cart", "/counter", "/why", "/about", "/sign-in")
VISITORS_PAGES += ("/account", "/missing")
USERS_PAGES = ("/", "/product/teapot", "/cart", "/account", "/account/address", "/sessions/")


def every_page(page: Page, shop: Shop) -> Iterator[str]:
    """Go to each, first as a visitor without a session and then as the administrator, with
    something in the cart; the paths."""
    for path in VISITORS_PAGES:
        page.goto(path)
        yield path
    sign_in(page, "admin")
    page.goto("/")
    page.locator("form[action$='/add'] button").first.click()
    expect(page.get_by_role("status")).to_be_visible()
    for path in USERS_PAGES:
        page.goto(path)
        yield f"{path} of a user"
    page.get_by_role("searchbox").fill("admin")
    page.get_by_role("searchbox").press("Enter")
    expect(page.get_by_role("table")).to_be_visible()
    yield "sessions found"
    page.get_by_role("row").get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Session ")
    yield "one session"
    page.goto(shop.live)
    expect(page.locator("#lines tr")).not_to_have_count(0)
    yield "live"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(
    new_visitor: Callable[..., BrowserContext], shop: Shop, scheme: str
) -> None:
    """All rules of axe-core, best practices and contrast included."""
    page = new_visitor(color_scheme=scheme).new_page()
    found = {
        name: report.generate_report()
        for name in every_page(page, shop)
        if (report := Axe().run(page)).violations_count
    }
    assert found == {}


@pytest.mark.parametrize("language", ["en", "de"])
def test_nothing_is_wider_than_a_narrow_screen(
    new_visitor: Callable[..., BrowserContext], shop: Shop, language: str
) -> None:
    """At 360 px no page scrolls sideways."""
    page = new_visitor(viewport=NARROW, locale=language).new_page()
    widths = {
        name: page.evaluate("document.documentElement.scrollWidth")
        for name in every_page(page, shop)
    }
    assert set(widths.values()) == {NARROW["width"]}, widths


def test_outage(page: Page, shop: Shop) -> None:
    """Without its server the shop shows a page that says so and leads back, and serves on as soon
    as the server is there again."""
    page.goto("/")
    page.get_by_role("button", name="Add to cart Teapot").click()
    expect(page.get_by_role("status")).to_have_text("In your cart: Teapot.")
    shop.server.kill()
    try:
        assert page.goto("/cart").status == 503
        expect(page.get_by_role("heading", level=1)).to_have_text("Back in a moment")
        assert Axe().run(page).violations_count == 0
        assert page.goto("/about").status == 200
    finally:
        shop.server.start()
    assert eventually(lambda: page.goto("/cart").status == 200)
    expect(page.get_by_role("main")).to_contain_text("Nothing in the cart yet.")


FOCUSED = """() => {
    const element = document.activeElement, style = getComputedStyle(element);
    const { top, bottom, height, width } = element.getBoundingClientRect();
    return [
        (element.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean)
            .map((id) => document.getElementById(id).textContent).join(" ")
            || element.value || element.textContent.trim(),
        style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2
            && width > 1 && height > 1 && bottom > 0 && top < innerHeight,
    ];
}"""
"""Name of what has the focus, and whether its outline is on the screen."""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until that has the focus. Whatever has it on the way shows it."""
    passed: list[str] = []
    while not passed or passed[-1] != name:
        page.keyboard.press("Tab")
        focused, visible = page.evaluate(FOCUSED)
        assert visible, f"the focus on {focused!r} is not seen"
        assert focused not in passed, f"{name!r} is not reached: {passed}"
        passed.append(focused)


def test_keyboard_only(page: Page) -> None:
    """Into the cart and through the sign-in with Tab, Enter and letters."""
    page.goto("/")
    tab_to(page, "Skip to the content")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    tab_to(page, "Add to cart Teapot")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("In your cart: Teapot.")
    tab_to(page, "Sign in")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    tab_to(page, "Skip to the content")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Your name")).to_be_focused()
    page.keyboard.type("pages-ann")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Welcome, pages-ann.")


def test_without_scripts(new_visitor: Callable[..., BrowserContext]) -> None:
    """Cart, sign-in and the administrator's forms need none."""
    page = new_visitor(java_script_enabled=False).new_page()
    page.goto("/")
    page.get_by_role("button", name="Add to cart Teapot").click()
    expect(page.get_by_role("status")).to_have_text("In your cart: Teapot.")
    sign_in(page, "admin", to="cart")
    expect(page.locator("table.cart").get_by_role("rowheader", name="Teapot")).to_be_visible()
    page.goto("/sessions/?q=admin")
    own = page.get_by_role("row").filter(has_text="(yours)")
    own.get_by_role("button", name="End").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
