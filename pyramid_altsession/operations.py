"""What is asked of a store, and what it answers: values, without I/O.

:class:`Read` and :class:`Write` (made of verbs, and perhaps one step of the session's life) are
carried out by a store, which answers with a :class:`Reply`; ``state.py`` tells what that means for
a request. Times are milliseconds of the server's clock.
"""

import hmac
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

from .frame import end_of, ending, split
from .settings import SessionSettings
from .token import Claim, proof_of

Raw = bytes | None
"""What one field holds; None when there is no such field."""

SAFE_INTEGER = 2**53 - 1
"""The largest whole number that every JSON reader, and the server's script, holds exactly."""


PROOF, DEAD_PROOFS, DEADLINE, TOMBSTONE, OWN_TTI = "@v", "@q", "@d", "@x", "@i"
PREDECESSOR, USER, LOGIN, CREATED, SEEN = "@p", "@u", "@l", "@c", "@t"
OWED = "@o"
"""Our own fields of a session's hash; an application's key never begins with @."""

INFO = tuple(f"@n{chunk}" for chunk in range(9))
"""What was noted at login, in chunks: one field of over 64 bytes doubles a session's memory."""
INFO_CHUNK = 64

CSRF_TOKEN = "_csrft_"
"""Pyramid's key for the CSRF token. A login removes it: who planted the session knows it."""


class State(Enum):
    """What the server said about the claimed session."""

    LIVE = b"LIVE"
    REFUSED = b"REFUSED"  # live, but a verb cannot be carried out: nothing was written
    DEAD = b"DEAD"  # no such session
    REJECTED = b"REJECTED"  # the session lives, the verifier is not and was not just now its own
    REPLACED = b"REPLACED"  # the session lives under a newer verifier, since less than the window
    ENDED = b"ENDED"  # its tombstone stands: invalidated less than the window ago
    OWED = b"OWED"  # the same, but its browser was not told: this request may start one session
    REUSED = b"REUSED"  # a predecessor came back after its time, and that ended the session
    OTHERS = b"OTHERS"  # it was another user's session, and was ended for this login
    CROWDED = b"CROWDED"  # the user has as many sessions as allowed: nothing was done


class Timing(NamedTuple):
    """The session's times in milliseconds, as the settings say."""

    tti: int
    interval: int
    lifetime: int
    window: int
    grace: int = 0
    reuse_ends: bool = False
    renew_after: int = 0
    first_tti: int | None = None

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


# -- verbs: what a Write does to the data. The script (write.lua) and the memory store do it.


def is_key(name: str) -> bool:
    """Whether it is a key's field, neither reserved nor without a name."""
    return name[:1] not in ("", "@")


class Memo:
    """Raw bytes of the fields that one request has seen."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: dict[str, Raw] = {}
        self.complete = False

    def missing(self, names: tuple[str, ...]) -> tuple[str, ...]:
        if self.complete:
            return ()
        if not self.fields:
            return names
        return tuple([name for name in names if name not in self.fields])

    def present(self) -> dict[str, bytes]:
        """What the application stored; a field without a name, another program's, is no key."""
        return {n: raw for n, raw in self.fields.items() if raw is not None and is_key(n)}

    def forget(self, *names: str) -> None:
        for name in names:
            self.fields.pop(name, None)
        self.complete = False

    def clear(self) -> None:
        self.fields.clear()
        self.complete = False


class Refused(Exception):
    """A verb cannot be carried out on what its field holds; ``args[0]``: its place."""


class Crowded(Exception):
    """A login was refused: the user has as many sessions as allowed."""


class DataVerb:
    """A verb about one field. ``ttl``: milliseconds that a value stored by it lasts; 0: as long
    as the session. What changes a value in place keeps its end.

    ``creates``: whether a visitor without a session gets one for this. ``repeatable``: whether
    doing it twice is the same as once, so that a lost reply is no harm.
    """

    __slots__ = ()
    creates: ClassVar[bool] = True
    repeatable: ClassVar[bool] = False
    name: str

    @abstractmethod
    def wire(self) -> tuple[bytes, ...]:
        """Name and arguments for the script; each name has a fixed number of arguments."""

    def absent(self) -> Any:
        """Its result where there is no session and none is made for it."""
        return None

    @abstractmethod
    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        """Its meaning, for the script to equal: what the field holds afterwards and the result;
        or raises Refused."""

    def note(self, memo: Memo, result: Any) -> None:
        """Update what the request remembers."""
        memo.fields[self.name] = result


def lasting(raw: bytes, ttl: int, now: int) -> bytes:
    return ending(raw, now + ttl) if ttl else raw


