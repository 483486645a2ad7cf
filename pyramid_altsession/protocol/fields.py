"""The fields of a session's hash: the package's own, how they are judged, and what a request
remembers of them. Times are milliseconds of the server's clock.
"""

import hmac
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from msgspec import Struct

from ..config.table import SessionSettings
from .frame import alive
from .token import Claim

Raw = bytes | None
"""The bytes of one field; None if there is no such field."""


# The package's own fields of a session's hash; an application's key never begins with @. Times are
# in milliseconds. write.lua has one field more, "@b": upper bounds of the session's size.
PROOF = "@v"  # SHA-256 of the verifier
PREDECESSOR = "@p"  # proof, first use of the successor, when it was replaced (a stamp each)
DEAD_PROOFS = "@q"  # the last three: half of the proof and a stamp each, newest first
CREATED = "@c"
SEEN = "@t"  # the last write or touch
DEADLINE = "@d"  # the absolute end; missing if there is none
OWN_TTI = "@i"  # of a remembered session, instead of the setting
USER = "@u"
LOGIN = "@l"
TOMBSTONE = "@x"  # the nonce of the call that ended the session; nothing else is left then
OWED = "@o"  # with a tombstone: the mark of the request that may start the next session, or empty
INFO = tuple(f"@n{chunk}" for chunk in range(9))
"""The ``info`` of a login, in chunks, because a field of over 64 bytes doubles a session's memory.
"""
INFO_CHUNK = 64

FLASH = "_f_"
"""The key of a flash queue begins with this."""
CSRF_TOKEN = "_csrft_"
"""Pyramid's key for the CSRF token. A login removes the token, because somebody who planted the
session knows it.
"""


class State(Enum):
    """What the server said about the claimed session."""

    LIVE = b"LIVE"
    REFUSED = b"REFUSED"  # live, but a verb cannot be carried out: nothing was written
    FULL = b"FULL"  # live, but it would hold more than it may: nothing was written
    DEAD = b"DEAD"  # no such session
    REJECTED = b"REJECTED"  # the session lives under another verifier, and this is no recent one
    REPLACED = b"REPLACED"  # the session got a newer verifier less than the window ago
    ENDED = b"ENDED"  # its tombstone stands: invalidated less than the window ago
    OWED = b"OWED"  # the same, but its browser was not told, so this request may start one session
    REUSED = b"REUSED"  # a predecessor came back after its time, and that ended the session
    OTHER_USER = b"OTHER_USER"  # it was another user's session, and was ended for this login
    SESSION_LIMIT = b"SESSION_LIMIT"  # the user has as many sessions as allowed: nothing was done


