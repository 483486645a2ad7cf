"""What the server said instead of an answer, and what the log is told of it."""

from enum import IntEnum

from ...protocol.lifecycle import creates
from ...protocol.messages import End, Operation, Prune, Revoke, Write

OUR_MISTAKES = (
    "user_script:",  # an error within a script
    "Error compiling script",
    "wrong number of arguments",
    "syntax error",
)
"""How error replies begin (without ERR) that no server, proxy or plan is to blame for."""


LULL = 5.0
"""Seconds in which an outage that begins again is not logged again."""


class Need(IntEnum):
    """What an operation needs of the server, beside an answer."""

    READ = 0
    WRITE = 1
    ROOM = 2

    @classmethod
    def of(cls, operation: Operation) -> "Need":
        if isinstance(operation, Revoke | End | Prune):
            return cls.WRITE
        if not isinstance(operation, Write):
            return cls.READ
        return cls.ROOM if creates(operation.verbs, operation.life) else cls.WRITE


HINT = (
    "; no server is configured: set altsession.redis.url, for development to embedded://,"
    " which starts a server of its own"
)
