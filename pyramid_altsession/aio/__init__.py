"""Sessions for asyncio: the calls of the plain ones, awaited.

``import pyramid_altsession`` does not import this package.
"""

from ..protocol.notices import Change
from .api import AsyncOpenSession, AsyncSessionAPI
from .batch import AsyncBatch
from .session import AsyncAltSession
from .store import AsyncStore

__all__ = [
    "AsyncAltSession",
    "AsyncBatch",
    "AsyncOpenSession",
    "AsyncSessionAPI",
    "AsyncStore",
    "Change",
]
