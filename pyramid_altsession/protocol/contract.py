"""What a store has to do. ``docs/stores.rst`` tells how to write one of your own, and how to run
the contract suite against it."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .messages import Operation, Read, Reply


class Store(Protocol):
    """Where sessions live. Thread-safe; bytes at the border; time is judged by the store."""

    def execute(self, operation: "Operation") -> "Reply":
        """Do what the operation asks, whole or not at all, or raise StoreUnavailable.

        "No such session" is a Reply, never an error.
        """

    def send(self, operation: "Read") -> "PendingRead":
        """Begin a read, and go on: its reply is asked for later. StoreUnavailable as above."""

    def close(self) -> None:
        """Give connections back. Sessions stay."""


class PendingRead(Protocol):
    """A read that was sent and whose reply was not taken yet."""

    def result(self, operation: "Read") -> "Reply":
        """Wait for the reply, as ``execute`` does."""

    def cancel(self) -> None:
        """Nobody wants the reply: it must not reach anybody else either."""
