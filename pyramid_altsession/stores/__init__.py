"""Where sessions live."""

import logging

from ..config.table import Settings
from ..interfaces import Store
from .memory import MemoryStore
from .redis.cluster_store import ClusterStore
from .redis.store import RedisStore

log = logging.getLogger("pyramid_altsession")


def warn_of_no_server(settings: Settings) -> None:
    """Warn if no setting says where the server is."""
    if not settings.redis.configured:
        log.warning(
            "sessions: no server is configured, so they go to localhost:6379; set"
            " altsession.redis.url (a misspelt name or section is overlooked), for development to"
            " embedded://"
        )


def open_store(settings: Settings) -> Store:
    """The store that ``redis.url`` names. No network I/O."""
    if settings.redis.scheme == "memory":
        return MemoryStore()
    if settings.redis.cluster:
        return ClusterStore.from_settings(settings.redis, settings.session.prefix)
    return RedisStore.from_settings(settings.redis, settings.session.prefix)
