"""The shop, and browsers for its visitors."""

import os
from collections.abc import Callable, Iterator

import pytest
from browsers import PATIENCE, Shop, chromium, chromium_binary, served_shop
from playwright.sync_api import Browser, BrowserContext, Page, expect

expect.set_options(timeout=PATIENCE)

NewVisitor = Callable[..., BrowserContext]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for the whole run; ``new_visitor`` gives it without sessions."""
    folder = tmp_path_factory.mktemp("shop")
    with served_shop(folder, **{"pyramid.includes": "slow_request"}) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Not installed: skipped on a laptop, a failure in CI.

    Of a module, not of the run: while Playwright is there this thread has a running event loop, and
    asyncio refuses a second one to the tests of other modules.
    """
    binary = chromium_binary()
    if binary is None:
        assert not os.environ.get("CI"), "CI has to have a Chromium"
        pytest.skip("no Chromium on PATH")
    with chromium(binary) as found:
        yield found


@pytest.fixture
def new_visitor(browser: Browser, shop: Shop) -> Iterator[NewVisitor]:
    """A browser of its own for each call, with what ``Browser.new_context`` takes."""
    shop.server.client.flushall()
    opened: list[BrowserContext] = []

    def new(**options: object) -> BrowserContext:
        opened.append(browser.new_context(base_url=shop.url, **options))
        opened[-1].set_default_timeout(PATIENCE)
        return opened[-1]

    yield new
    for context in opened:
        context.close()


@pytest.fixture
def visitor(new_visitor: NewVisitor) -> BrowserContext:
    return new_visitor()


@pytest.fixture
def page(visitor: BrowserContext) -> Page:
    """A tab of the visitor's."""
    return visitor.new_page()