@dataclass(frozen=True, slots=True)
class Get(DataVerb):
    """Result: what the field holds at this place among the verbs. Not repeatable: a second time it
    would see what the others did the first time."""

    name: str
    creates: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        return b"get", self.name.encode()

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        return held, held


@dataclass(frozen=True, slots=True)
class Set(DataVerb):
    """Result: the value's end in ms, or None where it has none."""

    name: str
    value: bytes
    ttl: int = 0
    repeatable: ClassVar[bool] = True

    def wire(self) -> tuple[bytes, ...]:
        return b"set", self.name.encode(), self.value, b"%d" % self.ttl

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        return lasting(self.value, self.ttl, now), b"%d" % (now + self.ttl) if self.ttl else None

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = self.value if result is None else ending(self.value, int(result))


@dataclass(frozen=True, slots=True)
class Remove(DataVerb):
    """Result: 1 when there was such a field, else 0."""

    name: str
    creates: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        return b"remove", self.name.encode()

    def absent(self) -> int:
        return 0

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
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

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        return None, held

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = None


@dataclass(frozen=True, slots=True)
class SetDefault(DataVerb):
    """Result: the bytes that the field holds afterwards."""

    name: str
    value: bytes
    ttl: int = 0

    def wire(self) -> tuple[bytes, ...]:
        return b"setdefault", self.name.encode(), self.value, b"%d" % self.ttl

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        value = lasting(self.value, self.ttl, now) if held is None else held
        return value, value


@dataclass(frozen=True, slots=True)
class Increment(DataVerb):
    """Result: the new number as bytes, in its frame. Refused when the field holds anything else.

    ``start``: zero, in the frame that a new number gets.
    """

    name: str
    by: int
    start: bytes = b"0"
    ttl: int = 0

    def wire(self) -> tuple[bytes, ...]:
        number = b"%d" % self.by
        return b"increment", self.name.encode(), number, self.start, b"%d" % self.ttl

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        frame, text = split(lasting(self.start, self.ttl, now) if held is None else held)
        digits = text.removeprefix(b"-")
        if len(text) > 17 or not digits.isdigit():
            raise Refused
        number = int(text) + self.by
        if abs(int(text)) > SAFE_INTEGER or abs(number) > SAFE_INTEGER:
            raise Refused
        value = b"%b%d" % (frame, number)
        return value, value


@dataclass(frozen=True, slots=True)
class CompareAndSet(DataVerb):
    """Result: [1, the new bytes], or [0, what the field holds instead of ``expected``].

    Whatever their ends, equal values are equal.
    """

    name: str
    expected: Raw
    value: bytes
    ttl: int = 0

    @property
    def creates(self) -> bool:  # type: ignore[override]
        return self.expected is None

    def wire(self) -> tuple[bytes, ...]:
        given = b"0" if self.expected is None else b"1"
        return (
            *(b"compare_and_set", self.name.encode(), given, self.expected or b""),
            *(self.value, b"%d" % self.ttl),
        )

    def absent(self) -> Any:
        return [0, None]

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        if held is None or self.expected is None:
            if held is not self.expected:
                return held, [0, held]
            value = lasting(self.value, self.ttl, now)
        else:
            if ending(held, None) != ending(self.expected, None):
                return held, [0, held]
            value = ending(self.value, end_of(held))
        return value, [1, value]

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = result[1]


@dataclass(frozen=True, slots=True)
class Append(DataVerb):
    """Add one item to a JSON list (a new one where there is none). Result 1, and not the list,
    which nobody asked for. Refused when the field holds anything else, and when the list would have
    more than ``limit`` bytes."""

    name: str
    item: bytes
    limit: int

    def wire(self) -> tuple[bytes, ...]:
        return b"append", self.name.encode(), self.item, b"%d" % self.limit

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        frame, text = split(b"[]" if held is None else held)
        if text[:1] != b"[" or text[-1:] != b"]":
            raise Refused
        items = self.item if text == b"[]" else text[1:-1] + b"," + self.item
        if len(items) + 2 > self.limit:
            raise Refused
        return b"%b[%b]" % (frame, items), 1

    def note(self, memo: Memo, result: Any) -> None:
        memo.forget(self.name)  # others may have appended


@dataclass(frozen=True, slots=True)
class Expect(DataVerb):
    """Result 1. Refused unless the field holds exactly this: what follows was worked out of it."""

    name: str
    expected: Raw
    creates: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        given = b"0" if self.expected is None else b"1"
        return b"expect", self.name.encode(), given, self.expected or b""

    def apply(self, held: Raw, now: int) -> tuple[Raw, Any]:
        if held != self.expected:
            raise Refused
        return held, 1

    def note(self, memo: Memo, result: Any) -> None:
        memo.fields[self.name] = self.expected


