"""Sessions for tests of single views: in memory, with the server's semantics."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyramid.config import Configurator
from pyramid.request import Request

from ..api import SessionAPI
from ..config.sessions import read_sessions
from ..interfaces import ISessionAPI
from ..protocol.keys import Values
from ..session import AltSession
from ..stores.memory import MemoryStore
from ..web import visits
from .steering import SteeredStore, api_of


def testing_altsession(config: Configurator, data: Values | None = None) -> AltSession:
    """``config.testing_altsession(data)``: from now on sessions live in memory.

    Returns a live session that holds ``data``, to be given to ``DummyRequest(altsession=…)``;
    later requests of the same registry get sessions from the same memory.
    """
    registry = config.registry
    for name, settings in read_sessions(registry.settings or {}).items():
        store = SteeredStore(MemoryStore())
        api = SessionAPI.from_registry(settings, registry, name, store)
        registry.registerUtility(api, ISessionAPI, name)
    first: SessionAPI = registry.getUtility(ISessionAPI)
    return first.create(data)


@contextmanager
def serving(request: Request) -> Iterator[Request]:
    """``with serving(request):`` makes a ``DummyRequest`` the request that is being served, as the
    tween does for requests of the application, so that ``SessionInfo.current`` marks its session.

    ``request.altsession`` is the session that the request was made with; otherwise it is that of a
    visitor without a cookie.
    """
    life = api_of(request).requests
    life.session(request)
    visit = life.visit(request)
    began = visit.open(request)
    try:
        yield request
    finally:
        visits.serving.reset(began)
        visit.request = visit.outer = None
