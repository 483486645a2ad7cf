"""What is asked of a store, and what it answers: values, without I/O.

:class:`Read` and :class:`Write` (made of verbs) are carried out by a store, which answers with a
:class:`Reply`; ``state.py`` tells what that means for a request. Times are milliseconds of the
server's clock.
"""

import hmac
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol

from .settings import SessionSettings
from .token import Claim, proof_of

Raw = bytes | None
"""What one field holds; None when there is no such field."""

SAFE_INTEGER = 2**53 - 1
"""The largest whole number that every JSON reader, and the server's script, holds exactly."""


PROOF, DEAD_PROOFS, CREATED, DEADLINE, OWN_TTI, SEEN, TOMBSTONE = (
    "@v",
    "@q",
    "@c",
    "@d",
    "@i",
    "@t",
    "@x",
)
"""Our own fields of a session's hash; an application's key never begins with @."""


class State(Enum):
    """What the server said about the claimed session."""

    LIVE = b"LIVE"
    REFUSED = b"REFUSED"  # live, but a verb cannot be carried out: nothing was written
    DEAD = b"DEAD"  # no such session
    REJECTED = b"REJECTED"  # the session lives, the verifier is not and was not just now its own
    REPLACED = b"REPLACED"  # the session lives under a newer verifier, since less than the window
    ENDED = b"ENDED"  # its tombstone stands: invalidated less than the window ago


