"""Sessions in an application's own tests: in memory, with the server's semantics."""

from pyramid.config import Configurator

from .api import SessionAPI
from .config.sources import from_ini, read_settings
from .interfaces import ISessionAPI
from .protocol.keys import Values
from .session import AltSession
from .stores.memory import MemoryStore


def testing_altsession(config: Configurator, data: Values | None = None) -> AltSession:
    """``config.testing_altsession(data)``: from now on sessions live in memory.

    Returns a live session that holds ``data``, to be given to ``DummyRequest(altsession=…)``;
    later requests of the same registry get sessions from the same memory.
    """
    settings = read_settings(from_ini(config.registry.settings or {}))
    api = SessionAPI(settings, store=MemoryStore(), notify=config.registry.notify)
    config.registry.registerUtility(api, ISessionAPI)
    return api.create(data)