@dataclass(frozen=True, slots=True)
class Everything:
    """Result: name, bytes, name, bytes … of all that the application stored. Not repeatable, as
    Get."""

    creates: ClassVar[bool] = False
    repeatable: ClassVar[bool] = False

    def wire(self) -> tuple[bytes, ...]:
        return (b"everything",)

    def absent(self) -> Any:
        return []

    def note(self, memo: Memo, result: Any) -> None:
        ours = {name: raw for name, raw in memo.fields.items() if name[:1] == "@"}
        memo.fields = ours | pairs(result)
        memo.complete = CREATED in ours


Verb = DataVerb | Everything
"""One thing to do to the data of a live session."""


def pairs(flat: Sequence[bytes]) -> dict[str, Raw]:
    """A flat list of names and bytes as a dict of keys."""
    names = [name.decode(errors="replace") for name in flat[::2]]
    return {n: raw for n, raw in zip(names, flat[1::2], strict=True) if is_key(n)}


# -- steps of a session's life: what a Write does to the session itself, one at most


class LifeStep:
    """A step has the same methods as a verb."""

    __slots__ = ()
    creates: ClassVar[bool] = False
    repeatable: ClassVar[bool] = True

    def absent(self) -> int:
        return 0

    def note(self, memo: Memo, result: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Touch(LifeStep):
    """Result 1. Every Write restarts the tti; this step does nothing else."""

    def wire(self) -> tuple[bytes, ...]:
        return (b"touch",)


@dataclass(frozen=True, slots=True)
class Renew(LifeStep):
    """Result 1. The session answers to a new verifier alone; the old one is remembered as dead."""

    verifier: str = field(repr=False)

    @property
    def proof(self) -> bytes:
        return proof_of(self.verifier)

    def wire(self) -> tuple[bytes, ...]:
        return b"renew", self.proof


@dataclass(frozen=True, slots=True)
class Invalidate(LifeStep):
    """Result 1. Forgets the data and leaves a tombstone, by whose nonce a repeated script
    recognises its own.

    ``told``: this request's answer tells the browser. Else the browser goes on sending the dead
    cookie, and the tombstone owes it one new session.
    """

    nonce: bytes
    user: str = ""
    told: bool = True

    def wire(self) -> tuple[bytes, ...]:
        return b"invalidate", self.nonce, self.user.encode(), b"1" if self.told else b"0"

    def note(self, memo: Memo, result: int) -> None:
        memo.clear()


@dataclass(frozen=True, slots=True)
class Rotate(LifeStep):
    """Periodic renewal. Result 1, or 0 when the verifier is not ``after`` ms old yet. The old
    verifier stays good until the grace after the new one's first use."""

    verifier: str = field(repr=False)
    after: int

    @property
    def proof(self) -> bytes:
        return proof_of(self.verifier)

    def wire(self) -> tuple[bytes, ...]:
        return b"rotate", self.proof, b"%d" % self.after


@dataclass(frozen=True, slots=True)
class Login(LifeStep):
    """Result: how many entries the user's index has. Binds the session to a user under a new
    verifier, with a new lifetime.

    ``tti``: the session's own (None: the setting's). ``limit``: sessions a user may have, 0 for
    any number; where it is reached: CROWDED.
    """

    verifier: str = field(repr=False)
    user: str
    tti: int | None
    lifetime: int
    limit: int = 0
    info: bytes = b""
    creates: ClassVar[bool] = True

    @property
    def proof(self) -> bytes:
        return proof_of(self.verifier)

    def wire(self) -> tuple[bytes, ...]:
        tti = b"" if self.tti is None else b"%d" % self.tti
        return (
            *(b"login", self.proof, self.user.encode(), tti),
            *(b"%d" % self.lifetime, b"%d" % self.limit, self.info),
        )

    def note(self, memo: Memo, result: int) -> None:
        memo.fields[USER] = self.user.encode()
        memo.fields[CSRF_TOKEN] = None


Life = Touch | Renew | Rotate | Login | Invalidate
"""One step of a session's life."""

_CREATES = attrgetter("creates")


def creates(verbs: Collection[Verb], life: Life | None) -> bool:
    """Whether a visitor without a session gets one for these."""
    return (life is not None and life.creates) or any(map(_CREATES, verbs))


# -- operations and replies


@dataclass(slots=True)  # not frozen: it is the most frequent one, and that takes its time
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
    """All or nothing, on a live session: the verbs, in their order, and then the step of its life.
    ``values`` has one result for each verb, ``done`` is the step's.

    ``create``: make the session first (its name must be new). ``window``: milliseconds in which
    a replaced verifier counts as REPLACED. ``optional``: a failure does not concern the caller.
    """

    claim: Claim
    verbs: tuple[Verb, ...]
    timing: Timing
    window: int = 0
    create: bool = False
    optional: bool = False
    user: str | None = None
    """The session's user, where it is known: the script then keeps the index too."""
    anybody: bool = False
    """For administration: whatever the session's verifier is."""
    mark: bytes = b""
    """Names the request that may start a new session where the old one owes its browser one."""
    life: Life | None = None
    """What becomes of the session itself."""

    @property
    def repeatable(self) -> bool:
        return all(verb.repeatable for verb in self.verbs)


# Operations on what is kept about many sessions. No request learns from them.


@dataclass(frozen=True, slots=True)
class Listing:
    """The index of a user: ``values`` are (session id, time of login in ms), newest first.

    ``sample``: only so many, drawn at random; 0: all.
    """

    user: str
    sample: int = 0
    repeatable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Revoke:
    """Note in a user's index that every session whose login is older than now is over, but the one
    with the id ``keep``. ``values``: the entries of the others, as for a Listing.

    The note outlives the entries: a session whose entry an evicting server dropped is ended when
    it next meets the index.
    """

    user: str
    keep: str | None
    repeatable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class End:
    """End many sessions of one user, whatever their verifiers are. ``values``: for each id whether
    it was ended. A second try finds what the first one ended by the nonce."""

    user: str
    ids: tuple[str, ...]
    nonce: bytes
    timing: Timing
    repeatable: ClassVar[bool] = True

    def writes(self) -> tuple[Write, ...]:
        """One guarded Write for each."""
        life = Invalidate(self.nonce, self.user, told=False)
        return tuple(
            [
                Write(Claim(id, b""), (), self.timing, user=self.user, anybody=True, life=life)
                for id in self.ids
            ]
        )


@dataclass(frozen=True, slots=True)
class Prune:
    """Remove entries of ended sessions from a user's index: only those that are older than 60 s
    and unchanged, or a login under way would be lost. ``values``: how many."""

    user: str
    entries: tuple[tuple[str, int], ...]
    repeatable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Describe:
    """What our own fields tell of sessions: ``values`` are Descriptions or None, in order."""

    ids: tuple[str, ...]
    repeatable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Scan:
    """Some session ids of all: ``values`` are (next cursor, ids); cursor 0 begins and ends."""

    cursor: int
    repeatable: ClassVar[bool] = True


Operation = Read | Write | Listing | Prune | Revoke | End | Describe | Scan

REVOKED = "@ended"
"""The member of a user's index that a Revoke leaves; its score is the time, ms."""
PRUNE_AGE = 60_000
"""Milliseconds in which the entry of a login may come before its session."""


class Facts(NamedTuple):
    """Our own fields of one session, as they are stored."""

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
        return _number(self.login)

    @property
    def last_use(self) -> int:
        """When a write, or a read's touch, last reached the session, ms."""
        return _number(self.seen) or 0


FACTS = (PROOF, DEAD_PROOFS, DEADLINE, TOMBSTONE, OWN_TTI, PREDECESSOR, USER, LOGIN, SEEN)


class Description(NamedTuple):
    """A session as administration sees it; times in milliseconds. ``facts`` are not complete:
    those that a live session's verifier is judged by."""

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


class Reply(NamedTuple):
    """``left``: milliseconds until the server forgets the session; -1: never; None: no session.

    ``which``: the claim of a Read that was served, and ``facts`` of its session.
    ``remembered``: milliseconds until the end of a session with a tti of its own, else None.
    ``user``: whom the session was bound to before a Write. ``since``: when a signed-in session
    got its verifier, ms. ``done``: the result of a Write's ``life``, 0 where it has none.
    """

    state: State
    values: Any = ()
    now: int = 0
    left: int | None = None
    which: int = 0
    facts: Facts | None = None
    remembered: int | None = None
    user: Raw = None
    since: int | None = None
    done: int = 0

    @property
    def tti(self) -> int | None:
        """The session's own, ms."""
        return None if self.facts is None else _number(self.facts.tti)

    @property
    def deadline(self) -> int | None:
        """The session's absolute end, ms."""
        return None if self.facts is None else _number(self.facts.deadline)


# -- judging a proof, for reads and for stores without scripts

_ENTRY = 21
_KEPT = 3


def stamp(ms: int) -> bytes:
    """A time within a field: 5 bytes, in units of 10 ms."""
    return (ms // 10).to_bytes(5, "big")


def stamped(raw: bytes) -> int:
    return int.from_bytes(raw, "big") * 10


def _number(raw: Raw) -> int | None:
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


def judge(claim: Claim, facts: Facts, now: int, window: int, timing: Timing) -> State:
    """State of a session for a claim, in constant time for the proof.

    Times in the future, which a server's clock that was set back leaves behind, count for
    nothing.
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
