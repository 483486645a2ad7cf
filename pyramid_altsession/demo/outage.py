"""The outage switch: stops the session server, so that one sees what visitors see then, and starts
it again. Its own page and forms do without a session, as there is none to be had meanwhile."""

import subprocess
from threading import Lock
from urllib.parse import urlsplit

from pyramid.config import Configurator
from pyramid.exceptions import BadCSRFOrigin
from pyramid.httpexceptions import HTTPNotFound, HTTPSeeOther
from pyramid.request import Request
from pyramid.view import view_config
from redis import Redis, RedisError

from ..errors import StoreUnavailable
from ..stores.embedded import EmbeddedServer, python
from . import halt
from .account import sessions_api
from .products import PRODUCTS
from .recorder import see_other
from .views import Page, plain

SWITCH = "pyramid_altsession.demo.switch"
"""registry: the :class:`Switch`."""
LONGEST = 60
"""Seconds after which a stopped server goes on by itself."""
PATIENCE = 10
"""Seconds to wait for the server's answer, before it is stopped."""
ADDRESSES, NAMES = ("127.0.0.1", "::1"), ("localhost", "127.0.0.1", "[::1]")
"""Of this machine, as the connection and as the browser call it."""
FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Real-IP")
"""Headers that tell of a proxy, whose visitors may be anywhere."""


def process_id(url: str) -> int:
    """Of the server behind an ``embedded://`` address, which may have to be started."""
    server = EmbeddedServer(urlsplit(url).path or None)
    try:
        with Redis(unix_socket_path=server.socket(), socket_timeout=PATIENCE) as client:
            return int(client.info("server")["process_id"])
    except (OSError, RedisError) as exc:
        raise StoreUnavailable(f"the outage switch found no server to stop: {exc}") from exc
    finally:
        server.release()


class Switch:
    """Stops the process of a server (SIGSTOP), and has it go on.

    ``halt.py`` does it, as a process of its own: so the server goes on even if this one is killed.
    """

    def __init__(self) -> None:
        self.seconds: float = LONGEST
        self._halting: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    @property
    def off(self) -> bool:
        """Whether the server is stopped now."""
        halting = self._halting
        return halting is not None and halting.poll() is None

    def stop(self, url: str) -> None:
        """Nothing happens if it is stopped already. StoreUnavailable if it does not answer."""
        with self._lock:
            if self.off:
                return
            self._go_on()
            what = [str(process_id(url)), str(self.seconds)]
            self._halting = subprocess.Popen(
                [python(), "-I", "-S", halt.__file__, *what],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # what the terminal sends is for this program
            )
            assert self._halting.stdout is not None
            self._halting.stdout.read(1)

    def start(self) -> None:
        """Nothing happens if it runs."""
        with self._lock:
            self._go_on()

    def _go_on(self) -> None:
        if self._halting is not None:
            self._halting.communicate()  # closes its input, and waits for its end
            self._halting = None


def switch(request: Request) -> Switch | None:
    """None unless the server is the shop's own and the browser is on the same machine."""
    ours = sessions_api(request).settings.redis.scheme == "embedded"
    here = (
        request.remote_addr in ADDRESSES
        and request.host.removesuffix(f":{request.host_port}") in NAMES
        and not any(name in request.headers for name in FORWARDED)
    )
    return request.registry[SWITCH] if ours and here else None


def wanted_switch(request: Request) -> Switch:
    if request.switch is None:
        raise HTTPNotFound()
    return request.switch


def pressed_switch(request: Request) -> Switch:
    """The switch, for the shop's own forms. ``guards.py`` refuses forms of other sites, and this
    refuses a request that names no site. There is no CSRF token, as it would need a session."""
    if "Origin" not in request.headers:
        raise BadCSRFOrigin("the form names no site")
    return wanted_switch(request)


@view_config(
    route_name="outage", request_method="GET", http_cache=0, renderer="templates/outage.jinja2"
)
def outage(request: Request) -> Page:
    found = wanted_switch(request)
    redis = sessions_api(request).settings.redis
    return plain(request) | {
        "off": found.off,
        "seconds": round(found.seconds),
        "timeout": f"{max(redis.timeout, redis.connect_timeout):g}",
        "product": next(iter(PRODUCTS)),
    }


@view_config(route_name="stop", request_method="POST", require_csrf=False)
def stop(request: Request) -> HTTPSeeOther:
    pressed_switch(request).stop(sessions_api(request).settings.redis.url or "")
    return see_other(request, request.route_path("outage"))


@view_config(route_name="start", request_method="POST", require_csrf=False)
def start(request: Request) -> HTTPSeeOther:
    pressed_switch(request).start()
    return see_other(request, request.route_path("outage"))


def includeme(config: Configurator) -> None:
    """Have ``request.switch``."""
    config.registry[SWITCH] = Switch()
    config.add_request_method(switch, reify=True)
