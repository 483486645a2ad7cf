"""The demo shop as processes of its own, and Chromium to visit it."""

import configparser
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright
from servers import SUPPORT, Server, free_port, valkey
from workers import eventually

ROOT = Path(__file__).parents[2]
PATIENCE = 60_000  # milliseconds: a busy machine is no fault
BINARIES = ("chromium", "chromium-browser", "google-chrome")
"""As Debian, older Ubuntus and Google call it."""


def chromium_binary() -> str | None:
    """The machine's Chromium; none is ever downloaded."""
    return next(filter(None, map(shutil.which, BINARIES)), None)


@contextmanager
def chromium(binary: str) -> Iterator[Browser]:
    """A Chromium without a window. Its contexts have separate cookies: each is another visitor."""
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=root)
        yield browser
        browser.close()


@dataclass
class Shop:
    """Where the shop and its live page are, and the server that holds their sessions."""

    url: str
    live: str
    server: Server


def ini_file(folder: Path, server: Server, **settings: str) -> tuple[Path, Shop]:
    """The shop's development.ini with other ports, that server and these settings."""
    file = configparser.RawConfigParser()
    file.read(ROOT / "development.ini")
    shop, live = (f"http://localhost:{free_port()}" for _ in range(2))
    file["app:main"].update(
        {
            "altsession.redis.url": server.url,
            "altsession.redis.timeout": "30",  # a busy machine is no outage
            "altsession.redis.connect_timeout": "30",
            "demo.shop": shop,
            "demo.live": live,
            "demo.docs": str(ROOT / "docs"),
            **settings,
        }
    )
    file["server:main"]["listen"] = shop.removeprefix("http://")
    path = folder / "development.ini"
    with path.open("w") as out:
        file.write(out)
    return path, Shop(shop, live, server)


@contextmanager
def served_shop(folder: Path, **settings: str) -> Iterator[Shop]:
    """The shop by ``pserve``, and its live page, as ``make demo`` starts them."""
    server = valkey()
    path, shop = ini_file(folder, server, **settings)
    paths = [str(SUPPORT), os.environ.get("PYTHONPATH", "")]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with (folder / "log").open("wb") as log:
        processes = [
            subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log, env=environ)
            for command in (
                ("pyramid.scripts.pserve", str(path)),
                ("pyramid_altsession.demo.live", str(path)),
            )
        ]
    try:
        for url in (f"{shop.url}/about", shop.live):
            up = eventually(lambda url=url: answers(url) or any(p.poll() for p in processes))
            assert up is True, (folder / "log").read_text()
        yield shop
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        server.stop()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60):
            return True
    except urllib.error.URLError:
        return False


def sign_in(page: Page, name: str, to: str = "account") -> None:
    """By the form, in whatever language; then the page ``to`` is shown, with a welcome."""
    page.goto(f"/sign-in?to={to}")
    page.locator("#name").fill(name)
    page.locator("form[action$='/sign-in'] button").click()
    expect(page.get_by_role("status")).to_contain_text(name)