class Timing(NamedTuple):
    """What the settings say of a session for the server: times in milliseconds, and how much it may
    hold (0: any amount)."""

    tti: int
    interval: int
    lifetime: int
    window: int
    grace: int = 0
    reuse_ends: bool = False
    renew_after: int = 0
    first_tti: int | None = None
    max_keys: int = 0
    max_bytes: int = 0
    notify: bytes = b""  # the setting's first letter, where it is not none

    @classmethod
    def of(cls, settings: SessionSettings) -> "Timing":
        interval = settings.touch_interval
        return cls(
            tti=round(settings.tti * 1000),
            interval=round((settings.tti / 10 if interval is None else interval) * 1000),
            lifetime=round(settings.lifetime * 1000),
            window=round(settings.gone_window * 1000),
            grace=round(settings.renew_grace * 1000),
            reuse_ends=settings.on_reuse == "invalidate",
            renew_after=round(settings.renew_after * 1000),
            first_tti=None if settings.first_tti is None else round(settings.first_tti * 1000),
            max_keys=settings.max_keys,
            max_bytes=settings.max_bytes,
            notify=b"" if settings.notify == "none" else settings.notify[:1].encode(),
        )

    def newborn(self) -> "Timing":
        """The times of a session whose cookie has not come back yet."""
        if self.first_tti is None:
            return self
        return self._replace(tti=self.first_tti, interval=0)

    def own(self, tti: int | None) -> "Timing":
        """The times of a session with a tti of its own (None: the setting's)."""
        if tti is None:
            return self
        return self._replace(tti=tti, interval=max(self.interval, tti // 10))


def is_key(name: str) -> bool:
    """Whether it is a key's field, neither reserved nor without a name."""
    return name[:1] not in ("", "@")


def keys_of(fields: Mapping[str, bytes], now: int) -> dict[str, bytes]:
    """The application's keys and values among a session's fields, without values whose end has come
    (``now``: the server's time, ms).
    """
    return {
        name: raw for name, raw in fields.items() if is_key(name) and alive(raw, now) is not None
    }


class FieldCache(Struct, eq=False):
    """The raw bytes of the fields that one request has seen."""

    fields: dict[str, Raw] = {}  # each has its own
    complete: bool = False

    def missing(self, names: tuple[str, ...]) -> tuple[str, ...]:
        if self.complete:
            return ()
        if not self.fields:
            return names
        return tuple([name for name in names if name not in self.fields])

    def present(self) -> dict[str, bytes]:
        """The application's fields. A field without a name, from another program, is no key."""
        return {n: raw for n, raw in self.fields.items() if raw is not None and is_key(n)}

    def forget(self, *names: str) -> None:
        for name in names:
            self.fields.pop(name, None)
        self.complete = False

    def clear(self) -> None:
        self.fields.clear()
        self.complete = False


class Facts(Struct, frozen=True):
    """The package's own fields of one session, as they are stored."""

    proof: Raw
    dead: Raw
    deadline: Raw
    tombstone: Raw
    tti: Raw
    predecessor: Raw
    user: Raw
    login: Raw
    seen: Raw = None

    @property
    def unconfirmed(self) -> bool:
        """Whether a periodic renewal's new verifier was never used yet."""
        return self.predecessor is not None and stamped(self.predecessor[32:37]) == 0

    @property
    def verifier_since(self) -> int | None:
        """When a signed-in session got its verifier, ms."""
        if self.predecessor is not None:
            return stamped(self.predecessor[37:])
        return as_number(self.login)

    @property
    def last_use(self) -> int:
        """When a write, or a read's touch, last reached the session, ms."""
        return as_number(self.seen) or 0


FACTS = (PROOF, DEAD_PROOFS, DEADLINE, TOMBSTONE, OWN_TTI, PREDECESSOR, USER, LOGIN, SEEN)


class Description(NamedTuple):
    """A session as administration sees it; times in milliseconds. ``facts`` has only the fields
    that are needed to judge a live session's verifier.
    """

    id: str
    user: str | None
    created: int
    seen: int
    expires: int
    login: int | None
    info: bytes
    facts: Facts
    now: int

    def opens(self, claim: Claim, timing: Timing) -> bool:
        """Whether a read with this claim would find the session. In constant time."""
        return judge(claim, self.facts, self.now, timing.window, timing) is State.LIVE


_ENTRY = 21
_KEPT = 3


def stamp(ms: int) -> bytes:
    """A time within a field: 5 bytes, in units of 10 ms."""
    return (ms // 10).to_bytes(5, "big")


def stamped(raw: bytes) -> int:
    return int.from_bytes(raw, "big") * 10


def as_number(raw: Raw) -> int | None:
    return None if raw is None else int(raw)


def remember_dead(dead: Raw, proof: bytes, died: int) -> bytes:
    """The last few proofs that died, 16 bytes and a time each, newest first."""
    return (proof[:16] + stamp(died) + (dead or b""))[: _ENTRY * _KEPT]


def died_within(dead: Raw, proof: bytes, now: int, window: int) -> bool:
    """Whether the proof died less than ``window`` ago; a clock set back makes it false."""
    for start in range(0, len(dead or b""), _ENTRY):
        entry = (dead or b"")[start : start + _ENTRY]
        if hmac.compare_digest(entry[:16], proof[:16]):
            return 0 <= now - stamped(entry[16:]) < window
    return False


def by_predecessor(facts: Facts, proof: bytes, now: int, grace: int) -> bool:
    """Whether this is the predecessor of a periodic renewal, and still good."""
    previous = facts.predecessor
    if previous is None or not hmac.compare_digest(previous[:32], proof):
        return False
    return facts.unconfirmed or 0 <= now - stamped(previous[32:37]) < grace


def belongs(whose: str | None, state: State, facts: Facts) -> bool:
    """Whether the session exists and is this user's (empty: nobody's), whatever its verifier is.
    False if ``whose`` is None.
    """
    if whose is None or state in (State.DEAD, State.ENDED):
        return False
    return whose.encode() == (facts.user or b"")


def judge(claim: Claim, facts: Facts, now: int, window: int, timing: Timing) -> State:
    """State of a session for a claim, in constant time for the proof.

    Times in the future are ignored; they are left behind when the server's clock is set back.
    """
    if facts.tombstone is not None:
        return State.ENDED
    if facts.proof is None or (facts.deadline is not None and now >= int(facts.deadline)):
        return State.DEAD
    if hmac.compare_digest(facts.proof, claim.proof):
        return State.LIVE
    if by_predecessor(facts, claim.proof, now, timing.grace):
        return State.LIVE
    if died_within(facts.dead, claim.proof, now, window):
        return State.REPLACED
    previous = facts.predecessor
    if previous is None or not hmac.compare_digest(previous[:32], claim.proof):
        return State.REJECTED
    since = now - stamped(previous[32:37]) - timing.grace
    if 0 <= since < window:
        return State.REPLACED
    return State.REUSED if timing.reuse_ends and since >= 0 else State.REJECTED
