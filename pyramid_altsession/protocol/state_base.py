"""What one request knows of its session, and what it may ask of the store.

``state.py`` tells what it learns from the replies. No I/O here, so that every driver (plain,
awaitable, the tests' scheduler) shares these decisions.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple

from ..errors import SessionGone, StoreUnavailable
from .changes import PendingChanges
from .field_cache import FieldCache
from .fields import USER, Description, State, Timing
from .lifecycle import Life, Login, Renew, Rotate, creates
from .messages import Read, Write
from .steps import Prefetch
from .token import Claim, Token, new_verifier
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
    """The half of :class:`SessionState` that asks.

    :meth:`read` and :meth:`write` return the operation to carry out. Afterwards ``results`` holds
    the results of the verbs, ``done`` that of the step of life, and ``cache`` the values.
    ``cookie`` is what the answer has to send: a Token, False to drop the cookie, or None for
    nothing.
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

    def read(
        self, names: tuple[str, ...] | None, *, touch: bool = True, fresh: bool = False
    ) -> Read | None:
        """The Read for fields (None: all) that are not remembered, or, if ``fresh``, for all of
        them; None when none is needed."""
        self.used = True
        if self.status is Status.GONE:
            raise SessionGone()
        if self.away is not None:
            return None
        if fresh:
            self.cache.forget(*(names or self.cache.fields.copy()))
        claims = self._claims()
        if not claims:
            if self._detached:
                raise SessionGone()
            return None
        if names is None:
            return None if self.cache.complete else Read(claims, None, self._timing, touch)
        missing = self.cache.missing(names + self.wanted) if names else ()
        if names and not missing and self.status is Status.ALIVE:
            return None
        return Read(claims, missing, self._timing, touch)

    def choice(self) -> Read | None:
        """The Read that has to come before a Write if more than one token may be the right one. The
        first live one is used. The others must not reach the script, which might end their
        sessions.
        """
        claims = self._claims()
        if len(claims) < 2 or self.away is not None:
            return None
        return Read(claims, (), self._timing, touch=False)

    def write(self, *verbs: Verb, life: Life | None = None) -> Write | None:
        """The Write for these; None when without a session there is nothing to do."""
        self.used = True
        if self.status is Status.GONE:
            raise SessionGone()
        if self.away is not None:
            raise self.away
        self._met = frozenset()
        if self.status is Status.ALIVE and self.token is not None:
            return self._guarded(self.token, verbs, life)
        if self.status in (Status.UNSEEN, Status.LOST) and self._tokens:
            return self._guarded(self._tokens[0], verbs, life)
        return self._without_session(verbs, life)

    def login(self, life: Login) -> Write:
        """The Write for a sign-in, which is possible even if the session is gone."""
        if self.status is Status.GONE and self.token is not None and not self._detached:
            self.used = True
            self._met = frozenset()
            return self._guarded(self.token, (), life)
        write = self.write(life=life)
        assert write is not None  # a Login creates
        return write

    def renewal(self) -> Write | None:
        """The periodic renewal that is due, to be asked for as the last thing of a request."""
        if not self.renewal_due or self.status is not Status.ALIVE or self.cookie is not None:
            return None
        return self.write(life=Rotate(new_verifier(), self._timing.renew_after))

    @property
    def tells_browser(self) -> bool:
        """Whether an answer follows that can change the browser's cookie."""
        return not self._detached

    @property
    def mark(self) -> bytes:
        """A mark by which the script recognises this request, and so the session that it ended or
        may start.
        """
        if not self._mark:
            self._mark = os.urandom(16)
        return self._mark

    @property
    def user(self) -> str | None:
        """The session's user, as far as this request knows."""
        raw = self.cache.fields.get(USER)
        return None if raw is None else raw.decode()

    def _claims(self) -> tuple[Claim, ...]:
        """The claims that may be the right ones, the preferred one first."""
        tokens: Sequence[Token] = ()
        if self.status is Status.UNSEEN:
            tokens = self._tokens
        elif self.status is Status.ALIVE and self.token is not None:
            tokens = (self.token,)
        if tokens and self._doubt is not None:
            tokens = [*tokens, self._doubt]
        if tokens and not tokens[1:]:
            return (tokens[0].claim,)  # usually there is one
        return tuple([token.claim for token in tokens])

    def _guarded(
        self, token: Token, verbs: tuple[Verb, ...], life: Life | None, optional: bool = False
    ) -> Write:
        if self.answered and isinstance(life, Renew | Login):
            self._refuse_lost_cookie()
        age = round((self.clock() - self.began) * 1000)
        window = self._timing.window and self._timing.window + age
        starts, user = self.status is not Status.ALIVE, self.user
        if life is not None and isinstance(life, Login):
            starts, user = True, life.user
        mark = self.mark if starts and not self._detached and creates(verbs, life) else b""
        timing = self._times(user) if self.new else self._timing
        return Write(
            token.claim,
            verbs,
            timing,
            window,
            False,
            optional,
            user,
            False,
            mark,
            life,
            self.durable,
        )

    def _times(self, user: str | None) -> Timing:
        """The times of the session: an anonymous one may have a shorter tti until its cookie has
        come back.
        """
        newborn = self.new and not self._detached and user is None and self.user is None
        return self._timing.newborn() if newborn else self._timing

    def _without_session(self, verbs: tuple[Verb, ...], life: Life | None) -> Write | None:
        """A new session if there is something to store; otherwise the verbs find nothing."""
        if self._detached:
            raise SessionGone()
        if not creates(verbs, life):
            self._find_nothing(verbs, life)
            return None
        return self._create(Token.new(), verbs, life)

    def _find_nothing(self, verbs: tuple[Verb, ...], life: Life | None) -> None:
        self.results = [verb.absent() for verb in verbs]
        self.done = 0 if life is None else life.absent()

    def _create(self, token: Token, verbs: tuple[Verb, ...], life: Life | None) -> Write:
        self._refuse_lost_cookie()
        self.token = token
        if isinstance(life, Renew):
            # A new session needs no new verifier, and with one a repeated script would not
            # recognise itself.
            life = None
        user = life.user if isinstance(life, Login) else None
        timing = self._timing if self._detached or user else self._timing.newborn()
        return Write(
            token.claim, verbs, timing, create=True, user=user, life=life, durable=self.durable
        )

    def create(self, *verbs: Verb) -> Write:
        """A new session without a request."""
        self._detached = True
        return self._create(Token.new(), verbs, None)

    def _refuse_lost_cookie(self) -> None:
        if self.answered:
            raise RuntimeError(
                "the session's cookie cannot be sent any more, because the answer has begun (in"
                " Pyramid: the response callbacks have run): make this call earlier, not in"
                " app_iter, NewResponse, a streamed body or a background task, nor after a"
                " websocket's accept"
            )
