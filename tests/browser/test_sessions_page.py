"""The admin page, as the demo shop mounts it, in the administrator's browser."""

from collections.abc import Callable

import pytest
from browsers import Shop, sign_in
from playwright.sync_api import BrowserContext, Page, Route, expect

pytestmark = pytest.mark.process


@pytest.fixture
def bob(new_visitor: Callable[..., BrowserContext]) -> Page:
    """Another browser, signed in."""
    page = new_visitor().new_page()
    sign_in(page, "sessions-bob")
    return page


def test_end_a_device(page: Page, bob: Page) -> None:
    """The administrator finds the user and ends the session: the other browser is signed out at its
    next request."""
    sign_in(page, "admin")
    page.get_by_role("link", name="All sessions").click()
    page.get_by_label("User or session id").fill("sessions-bob")
    page.get_by_role("button", name="Find").click()
    row = page.get_by_role("row").filter(has_text="sessions-bob")
    row.get_by_role("button", name="End").click()
    expect(page.get_by_role("status")).to_have_text("1 session was ended.")
    assert bob.reload().status == 403
    expect(bob.get_by_role("main")).to_contain_text("Please sign in first.")


def test_without_the_permission(page: Page, bob: Page) -> None:
    """A user without it gets 403 and no link, and so does a visitor."""
    for other in (page, bob):
        assert other.goto("/sessions/?q=sessions-bob").status == 403
        expect(other.get_by_role("table", name="session")).to_have_count(0)
    bob.goto("/account")
    expect(bob.get_by_role("link", name="All sessions")).to_have_count(0)


FORGED = """<!doctype html>
<form method="post" action="{}/sessions/end">
  <input name="user" value="sessions-bob"><input name="csrf_token" value="guessed">
  <button>You have won</button>
</form>"""


@pytest.mark.parametrize("site", ["http://localhost:1", "http://evil.example"])
def test_forged_form_of_another_site(page: Page, bob: Page, shop: Shop, site: str) -> None:
    """It is refused, whether or not the browser sends the cookie along: for another port of the
    same host it does."""

    def answer(route: Route) -> None:
        route.fulfill(body=FORGED.format(shop.url), content_type="text/html")

    sign_in(page, "admin")
    page.route(f"{site}/", answer)
    page.goto(f"{site}/")
    with page.expect_response("**/sessions/end") as refused:
        page.get_by_role("button").click()
    sent = refused.value.request.all_headers()
    assert ("sid=" in sent.get("cookie", "")) is (site == "http://localhost:1")
    assert refused.value.status == 400
    assert bob.reload().status == 200


def test_form_without_the_token(page: Page, bob: Page) -> None:
    """Nor is one taken from the page itself whose token is another."""
    sign_in(page, "admin")
    page.goto("/sessions/?q=sessions-bob")
    form = page.locator("form", has=page.get_by_role("button", name="End all sessions of"))
    form.locator("[name=csrf_token]").evaluate("field => field.value = 'guessed'")
    with page.expect_response("**/sessions/end") as refused:
        form.get_by_role("button").click()
    assert refused.value.status == 400
    assert bob.reload().status == 200
