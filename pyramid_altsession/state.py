"""What one request knows of its session, and what it learns from a store's reply.

:meth:`SessionState.learn` is the table of promises (docs/semantics) in one function. No I/O here,
so that every driver (plain, awaitable, the tests' scheduler) shares these decisions.
"""

import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple

from .errors import SessionGone
from .operations import (
    CREATED,
    DataVerb,
    Invalidate,
    Memo,
    Operation,
    Read,
    Refused,
    Renew,
    Reply,
    State,
    Timing,
    Touch,
    Verb,
    Write,
)
from .token import Claim, Token


class Status(Enum):
    """Where a request stands with its session."""

    NONE = "no usable cookie came"
    UNSEEN = "a cookie came and was not looked at yet"
    LOST = "the cookie names no session: reads find nothing, a write asks the server again"
    ALIVE = "seen alive, or made, in this request"
    GONE = "was alive in this request and is no more"
    ENDED = "invalidated by this request"


class Happening(NamedTuple):
    """Something to tell the application's subscribers."""

    kind: str
    id: str


class SessionState:
    """What one request knows of its session; shared by its attempts and subrequests.

    The caller carries out what :meth:`read` and :meth:`write` give, and hands every reply to
    :meth:`learn`, which gives the next operation or None. ``results`` are then those of the
    verbs; values are in ``memo``. ``cookie`` is what the answer has to send: a Token, False to
    drop it, or None for nothing.
    """

    # Made for every request that uses its session: what most never change stays in the class.
    token: Token | None = None
    new = False
    left: int | None = None
    results: Sequence[Any] = ()
    cookie: Token | Literal[False] | None = None
    happenings: tuple[Happening, ...] = ()
    answered = False
    used = False
    root: int | None = None
    _met: frozenset[State] = frozenset()
    _rejected: frozenset[Claim] = frozenset()

    def __init__(
        self,
        tokens: Sequence[Token],
        timing: Timing,
        *,
        detached: bool = False,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._timing = timing
        self._detached = detached
        self.clock = clock
        self.began = clock() if began is None else began
        self.status = Status.UNSEEN if tokens else Status.NONE
        self.memo = Memo()

    def __repr__(self) -> str:
        return f"<SessionState {self.status.name} {self.token!r}>"

    def begin_attempt(self, root: int, answered: bool) -> None:
        """A new attempt at the same request: what is true stays, what was read does not."""
        self.root = root
        self.answered = answered
        self.memo.clear()

    # what to ask

    def read(self, names: Sequence[str] | None, *, touch: bool = True) -> Read | None:
        """The Read for fields (None: all) that are not remembered; None when none is needed."""
        self._begin()
        if self.status is Status.ALIVE and self.token is not None:
            claims: tuple[Claim, ...] = (self.token.claim,)
        elif self.status is Status.UNSEEN:
            claims = tuple(token.claim for token in self._tokens)
        else:
            if self._detached:
                raise SessionGone()
            return None
        if names is None:
            if self.memo.complete:
                return None
            return Read(claims, None, self._timing, touch)
        missing = self.memo.missing(names) if names else ()
        if names and not missing and self.status is Status.ALIVE:
            return None
        return Read(claims, missing, self._timing, touch)

    def write(self, *verbs: Verb) -> Write | None:
        """The Write for the verbs; None when without a session there is nothing to do."""
        self._begin()
        if self.status is Status.ALIVE and self.token is not None:
            return self._guarded(self.token, verbs)
        if self.status in (Status.UNSEEN, Status.LOST):
            self._met = frozenset()
            return self._guarded(self._tokens[0], verbs)
        return self._without_session(verbs)

    def _begin(self) -> None:
        self.used = True
        if self.status is Status.GONE:
            raise SessionGone()

    def _guarded(self, token: Token, verbs: tuple[Verb, ...], optional: bool = False) -> Write:
        if any(isinstance(verb, Renew) for verb in verbs):
            self._refuse_lost_cookie()
        age = round((self.clock() - self.began) * 1000)
        window = self._timing.window and self._timing.window + age
        return Write(token.claim, verbs, self._timing, window, optional=optional)

    def _without_session(self, verbs: tuple[Verb, ...]) -> Write | None:
        """A new session where the verbs have something to store; else they find nothing."""
        if self._detached:
            raise SessionGone()
        if not any(verb.creates for verb in verbs):
            self.results = [verb.absent() for verb in verbs]
            return None
        return self._create(Token.new(), verbs)

    def _create(self, token: Token, verbs: tuple[Verb, ...]) -> Write:
        self._refuse_lost_cookie()
        self.token = token
        return Write(token.claim, verbs, self._timing, create=True)

    def create(self, *verbs: Verb) -> Write:
        """A new session that no request asked for."""
        self._detached = True
        return self._create(Token.new(), verbs)

    def _refuse_lost_cookie(self) -> None:
        if self.answered:
            raise RuntimeError(
                "the session's cookie cannot be sent any more: the response callbacks of this"
                " request have run; use the session earlier than in app_iter or NewResponse"
            )

    # what the answer means

    def learn(self, operation: Operation, reply: Reply) -> Operation | None:
        """Take in a reply; give the operation that has to follow, or None.

        Raises SessionGone where the promises say so. Read this beside docs/semantics.
        """
        state = reply.state
        if state is State.LIVE or state is State.REFUSED:
            return self._learn_live(operation, reply)
        if self.status is Status.ALIVE:
            self._learn_gone(operation)
            return None
        if isinstance(operation, Read):
            for claim, one in zip(operation.claims, reply.values, strict=True):
                self._note_rejection(claim, one)
            self.status = Status.LOST
            if self._detached:
                raise SessionGone()
            return None
        if operation.create:
            return self._create(Token.new(), operation.verbs)  # the name was taken
        self.status = Status.LOST
        self._note_rejection(operation.claim, state)
        self._met |= {state}
        following = self._after(operation.claim)
        if following is not None:
            return self._guarded(following, operation.verbs)
        ends = isinstance(operation.verbs[0], Invalidate)
        refused = State.REPLACED in self._met or (State.ENDED in self._met and not ends)
        if refused or self._detached:
            # Never a new session: its cookie would replace the one a newer login has just set.
            raise SessionGone()
        if ends:
            self.results = [0]
            if State.ENDED not in self._met:  # else the answer that ended it sees to the cookie
                self.cookie = False
            return None
        return self._without_session(operation.verbs)

    def _learn_live(self, operation: Operation, reply: Reply) -> Operation | None:
        self.left = reply.left
        if isinstance(operation, Read):
            self._choose(operation.claims[reply.which])
            self._learn_values(operation, reply)
            return self._touch_if_due(operation, reply)
        if not operation.create:
            self._choose(operation.claim)
        if reply.state is State.REFUSED:
            raise Refused(reply.values)
        if operation.create:
            self.status = Status.ALIVE
            self.new = True
            self.memo.complete = True
            self.memo.fields[CREATED] = b"%d" % reply.now
            self.cookie = self.token
            self._tell("created", operation.claim)
        self.results = reply.values
        for verb, result in zip(operation.verbs, reply.values, strict=True):
            verb.note(self.memo, result)
            if isinstance(verb, Renew):
                self.token = self.cookie = Token(operation.claim.id, verb.verifier)
                self._tell("renewed", operation.claim)
            elif isinstance(verb, Invalidate):
                self._tell("invalidated", operation.claim)
                self.status = Status.ENDED
                self.cookie = False if self._tokens else None
                self.new = False
                self.left = None
        return None

    def _learn_values(self, operation: Read, reply: Reply) -> None:
        if operation.fields is None:
            self.memo.fields = dict(reply.values)
            self.memo.complete = True
        else:
            self.memo.fields.update(zip(operation.fields, reply.values, strict=True))

    def _touch_if_due(self, operation: Read, reply: Reply) -> Write | None:
        """The touch that a read owes: not before touch_interval, and never at the deadline.

        More time left than any touch gives means that the server's clock was set back (or a TTL
        was taken off by hand): the script puts that right.
        """
        left, timing = reply.left, self._timing.own(reply.tti)
        if not operation.touch or left is None or self.token is None:
            return None
        astray = left == -1 or left > timing.tti + timing.interval + 1000
        limited = reply.deadline is not None and reply.now + left >= reply.deadline
        if astray or (left < timing.tti and not limited):
            return self._guarded(self.token, (Touch(),), optional=True)
        return None

    def _learn_gone(self, operation: Operation) -> None:
        """Row one: seen alive in this request, and now gone."""
        self.status = Status.GONE
        self.left = None
        if not operation.optional:  # a touch: the read that owed it succeeded before the end
            self.memo.clear()
            raise SessionGone()

    def unsure(self, operation: Operation) -> None:
        """No reply came: whether a write was carried out is not known, so forget its fields."""
        if isinstance(operation, Write):
            self.memo.forget(*[v.name for v in operation.verbs if isinstance(v, DataVerb)])

    def _choose(self, claim: Claim) -> None:
        """The first live candidate serves the whole request."""
        if self.status is not Status.ALIVE:
            self.status = Status.ALIVE
            self.token = next(token for token in self._tokens if token.claim == claim)

    def _after(self, claim: Claim) -> Token | None:
        claims = [token.claim for token in self._tokens]
        place = claims.index(claim) + 1
        return self._tokens[place] if place < len(claims) else None

    def _note_rejection(self, claim: Claim, state: State) -> None:
        if state is State.REJECTED and claim not in self._rejected:
            self._rejected |= {claim}
            self._tell("rejected", claim)

    def _tell(self, kind: str, claim: Claim) -> None:
        self.happenings += (Happening(kind, claim.id),)
