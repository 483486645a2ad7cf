"""Where sessions live."""

from ..interfaces import Store
from ..settings import Settings
from .memory import MemoryStore
from .redis import RedisStore


def open_store(settings: Settings) -> Store:
    """The store that ``redis.url`` names. No network I/O."""
    if settings.redis.scheme == "memory":
        return MemoryStore()
    return RedisStore.from_settings(settings.redis, settings.session.prefix)
