"""Fill a test server with sessions such as an application would have."""

import random
from argparse import Namespace

from ..api import SessionAPI
from .configuration import Configured
from .errors import CommandError
from .output import Output

MARK = "altsession_load"
"""A key that every session made here has, to recognise it."""
EVERY = 100
"""Progress is shown after each so many sessions."""
SIGNED_IN = 0.4
"""Share of the sessions that have a user."""
PRODUCTS = ("tea", "honey", "cup", "kettle", "tray", "spoon")
AGENTS = ("Firefox, Linux", "Chrome, Android", "Safari, iPhone", "Edge, Windows")


def load(arguments: Namespace, configured: Configured, output: Output) -> int:
    """Make sessions; refuses if the server has any that were not made by this command."""
    with configured.api() as api:
        if not _all_made_here(api, output):
            place = configured.settings.redis.place
            raise CommandError(f"{place} holds sessions of others; load is for a test server")
        draw = random.Random(arguments.number)  # makes the same sessions each time
        with output.progress("sessions made") as show:
            for number in range(1, arguments.number + 1):
                make(api, draw, number)
                if number % EVERY == 0:
                    show(number)
    output.one({"made": arguments.number})
    return 0


def _all_made_here(api: SessionAPI, output: Output) -> bool:
    with output.progress("sessions looked at") as show:
        for number, info in enumerate(api.scan(keys=True), 1):
            if MARK not in (info.keys or {}):
                return False
            if number % EVERY == 0:
                show(number)
    return True


def make(api: SessionAPI, draw: random.Random, number: int) -> None:
    """One session: a visitor with a cart, or a user. Two round trips at most."""
    cart = {product: draw.randint(1, 5) for product in PRODUCTS if draw.random() < 0.3}
    values = {MARK: 1, "language": draw.choice(("en", "de")), "cart": cart}
    if draw.random() < 0.1:
        values["draft"] = "x" * draw.randint(100, 6000)
    session = api.create(values)
    if draw.random() < SIGNED_IN:
        session.login(f"user-{number % 1000}", info={"agent": draw.choice(AGENTS)})
