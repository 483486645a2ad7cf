"""What a store has to do. ``docs/stores.rst`` says how to write a store of your own, and how to run
the contract suite against it.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .messages import Operation, Read, Reply


class Store(Protocol):
    """Where sessions live. Thread-safe; bytes at the border; time is judged by the store."""

    def execute(self, operation: "Operation") -> "Reply":
        """Carry out the operation completely or not at all, or raise StoreUnavailable.

        "No such session" is a Reply, never an error.
        """

    def send(self, operation: "Read") -> "PendingRead":
        """Send a read and return at once; the reply is taken later. StoreUnavailable as above."""

    def close(self) -> None:
        """Close the connections. The sessions stay."""


class PendingRead(Protocol):
    """A read that was sent and whose reply has not been taken yet."""

    def result(self, operation: "Read") -> "Reply":
        """Wait for the reply, as ``execute`` does."""

    def cancel(self) -> None:
        """The reply is not wanted any more. No other call may receive it."""