class Timing(NamedTuple):
    """The session's times in milliseconds, as the settings say."""

    tti: int
    interval: int
    lifetime: int
    window: int

    @classmethod
    def of(cls, settings: SessionSettings) -> "Timing":
        interval = settings.touch_interval
        return cls(
            tti=round(settings.tti * 1000),
            interval=round((settings.tti / 10 if interval is None else interval) * 1000),
            lifetime=round(settings.lifetime * 1000),
            window=round(settings.gone_window * 1000),
        )

    def own(self, tti: int | None) -> "Timing":
        """The times of a session with a tti of its own (None: the setting's)."""
        if tti is None:
            return self
        return self._replace(tti=tti, interval=max(self.interval, tti // 10))


# -- verbs: the parts of a Write


class Verb(Protocol):
    """One thing to do to a live session. The script (write.lua) and the memory store do it."""

    @property
    def creates(self) -> bool:
        """Whether a visitor without a session gets one for this."""

    @property
    def repeatable(self) -> bool:
        """Whether doing it twice is the same as once, so that a lost reply is no harm."""

    def wire(self) -> tuple[bytes, ...]:
        """Name and arguments for the script; each name has a fixed number of arguments."""

    def absent(self) -> Any:
        """Its result where there is no session and none is made for it."""

    def note(self, memo: "Memo", result: Any) -> None:
        """Update what the request remembers."""


class Memo:
    """Raw bytes of the fields that one request has seen."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: dict[str, Raw] = {}
        self.complete = False

    def missing(self, names: Sequence[str]) -> tuple[str, ...]:
        if self.complete:
            return ()
        return tuple([name for name in names if name not in self.fields])

    def present(self) -> dict[str, bytes]:
        """What the application stored."""
        return {n: raw for n, raw in self.fields.items() if raw is not None and n != CREATED}

    def forget(self, *names: str) -> None:
        for name in names:
            self.fields.pop(name, None)
        self.complete = False

    def clear(self) -> None:
        self.fields.clear()
        self.complete = False


class Refused(Exception):
    """A verb cannot be carried out on what its field holds; ``args[0]``: its place."""


class DataVerb:
    """A verb about one field."""

    __slots__ = ()
    creates: ClassVar[bool] = True
    repeatable: ClassVar[bool] = False
    name: str

    def absent(self) -> Any:
        return None

    @abstractmethod
    def apply(self, held: Raw) -> tuple[Raw, Any]:
        """Its meaning, for the script to equal: what the field holds afterwards and the result;
        or raises Refused."""


@dataclass(frozen=True, slots=True)
class Set(DataVerb):
    name: str
    value: bytes
    repeatable: ClassVar[bool] = True

    def wire(self) -> tuple[bytes, ...]:
        return b"set", self.name.encode(), self.value

    def apply(self, held: Raw) -> tuple[Raw, Any]:
        return self.value, None

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = self.value


@dataclass(frozen=True, slots=True)
class Remove(DataVerb):
    """Result: 1 when there was such a field, else 0."""

    name: str
    creates: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        return b"remove", self.name.encode()

    def absent(self) -> int:
        return 0

    def apply(self, held: Raw) -> tuple[Raw, Any]:
        return None, int(held is not None)

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = None


@dataclass(frozen=True, slots=True)
class Pop(DataVerb):
    """Result: the bytes taken out, or None."""

    name: str
    creates: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        return b"pop", self.name.encode()

    def apply(self, held: Raw) -> tuple[Raw, Any]:
        return None, held

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = None


@dataclass(frozen=True, slots=True)
class SetDefault(DataVerb):
    """Result: the bytes that the field holds afterwards."""

    name: str
    value: bytes

    def wire(self) -> tuple[bytes, ...]:
        return b"setdefault", self.name.encode(), self.value

    def apply(self, held: Raw) -> tuple[Raw, Any]:
        value = self.value if held is None else held
        return value, value

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = result


@dataclass(frozen=True, slots=True)
class Increment(DataVerb):
    """Result: the new number as bytes. Refused when the field holds anything else."""

    name: str
    by: int

    def wire(self) -> tuple[bytes, ...]:
        return b"increment", self.name.encode(), b"%d" % self.by

    def apply(self, held: Raw) -> tuple[Raw, Any]:
        held = b"0" if held is None else held
        digits = held.removeprefix(b"-")
        if len(held) > 17 or not digits.isdigit():
            raise Refused
        number = int(held) + self.by
        if abs(int(held)) > SAFE_INTEGER or abs(number) > SAFE_INTEGER:
            raise Refused
        value = b"%d" % number
        return value, value

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = result


@dataclass(frozen=True, slots=True)
class CompareAndSet(DataVerb):
    """Result: [1, the new bytes], or [0, what the field holds instead of ``expected``]."""

    name: str
    expected: Raw
    value: bytes

    @property
    def creates(self) -> bool:  # type: ignore[override]
        return self.expected is None

    def wire(self) -> tuple[bytes, ...]:
        given = b"0" if self.expected is None else b"1"
        return b"compare_and_set", self.name.encode(), given, self.expected or b"", self.value

    def absent(self) -> Any:
        return [0, None]

    def apply(self, held: Raw) -> tuple[Raw, Any]:
        if held != self.expected:
            return held, [0, held]
        return self.value, [1, self.value]

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = result[1]


class LifeVerb:
    """A verb about the session itself."""

    __slots__ = ()
    creates: ClassVar[bool] = False
    repeatable: ClassVar[bool] = True

    def absent(self) -> Any:
        return 0

    def note(self, memo: Memo, result: Any) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Touch(LifeVerb):
    """Result 1. Every Write restarts the tti; this one does nothing else."""

    def wire(self) -> tuple[bytes, ...]:
        return (b"touch",)


@dataclass(frozen=True, slots=True)
class Renew(LifeVerb):
    """Result 1. The session answers to a new verifier alone; the old one is remembered as dead."""

    verifier: str = field(repr=False)

    @property
    def proof(self) -> bytes:
        return proof_of(self.verifier)

    def wire(self) -> tuple[bytes, ...]:
        return b"renew", self.proof


@dataclass(frozen=True, slots=True)
class Invalidate(LifeVerb):
    """Result 1. Forgets the data and leaves a tombstone, known by its nonce to who repeats."""

    nonce: bytes

    def wire(self) -> tuple[bytes, ...]:
        return b"invalidate", self.nonce

    def note(self, memo: Memo, result: Any) -> None:
        memo.clear()


# -- operations and replies


@dataclass(frozen=True, slots=True)
class Read:
    """Fetch fields (None: all) of the first live session among the claims; ``values`` follow
    ``fields``, or are a dict."""

    claims: tuple[Claim, ...]
    fields: tuple[str, ...] | None
    timing: Timing
    touch: bool = True
    repeatable: ClassVar[bool] = True
    optional: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Write:
    """All verbs or none, on a live session; ``values`` has one result for each verb.

    ``create``: make the session first (its name must be new). ``window``: milliseconds in which
    a replaced verifier counts as REPLACED. ``optional``: a failure does not concern the caller.
    """

    claim: Claim
    verbs: tuple[Verb, ...]
    timing: Timing
    window: int = 0
    create: bool = False
    optional: bool = False

    @property
    def repeatable(self) -> bool:
        return all(verb.repeatable for verb in self.verbs)


Operation = Read | Write


class Reply(NamedTuple):
    """``left``: milliseconds until the server forgets the session; -1: never; None: no session.

    ``which``: the claim of a Read that was served. ``tti`` and ``deadline``: the session's own.
    """

    state: State
    values: Any = ()
    now: int = 0
    left: int | None = None
    which: int = 0
    tti: int | None = None
    deadline: int | None = None


# -- judging a proof, for reads and for stores without scripts

_ENTRY = 21
_KEPT = 3


def remember_dead(dead: Raw, proof: bytes, now: int) -> bytes:
    """The last few proofs that died: 16 bytes each and 5 bytes of time (10 ms), newest first."""
    return (proof[:16] + (now // 10).to_bytes(5, "big") + (dead or b""))[: _ENTRY * _KEPT]


def died_within(dead: Raw, proof: bytes, now: int, window: int) -> bool:
    """Whether the proof died less than ``window`` ago; a clock set back makes it false."""
    for start in range(0, len(dead or b""), _ENTRY):
        entry = (dead or b"")[start : start + _ENTRY]
        if hmac.compare_digest(entry[:16], proof[:16]):
            return 0 <= now - int.from_bytes(entry[16:], "big") * 10 < window
    return False


def judge(claim: Claim, held: Sequence[Raw], now: int, window: int) -> State:
    """State of a session whose hash holds (@v, @q, @d, @x), in constant time for the proof."""
    proof, dead, deadline, tombstone = held
    if tombstone is not None:
        return State.ENDED
    if proof is None or (deadline is not None and now >= int(deadline)):
        return State.DEAD
    if hmac.compare_digest(proof, claim.proof):
        return State.LIVE
    return State.REPLACED if died_within(dead, claim.proof, now, window) else State.REJECTED
