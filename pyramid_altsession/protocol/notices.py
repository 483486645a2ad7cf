"""What a store tells of sessions to whoever watches them, and what that means for them. No I/O."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from .fields import Description
from .token import ID_LENGTH

Kind = Literal["renewed", "changed", "ended"]
KINDS: dict[bytes, Kind] = {b"r": "renewed", b"c": "changed", b"e": "ended"}
"""By how they begin."""

CHECK = 15.0
"""Seconds between two reads of a session that is watched, however quiet it is: whoever writes may
lack the right to publish, or other settings."""
LATE = 0.01
"""Seconds after its end at which a session is looked for."""


class Change(NamedTuple):
    """Something that became of a session.

    ``kind``: ``renewed`` (it answers to a new cookie, as a login and a renewal give it),
    ``changed`` (of keys only) or ``ended``. ``keys``: those that were set or removed, where they
    were asked for; None: any may have been, before the server could be heard (again).
    """

    kind: Kind
    id: str
    keys: frozenset[str] | None = frozenset()


def notice(kind: Kind, *keys: str) -> bytes:
    """As the script tells it."""
    names = [key.encode() for key in keys]
    return kind[:1].encode() + b"".join([len(each).to_bytes(2) + each for each in names])


def told(said: bytes) -> tuple[Kind, frozenset[str]]:
    """What a notice says."""
    keys, at = set(), 1
    while at < len(said):
        start = at + 2
        at = start + int.from_bytes(said[at:start])
        keys.add(said[start:at].decode(errors="replace"))
    return KINDS[said[:1]], frozenset(keys)


class SessionEvent(NamedTuple):
    """What became of any session, for those who watch all of them.

    ``kind``: ``sign-in``, ``logout`` (by the user, in this browser) or ``ended`` (in any other way
    but by time). ``userid``: None where nobody was signed in.
    """

    kind: str
    id: str
    userid: str | None


EVENTS = {"s": "sign-in", "o": "logout", "e": "ended"}
"""By how the script tells them."""


def session_event(said: bytes) -> SessionEvent:
    """What the script told of a session to the channel of all sessions."""
    text = said.decode()
    end = 1 + ID_LENGTH
    return SessionEvent(EVENTS[text[0]], text[1:end], text[end:] or None)


class Watched:
    """What is known of a session that is watched, and so what is new to the watcher."""

    def __init__(self, id: str, keys: bool) -> None:
        self.id = id
        self.over = False
        self.wait = 0.0
        """Seconds until the session has to be read again."""
        self._keys = keys
        self._proof: bytes | None = None

    def found(self, known: Description | None, *, deaf: bool) -> Iterator[Change]:
        """What a read of the session tells. ``deaf``: notices before it may have been missed."""
        if known is None:
            self.over = True
            yield Change("ended", self.id)
            return
        self.wait = min((known.expires - known.now) / 1000 + LATE, CHECK)
        renewed = self._proof not in (None, known.facts.proof)
        self._proof = known.facts.proof
        missed = deaf and self._keys
        if renewed or missed:
            kind: Kind = "renewed" if renewed else "changed"
            yield Change(kind, self.id, None if missed else frozenset())

    def heard(self, said: bytes) -> Iterator[Change]:
        """What a notice tells."""
        kind, keys = told(said)
        self.over = kind == "ended"
        if kind == "renewed":
            self._proof = None  # a read tells the new one
        if kind != "changed" or self._keys:
            yield Change(kind, self.id, keys if self._keys else frozenset())
