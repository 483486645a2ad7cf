"""The operations of a store and its replies: values, without I/O. ``state.py`` says what a reply
means for a request.
"""

from typing import Any, ClassVar

from msgspec import Struct

from .fields import Facts, Raw, State, Timing, as_number
from .lifecycle import Invalidate, Life
from .token import Claim
from .verbs import Verb


class SessionLimit(Exception):
    """Raised when a login was refused, because the user has as many sessions as allowed."""


class Read(Struct, frozen=True):
    """Fetch fields (None: all) of the first live session among the claims; ``values`` follow
    ``fields``, or are a dict.

    ``whose``: serve the session if it is this user's (empty: nobody's), whatever its verifier is.
    """

    claims: tuple[Claim, ...]
    fields: tuple[str, ...] | None
    timing: Timing
    touch: bool = True
    whose: str | None = None
    repeatable: ClassVar[bool] = True
    optional: ClassVar[bool] = False


class Write(Struct, frozen=True):
    """All or nothing, on a live session: the verbs, in their order, and then the step of its life.
    ``values`` has one result for each verb, ``done`` is the step's.

    ``create``: make the session first (its name must be new). ``window``: milliseconds in which a
    replaced verifier counts as REPLACED. ``optional``: a failure is not raised to the caller.
    """

    claim: Claim
    verbs: tuple[Verb, ...]
    timing: Timing
    window: int = 0
    create: bool = False
    optional: bool = False
    user: str | None = None
    """The session's user, if known: then the script keeps the user's index too."""
    anybody: bool = False
    """For administration: whatever the session's verifier is."""
    mark: bytes = b""
    """Identifies the request, if it may start the new session that an old tombstone allows its
    browser.
    """
    life: Life | None = None
    """The step of the session's life, if any."""
    durable: bool = False
    """Whether a replica has to confirm it."""
    whose: str | None = None
    """As with a Read."""

    @property
    def repeatable(self) -> bool:
        return all(verb.repeatable for verb in self.verbs)


class Listing(Struct, frozen=True):
    """The index of a user: ``values`` are (session id, time of login in ms), newest first.

    ``sample``: only so many, drawn at random; 0: all.
    """

    user: str
    sample: int = 0
    repeatable: ClassVar[bool] = True


class Revoke(Struct, frozen=True):
    """Note in a user's index that every session that logged in before now is over, but the one with
    the id ``keep``. ``values``: the entries of the others, as for a Listing.

    The note stays longer than the entries: if an evicting server dropped a session's entry, the
    session is ended when its next write or touch looks at the index.
    """

    user: str
    keep: str | None
    durable: bool = False
    repeatable: ClassVar[bool] = True


class End(Struct, frozen=True):
    """End many sessions of one user (None: of any user), whatever their verifiers are. ``values``:
    for each id whether it was ended. By the nonce, a second try recognises what the first one
    ended.
    """

    user: str | None
    ids: tuple[str, ...]
    nonce: bytes
    timing: Timing
    durable: bool = False
    repeatable: ClassVar[bool] = True

    def writes(self) -> tuple[Write, ...]:
        """One guarded Write for each."""
        life = Invalidate(self.nonce, self.user or "", told=False)
        return tuple(
            [
                Write(Claim(id, b""), (), self.timing, user=self.user, anybody=True, life=life)
                for id in self.ids
            ]
        )


class Prune(Struct, frozen=True):
    """Remove entries of ended sessions from a user's index: only those that are older than 60 s
    and unchanged, or a login under way would be lost. ``values``: how many."""

    user: str
    entries: tuple[tuple[str, int], ...]
    repeatable: ClassVar[bool] = True


class Describe(Struct, frozen=True):
    """Describe sessions by the package's own fields. ``values``: Descriptions or None, in order."""

    ids: tuple[str, ...]
    repeatable: ClassVar[bool] = True


class Inspect(Struct, frozen=True):
    """Read the application's data of sessions, without a verifier and without a touch: ``values``
    are dicts of key and stored bytes, or None if the session ended, in order.

    ``opened``: a store that seals values opens them; otherwise they are returned as stored.
    """

    ids: tuple[str, ...]
    opened: bool = False
    repeatable: ClassVar[bool] = True


class Scan(Struct, frozen=True):
    """Some session ids of all: ``values`` are (next cursor, ids); cursor 0 begins and ends."""

    cursor: int
    repeatable: ClassVar[bool] = True


Operation = Read | Write | Listing | Prune | Revoke | End | Describe | Inspect | Scan


REVOKED = "@ended"
"""The member of a user's index that a Revoke leaves; its score is the time, ms."""


PRUNE_AGE = 60_000
"""Milliseconds for which a login's entry may exist before its session does."""


class Reply(Struct, frozen=True):
    """``left``: milliseconds until the server forgets the session; -1: never; None: no session.

    ``which``: the claim of a Read that was served, and ``facts`` of its session.
    ``remembered``: milliseconds until the end of a session with a tti of its own, else None.
    ``user``: whom the session was bound to before a Write. ``since``: when a signed-in session
    got its verifier, ms. ``done``: the result of a Write's ``life``, 0 where it has none.
    ``entering``: of a Listing, the ids whose login may still be under way; only where an entry and
    its session are on two servers. ``confirmed``: False where a durable operation was carried out,
    and no replica confirmed in time.
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
    entering: frozenset[str] = frozenset()
    confirmed: bool = True

    @property
    def ended(self) -> bool:
        """Of a Write that ends a session: whether it did."""
        return self.state is State.LIVE and self.done == 1

    @property
    def tti(self) -> int | None:
        """The session's own, ms."""
        return None if self.facts is None else as_number(self.facts.tti)

    @property
    def deadline(self) -> int | None:
        """The session's absolute end, ms."""
        return None if self.facts is None else as_number(self.facts.deadline)
