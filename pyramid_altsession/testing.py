"""Sessions in an application's own tests: in memory, with the server's semantics."""

from pyramid.config import Configurator

from .api import SessionAPI
from .config.sessions import attribute_of, read_sessions
from .interfaces import ISessionAPI
from .protocol.keys import Values
from .session import AltSession
from .stores.memory import MemoryStore


def testing_altsession(config: Configurator, data: Values | None = None) -> AltSession:
    """``config.testing_altsession(data)``: from now on sessions live in memory.

    Returns a live session that holds ``data``, to be given to ``DummyRequest(altsession=…)``;
    later requests of the same registry get sessions from the same memory.
    """
    registry = config.registry
    for name, settings in read_sessions(registry.settings or {}).items():
        api = SessionAPI(settings, store=MemoryStore(), notify=registry.notify)
        api.requests.attribute = attribute_of(name)
        registry.registerUtility(api, ISessionAPI, name)
    first: SessionAPI = registry.getUtility(ISessionAPI)
    return first.create(data)
