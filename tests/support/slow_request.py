"""For the shop's ``pyramid.includes``: forms that say so in a header wait, with their session in
hand, until somebody lets them go on.

Both sides meet at lists of the server that holds the sessions.
"""

from pyramid.config import Configurator
from pyramid.events import ContextFound
from pyramid.request import Request
from redis import Redis

HEADER = "X-Slow"
BEGUN, GO_ON = "slow:begun", "slow:go-on"
DEADLINE = 60  # seconds


def wait(event: ContextFound) -> None:
    request: Request = event.request
    if HEADER in request.headers and request.method == "POST":  # not the icon of the page before
        request.altsession.get("language")
        url = request.registry.settings["altsession.redis.url"]
        with Redis.from_url(url, socket_timeout=None) as server:
            server.rpush(BEGUN, "")
            server.blpop([GO_ON], timeout=DEADLINE)


def has_begun(url: str) -> bool:
    """Whether a slow request has its session in hand; waits for it."""
    with Redis.from_url(url, socket_timeout=None) as server:
        return server.blpop([BEGUN], timeout=DEADLINE) is not None


def let_go_on(url: str) -> None:
    """One slow request."""
    with Redis.from_url(url) as server:
        server.rpush(GO_ON, "")


def includeme(config: Configurator) -> None:
    config.add_subscriber(wait, ContextFound)
