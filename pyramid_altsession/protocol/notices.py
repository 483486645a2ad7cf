"""The notices that a store publishes about sessions, and what they mean for code that watches. No
I/O.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from .fields import Description
from .token import ID_LENGTH

Kind = Literal["renewed", "changed", "ended"]
KINDS: dict[bytes, Kind] = {b"r": "renewed", b"c": "changed", b"e": "ended"}
"""By the first byte of the notice."""

CHECK = 15.0
"""Seconds between two reads of a watched session, even without notices: the application that writes
may lack the right to publish, or have other settings.
"""
LATE = 0.01
"""Seconds after a session's expected end at which it is read again."""


class Change(NamedTuple):
    """A change of a session.

    ``kind``: ``renewed`` (it has a new cookie, after a login or a renewal), ``changed`` (only keys
    changed) or ``ended``. ``keys``: the keys that were set or removed, if the caller asked for
    keys; None: any key may have changed while the watch was not connected.
    """

    kind: Kind
    id: str
    keys: frozenset[str] | None = frozenset()


def notice(kind: Kind, *keys: str) -> bytes:
    """The bytes of a notice, as the script publishes it."""
    names = [key.encode() for key in keys]
    return kind[:1].encode() + b"".join([len(each).to_bytes(2) + each for each in names])


def parse_notice(message: bytes) -> tuple[Kind, frozenset[str]]:
    """The Change that a notice stands for."""
    keys, at = set(), 1
    while at < len(message):
        start = at + 2
        at = start + int.from_bytes(message[at:start])
        keys.add(message[start:at].decode(errors="replace"))
    return KINDS[message[:1]], frozenset(keys)


class FeedEvent(NamedTuple):
    """An event of any session, for code that watches all sessions.

    ``kind``: ``sign-in``, ``logout`` (by the user, in this browser) or ``ended`` (in any other way
    but by time). ``userid``: None where nobody was signed in.
    """

    kind: str
    id: str
    userid: str | None


EVENTS = {"s": "sign-in", "o": "logout", "e": "ended"}
"""By the first byte of the script's message."""


_EVENT = re.compile(rf"([{''.join(EVENTS)}])([A-Za-z0-9_-]{{{ID_LENGTH}}})(.*)", re.DOTALL)


def parse_event(message: bytes) -> FeedEvent | None:
    """The event in a message on the channel of all sessions; None if it is a message of others."""
    found = _EVENT.fullmatch(message.decode(errors="replace"))
    return found and FeedEvent(EVENTS[found[1]], found[2], found[3] or None)


class WatchedSession:
    """The known state of a watched session, to find out what is new to the watcher."""

    def __init__(self, id: str, keys: bool) -> None:
        self.id = id
        self.over = False
        self.wait = 0.0
        """Seconds until the session has to be read again."""
        self._keys = keys
        self._proof: bytes | None = None

    def found(self, known: Description | None, *, gap: bool) -> Iterator[Change]:
        """The changes that a read of the session shows. ``gap``: notices before it may have been
        missed.
        """
        if known is None:
            self.over = True
            yield Change("ended", self.id)
            return
        self.wait = min((known.expires - known.now) / 1000 + LATE, CHECK)
        renewed = self._proof not in (None, known.facts.proof)
        self._proof = known.facts.proof
        missed = gap and self._keys
        if renewed or missed:
            kind: Kind = "renewed" if renewed else "changed"
            yield Change(kind, self.id, None if missed else frozenset())

    def noticed(self, message: bytes) -> Iterator[Change]:
        """The changes that a notice reports; none if it is a message of others."""
        if message[:1] not in KINDS:
            return
        kind, keys = parse_notice(message)
        self.over = kind == "ended"
        if kind == "renewed":
            self._proof = None  # a read finds the new one
        if kind != "changed" or self._keys:
            yield Change(kind, self.id, keys if self._keys else frozenset())
