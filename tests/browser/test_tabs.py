"""Visitors of the demo shop who use two tabs or two browsers at once."""

from collections.abc import Callable

import pytest
import slow_request
from browsers import Shop, sign_in
from playwright.sync_api import BrowserContext, Page, expect

pytestmark = pytest.mark.process


def add(page: Page, product: str) -> None:
    page.goto("/")
    page.get_by_role("button", name=f"Add to cart {product}").click()
    expect(page.get_by_role("status")).to_have_text(f"In your cart: {product}.")


def begin_slowly(page: Page, shop: Shop, product: str) -> None:
    """Press the button, and wait until its request has the session in hand. All forms of this tab
    are slow then."""
    page.goto("/")
    page.set_extra_http_headers({slow_request.HEADER: "yes"})
    page.get_by_role("button", name=f"Add to cart {product}").click(no_wait_after=True)
    assert slow_request.has_begun(shop.server.url)


def cart(page: Page) -> dict[str, str]:
    """How many there are of each product."""
    page.goto("/cart")
    rows = page.locator("table.cart tbody tr").all()
    return {
        row.get_by_role("rowheader").inner_text(): row.locator(".number").inner_text()
        for row in rows
    }


@pytest.mark.parametrize("products", [("Teapot", "Linden honey"), ("Teapot", "Teapot")])
def test_two_tabs_add_at_once(
    visitor: BrowserContext, shop: Shop, products: tuple[str, str]
) -> None:
    """Both requests have the session before either writes to it; the cart holds both products, or
    two of the same."""
    tabs = [visitor.new_page() for _ in products]
    add(tabs[0], "Infuser")
    for tab, product in zip(tabs, products, strict=True):
        begin_slowly(tab, shop, product)
    for _ in tabs:
        slow_request.let_go_on(shop.server.url)
    for tab in tabs:
        expect(tab.get_by_role("heading", level=1)).to_have_text("Cart")
    assert cart(tabs[0]) == {"Infuser": "1 ×"} | {
        product: f"{products.count(product)} ×" for product in products
    }


def test_sign_out_during_a_slow_request(visitor: BrowserContext, shop: Shop) -> None:
    """The tab of the slow request says that the session has ended, and stays signed out."""
    slow, other = visitor.new_page(), visitor.new_page()
    sign_in(slow, "tabs-ann")
    begin_slowly(slow, shop, "Teapot")
    other.goto("/")
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("link", name="Sign in").first).to_be_visible()
    with slow.expect_response("**/add") as answer:
        slow_request.let_go_on(shop.server.url)
    assert answer.value.status == 409
    expect(slow.get_by_role("heading", level=1)).to_have_text("Your session has ended")
    slow.get_by_role("main").get_by_role("link").click()
    for tab in (slow, other):
        assert tab.goto("/account").status == 403
        assert cart(tab) == {}
    assert [cookie["name"] for cookie in visitor.cookies()] == []


def test_end_another_device(new_visitor: Callable[..., BrowserContext]) -> None:
    """The other browser is signed out at its next request, and signs in again at once."""
    here, there = new_visitor().new_page(), new_visitor().new_page()
    for page in (there, here):
        sign_in(page, "tabs-bob")
    here.get_by_role("button", name="End").click()
    expect(here.get_by_role("status")).to_have_text("That session has ended.")
    expect(here.locator(".device")).to_have_count(1)
    assert there.reload().status == 403
    expect(there.get_by_role("main")).to_contain_text("Please sign in first.")
    sign_in(there, "tabs-bob")
    expect(there.locator(".device")).to_have_count(2)


def test_the_live_page_closes_on_logout(visitor: BrowserContext, shop: Shop) -> None:
    """It follows the cart until the visitor signs out in another tab."""
    tab, live = visitor.new_page(), visitor.new_page()
    sign_in(tab, "tabs-eve")
    live.goto(shop.live)
    expect(live.get_by_role("status")).to_have_text("Connected.")
    add(tab, "Teapot")
    expect(live.get_by_role("row", name="Teapot")).to_contain_text("€34.00")
    tab.get_by_role("button", name="Sign out").click()
    expect(live.get_by_role("status")).to_have_text("The session has ended, or has not begun yet.")
    expect(live.get_by_role("row", name="Teapot")).to_have_count(0)


def test_the_live_page_goes_on_after_a_sign_in(visitor: BrowserContext, shop: Shop) -> None:
    """The session is the same, with another cookie."""
    tab, live = visitor.new_page(), visitor.new_page()
    tab.goto("/")
    add(tab, "Teapot")
    live.goto(shop.live)
    expect(live.get_by_role("row", name="Teapot")).to_contain_text("€34.00")
    sign_in(tab, "tabs-kim")
    add(tab, "Teapot")
    expect(live.get_by_role("row", name="Teapot")).to_contain_text("€68.00")
    expect(live.get_by_role("status")).to_have_text("Connected.")
