"""The ends of many sessions on several nodes, and how long their replicas have to confirm them."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...protocol.messages import Write
from .exchanges import Durably, Milliseconds, Steps, end


class Ending:
    """Ends sessions in several packets. ``wait``: how long replicas have to confirm all of them
    together, or the call would be over before the last one is sent; 0: they are not asked. Once one
    packet is not confirmed, the result is known, and no other replica is waited for.
    """

    def __init__(self, prefix: bytes, wait: Milliseconds) -> None:
        self._prefix = prefix
        self._until = time.monotonic() + wait / 1000 if wait else None
        self.confirmed = True

    def __call__(
        self, writes: Sequence[Write], send: Callable[..., Steps[list[Any]]]
    ) -> Steps[list[bool]]:
        if self._until is None or not self.confirmed:
            return (yield from end(writes, self._prefix, send))
        send = partial(send, tail=Durably.REPLIES)
        left = max(round(1000 * (self._until - time.monotonic())), 1)
        key = self._prefix + writes[0].claim.id.encode()
        durably = Durably(send, key, self._prefix, left)
        done = yield from end(writes, self._prefix, durably)
        self.confirmed = durably.done
        return done
