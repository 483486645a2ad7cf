"""The pictures in docs/images of the demo shop, the admin page, the toolbar's panel and the tool.

``python tests/support/pictures.py`` takes them anew. With a folder it takes every page, at 360 and
1280 px, light and dark, to be looked at there.
"""

import io
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from html import escape
from pathlib import Path

from browsers import ROOT, Shop, chromium, chromium_binary, served_shop, sign_in
from operator_page import SESSIONS
from PIL import Image
from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.terminal_theme import MONOKAI
from servers import valkey

from pyramid_altsession.cli import main, tables

IMAGES = ROOT / "docs/images"
COLOURS = 256
NARROW, WIDE = 360, 1280
TOOLBAR = {
    "pyramid.includes": "pyramid_debugtoolbar",
    "debugtoolbar.includes": "pyramid_altsession.debugtoolbar",
    "debugtoolbar.panels": "altsession headers request_vars",
}
AGENTS = {
    "Firefox, Windows": "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Safari, iPhone": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Safari/604.1",
}


def write(shot: bytes, path: Path) -> None:
    """A PNG with a palette, which is a third of the size."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def visit(page: Page, shop: Shop) -> Iterator[str]:
    """Every page, with something on it; its name."""
    page.goto("/")
    yield "home-first"
    page.goto("/cart")
    yield "cart-empty"
    for name in ("Linden honey", "Teapot"):
        page.goto("/")
        page.get_by_role("button", name=f"Add to cart {name}").click()
        page.get_by_role("status").wait_for()
    yield "cart"
    for name in ("sign-in", "about", "missing", "why", "counter", "product/teapot"):
        page.goto(f"/{name}")
        yield name.partition("/")[0]
    sign_in(page, "admin")
    yield "account-welcome"
    page.goto("/account/address")
    yield "address"
    page.goto("/")
    yield "home"
    page.goto("/sessions/")
    yield "sessions"
    page.goto("/sessions/?q=nobody")
    yield "sessions-none"
    page.goto("/sessions/?q=ann")
    yield "sessions-found"
    page.get_by_role("row").get_by_role("link").first.click()
    yield "session"
    page.goto(shop.live)
    page.locator("#lines tr").first.wait_for()
    yield "live"


def devices(browser: Browser, shop: Shop) -> None:
    """Ann signs in with two more browsers."""
    for agent in AGENTS.values():
        with browser.new_context(base_url=shop.url, user_agent=agent, locale="en") as context:
            sign_in(context.new_page(), "ann")


def take_all(browser: Browser, shop: Shop, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for scheme in ("light", "dark"):
        for width in (NARROW, WIDE):
            with browser.new_context(
                base_url=shop.url, color_scheme=scheme, viewport={"width": width, "height": 800}
            ) as context:
                page = context.new_page()
                for name in visit(page, shop):
                    path = folder / f"{name}-{width}-{scheme}.png"
                    write(page.screenshot(full_page=True), path)


def take_chosen(browser: Browser, shop: Shop) -> None:
    def shot(page: Page, name: str, height: int) -> None:
        size = page.viewport_size["width"]
        clip = {"x": 0, "y": 0, "width": size, "height": height}
        write(page.screenshot(full_page=True, clip=clip), IMAGES / f"{name}.png")

    wide = {"width": WIDE, "height": 800}
    with browser.new_context(base_url=shop.url, viewport=wide) as context:
        page = context.new_page()
        page.goto("/")
        page.get_by_role("button", name="Add to cart Teapot").click()
        page.get_by_role("status").wait_for()
        page.goto("/")
        shot(page, "demo-home", 990)
        page.goto("/why")
        shot(page, "demo-why", 925)
        sign_in(page, "ann")
        page.goto("/account")
        shot(page, "demo-devices", 560)
    with browser.new_context(base_url=shop.url, viewport=wide) as context:
        page = context.new_page()
        sign_in(page, "admin")
        page.goto("/sessions/?q=ann")
        shot(page, "admin", 720)
    narrow = {"width": NARROW, "height": 800}
    with browser.new_context(base_url=shop.url, viewport=narrow, color_scheme="dark") as context:
        page = context.new_page()
        sign_in(page, "admin")
        page.goto("/sessions/?q=ann")
        shot(page, "admin-narrow", 800)


def take_panel(browser: Browser, shop: Shop) -> None:
    """What the toolbar says of a form of the shop."""
    with browser.new_context(base_url=shop.url, viewport={"width": WIDE, "height": 390}) as context:
        page = context.new_page()
        sign_in(page, "ann")
        page.goto("/account")
        (link,) = re.findall(r'href="([^"]*/_debug_toolbar/[^"]+)" target', page.content())
        page.goto(link)
        page.locator("#pDebugPanel-altsession a").click()
        page.locator("#pDebugPanel-altsession-content").wait_for()
        page.evaluate("document.activeElement.blur()")
        write(page.screenshot(), IMAGES / "toolbar.png")


def take_terminal() -> None:
    """What ``stats`` and ``doctor`` print in a terminal."""
    foreign = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)  # a font of another site
    recorded: list[Console] = []

    def console(**options: object) -> Console:
        out = io.StringIO()
        made = partial(Console, record=True, width=96, force_terminal=True, file=out)(**options)
        recorded.append(made)
        return made

    server = valkey()
    original, tables.Console = tables.Console, console  # type: ignore[assignment, misc]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "production.yaml"
        file.write_text(f"redis: {{url: 'unix://{server.socket}'}}\n")
        main([str(file), "load", str(SESSIONS)])
        for command in ("stats", "doctor"):
            recorded.clear()
            main([str(file), command])
            title = f"altsession production.ini {command}"
            said = escape(recorded[0].export_text(clear=False))
            picture = recorded[0].export_svg(title=title, theme=MONOKAI, unique_id=command)
            picture = foreign.sub("", picture).replace("Fira Code, monospace", "monospace")
            start, end = picture.split(">", 1)
            told = f'<title id="t">{title}</title>\n<desc id="d">{said}</desc>'
            start = f'{start} role="img" aria-labelledby="t d">'
            (IMAGES / f"{command}.svg").write_text(f"{start}\n{told}{end}")
    tables.Console = original  # type: ignore[misc]
    server.stop()


if __name__ == "__main__":
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shop = stack.enter_context(served_shop(folder))
        browser = stack.enter_context(chromium(chromium_binary() or "chromium"))
        devices(browser, shop)
        if sys.argv[1:]:
            take_all(browser, shop, Path(sys.argv[1]))
        else:
            take_chosen(browser, shop)
            take_terminal()
    if not sys.argv[1:]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            shop = stack.enter_context(served_shop(folder, **TOOLBAR))
            take_panel(stack.enter_context(chromium(chromium_binary() or "chromium")), shop)
