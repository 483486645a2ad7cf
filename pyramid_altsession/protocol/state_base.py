"""What one request knows of its session, and how it forgets that.

``state.py`` tells what it asks of the store, and what it learns from the replies.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple

from ..errors import StoreUnavailable
from .changes import PendingChanges
from .fields import CSRF_TOKEN, LOGIN, USER, Description, FieldCache, State, Timing
from .lifecycle import Life, Login, Renew
from .messages import Read, Write
from .steps import Prefetch
from .token import Claim, Token
from .verbs import Verb


class Status(Enum):
    """Where a request stands with its session."""

    NONE = "no usable cookie came"
    UNSEEN = "a cookie came and was not looked at yet"
    LOST = "the cookie names no session: reads find nothing, a write asks the server again"
    ALIVE = "seen alive, or made, in this request"
    GONE = "was alive in this request and is no more"
    ENDED = "invalidated by this request"


class PendingEvent(NamedTuple):
    """Something to tell the application's subscribers, and why it happened."""

    kind: str
    id: str
    user: str | None
    reason: str


class StateBase:
    """The facts of :class:`SessionState`.

    After a call, ``results`` holds the results of its verbs, ``done`` that of its step of life, and
    ``cache`` the values. ``cookie`` is what the answer has to send: a Token, False to drop the
    cookie, or None for nothing.
    """

    # One object is made for every request that uses its session, so attributes that most requests
    # never change stay in the class.
    token: Token | None = None
    new = False
    left: int | None = None  # milliseconds until the end without use, at the last reply
    now: int | None = None  # the server's clock at the last reply
    results: Sequence[Any] = ()
    done = 0
    cookie: Token | Literal[False] | None = None
    cookie_age: int | None = None  # milliseconds, of a remembered session
    renewal_due = False
    events: tuple[PendingEvent, ...] = ()
    answered = False
    used = False
    # The answer reports a failure already, so a later use of request.session raises none.
    reported = False
    root: int | None = None
    changes: PendingChanges | None = None  # changes that request.session has not written yet
    wanted: tuple[str, ...] = ()  # keys to fetch together with the first read
    sent: Prefetch | None = None  # under way
    optional = False  # the view can do without the session while the server is away
    away: StoreUnavailable | None = None  # the error, once it has to
    durable = False  # of the call under way: a replica has to confirm what it writes
    confirmed = True  # whether a replica did, at the last reply
    unconfirmed: Write | None = None  # what ended the session, if no replica has confirmed that
    several = False  # more than one token may be the right one: see choice()
    _met: frozenset[State] = frozenset()
    _rejected: frozenset[Claim] = frozenset()
    _mark = b""
    _doubt: Token | None = None  # the session's token if the write with the lost reply succeeded

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
        if tokens[1:]:
            self.several = True
        self._timing = timing
        self._detached = detached
        self.clock = clock
        self.began = clock() if began is None else began
        self.status = Status.UNSEEN if tokens else Status.NONE
        self.cache = FieldCache()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status.name} {self.token!r}>"

    @property
    def current(self) -> Token | None:
        """The token in use, or the one that the browser sent, if it has not been checked yet."""
        if self.status is Status.UNSEEN:
            return self._tokens[0]
        return self.token if self.status is Status.ALIVE else None

    @property
    def id(self) -> str | None:
        """The session's public handle, once it was seen alive or made."""
        known = self.status in (Status.ALIVE, Status.GONE)
        return self.token.id if known and self.token else None

    @property
    def claims(self) -> list[Claim]:
        """The claims of the cookies that the request came with."""
        return [token.claim for token in self._tokens]

    def among(self, found: Iterable[Description]) -> str | None:
        """The id of this request's session, if it is among these. If the cookie has not been
        checked yet, it is judged as in a read.
        """
        self.used = True
        if self.status is not Status.UNSEEN:
            seen = self.status in (Status.ALIVE, Status.GONE)
            return self.token.id if seen and self.token else None
        live = {known.id: known for known in found}
        for claim in self.claims:
            if claim.id in live and live[claim.id].opens(claim, self._timing):
                return claim.id
        return None

    def begin_attempt(self, root: int, answered: bool) -> None:
        """A new attempt at the same request: the facts stay, and what was read is forgotten."""
        self.root = root
        self.answered = answered
        self.reported = False
        self.away = None
        self.cache.clear()
        self.changes = None
        self.abandon()

    def abandon(self) -> None:
        """Drop a prefetch whose answer is not wanted any more."""
        if self.sent is not None:
            sent, self.sent = self.sent, None
            sent.pending.cancel()

    @property
    def tells_browser(self) -> bool:
        """Whether an answer follows that can change the browser's cookie."""
        return not self._detached

    def failed(self, operation: Read | Write, error: BaseException) -> bool:
        """Note that no reply came. Returns whether the call goes on without one.

        It does if the operation is optional, and if the view can do without the session. Then for
        the rest of the request reads find nothing new and writes raise the error, because a value
        built from a default must not replace the stored one.
        """
        if isinstance(operation, Write):
            self._note_doubt(operation)
        if not isinstance(error, StoreUnavailable):
            return False
        if self.optional and isinstance(operation, Read):
            self.away = error
            return True
        return operation.optional

    def _note_doubt(self, operation: Write) -> None:
        """It is not known whether the write was carried out. Forget its fields, and before the next
        write, find out by a read which verifier the session has.
        """
        self.cache.forget(*[name for verb in operation.verbs for name in verb.names or ()])
        life = operation.life
        if isinstance(life, Renew | Login) and not operation.create:
            self._doubt = Token(operation.claim.id, life.verifier)
            self.several = True
            self.cache.forget(USER, LOGIN, CSRF_TOKEN)

    def _leave(self) -> None:
        """Leave the session that this request saw. Nothing that was read from it, or was to be
        written to it, may reach another session.
        """
        self.cache.clear()
        self.left = self.cookie = self._doubt = None
        self.new = self.renewal_due = False
        if self.changes is not None:
            self.changes.forget()
        self.abandon()

    def _adopt(self, verifier: str, operation: Write) -> None:
        self.token = self.cookie = Token(operation.claim.id, verifier)
        self._doubt = None
        self.renewal_due = False

    def _after(self, claim: Claim) -> Token | None:
        claims = [token.claim for token in self._tokens]
        place = claims.index(claim) + 1
        return self._tokens[place] if place < len(claims) else None

    def _find_nothing(self, verbs: tuple[Verb, ...], life: Life | None) -> None:
        self.results = [verb.absent() for verb in verbs]
        self.done = 0 if life is None else life.absent()

    def _refuse_lost_cookie(self) -> None:
        if self.answered:
            raise RuntimeError(
                "the session's cookie cannot be sent any more, because the answer has begun (in"
                " Pyramid: the response callbacks have run): make this call earlier, not in"
                " app_iter, NewResponse, a streamed body or a background task, nor after a"
                " websocket's accept"
            )
