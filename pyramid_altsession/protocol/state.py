"""What one request knows of its session, and what it learns from a store's reply.

:meth:`SessionState.learn` is the table of promises (docs/semantics) in one function. No I/O here,
so that every driver (plain, awaitable, the tests' scheduler) shares these decisions.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple

from ..errors import SessionGone
from .changes import PendingChanges
from .envelope import alive
from .field_cache import FieldCache
from .fields import CREATED, CSRF_TOKEN, LOGIN, USER, Description, State, Timing
from .lifecycle import Invalidate, Life, Login, Renew, Rotate, Touch, creates
from .messages import Read, Reply, SessionLimit, Write
from .steps import Prefetch
from .token import Claim, Token, new_verifier
from .verbs import DataVerb, Refused, Verb


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


class SessionState:
    """What one request knows of its session; shared by its attempts and subrequests.

    The caller carries out what :meth:`read` and :meth:`write` give, and hands every reply to
    :meth:`learn`, which gives the next operation or None. ``results`` are then those of the
    verbs, and ``done`` is that of the step of life; values are in ``cache``. ``cookie`` is what the
    answer has to send: a Token, False to drop it, or None for nothing.
    """

    # Made for every request that uses its session: what most never change stays in the class.
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
    reported = False  # the answer tells of a failure: what looks at the session later is not told
    root: int | None = None
    changes: PendingChanges | None = None  # what request.session has not written yet
    wanted: tuple[str, ...] = ()  # keys to fetch together with the first read
    sent: Prefetch | None = None  # under way
    several = False  # more than one token may be the right one: see choice()
    _met: frozenset[State] = frozenset()
    _rejected: frozenset[Claim] = frozenset()
    _mark = b""
    _doubt: Token | None = None  # what the session answers to if a lost reply was a success

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
        if len(tokens) > 1:
            self.several = True
        self._timing = timing
        self._detached = detached
        self.clock = clock
        self.began = clock() if began is None else began
        self.status = Status.UNSEEN if tokens else Status.NONE
        self.cache = FieldCache()

    def __repr__(self) -> str:
        return f"<SessionState {self.status.name} {self.token!r}>"

    @property
    def current(self) -> Token | None:
        """The token in use, or the one that came and was not looked at yet."""
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
        """What the request was sent with."""
        return [token.claim for token in self._tokens]

    def among(self, found: Iterable[Description]) -> str | None:
        """The id of this request's session, if it is one of these. A cookie that was not looked at
        yet is judged as a read would do it."""
        if self.status is not Status.UNSEEN:
            seen = self.status in (Status.ALIVE, Status.GONE)
            return self.token.id if seen and self.token else None
        live = {known.id: known for known in found}
        for claim in self.claims:
            if claim.id in live and live[claim.id].opens(claim, self._timing):
                return claim.id
        return None

    def begin_attempt(self, root: int, answered: bool) -> None:
        """A new attempt at the same request: what is true stays, what was read does not."""
        self.root = root
        self.answered = answered
        self.reported = False
        self.cache.clear()
        self.changes = None
        self.abandon()

    def abandon(self) -> None:
        """Nobody will take what a prefetch brings."""
        if self.sent is not None:
            sent, self.sent = self.sent, None
            sent.pending.cancel()

    # what to ask

    def read(
        self, names: tuple[str, ...] | None, *, touch: bool = True, fresh: bool = False
    ) -> Read | None:
        """The Read for fields (None: all) that are not remembered, or, if ``fresh``, for all of
        them; None when none is needed."""
        self.used = True
        if self.status is Status.GONE:
            raise SessionGone()
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
        """The Read that has to come before a Write where more than one token may be the right one:
        the first live one serves, and no other is judged by a script that may end its session."""
        claims = self._claims()
        return Read(claims, (), self._timing, touch=False) if len(claims) > 1 else None

    def write(self, *verbs: Verb, life: Life | None = None) -> Write | None:
        """The Write for these; None when without a session there is nothing to do."""
        self._begin()
        self._met = frozenset()
        if self.status is Status.ALIVE and self.token is not None:
            return self._guarded(self.token, verbs, life)
        if self.status in (Status.UNSEEN, Status.LOST) and self._tokens:
            return self._guarded(self._tokens[0], verbs, life)
        return self._without_session(verbs, life)

    def login(self, life: Login) -> Write:
        """The Write for a sign-in: the one thing that a gone session does not stand in the way
        of."""
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
        """Whether an answer follows that tells the browser what becomes of its cookie."""
        return not self._detached

    @property
    def mark(self) -> bytes:
        """By what a script recognises this request: the session that it ended, or may start."""
        if not self._mark:
            self._mark = os.urandom(16)
        return self._mark

    @property
    def user(self) -> str | None:
        """The session's user, as far as this request has seen."""
        raw = self.cache.fields.get(USER)
        return None if raw is None else raw.decode()

    def _begin(self) -> None:
        self.used = True
        if self.status is Status.GONE:
            raise SessionGone()

    def _claims(self) -> tuple[Claim, ...]:
        """Claims to the session that may be the right ones, in the order in which they count."""
        tokens: Sequence[Token] = ()
        if self.status is Status.UNSEEN:
            if not self.several:
                return (self._tokens[0].claim,)
            tokens = self._tokens
        elif self.status is Status.ALIVE and self.token is not None:
            tokens = (self.token,)
        if tokens and self._doubt is not None:
            tokens = [*tokens, self._doubt]
        return tuple([token.claim for token in tokens])

    def _guarded(
        self, token: Token, verbs: tuple[Verb, ...], life: Life | None, optional: bool = False
    ) -> Write:
        if self.answered and isinstance(life, Renew | Login):
            self._refuse_lost_cookie()
        age = round((self.clock() - self.began) * 1000)
        window = self._timing.window and self._timing.window + age
        user = life.user if isinstance(life, Login) else self.user
        starts = self.status is not Status.ALIVE or isinstance(life, Login)
        mark = self.mark if starts and not self._detached and creates(verbs, life) else b""
        timing = self._times(user)
        return Write(token.claim, verbs, timing, window, False, optional, user, False, mark, life)

    def _times(self, user: str | None) -> Timing:
        """Until its cookie has come back, an anonymous session may live for a shorter time."""
        newborn = self.new and not self._detached and user is None and self.user is None
        return self._timing.newborn() if newborn else self._timing

    def _without_session(self, verbs: tuple[Verb, ...], life: Life | None) -> Write | None:
        """A new session where there is something to store; else the verbs find nothing."""
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
            # A new session's verifier needs no renewal; a repeated script would find another one.
            life = None
        user = life.user if isinstance(life, Login) else None
        timing = self._timing if self._detached or user else self._timing.newborn()
        return Write(token.claim, verbs, timing, create=True, user=user, life=life)

    def create(self, *verbs: Verb) -> Write:
        """A new session that no request asked for."""
        self._detached = True
        return self._create(Token.new(), verbs, None)

    def _refuse_lost_cookie(self) -> None:
        if self.answered:
            raise RuntimeError(
                "the session's cookie cannot be sent any more: the response callbacks of this"
                " request have run; use the session earlier than in app_iter or NewResponse"
            )

    # what the answer means

    def learn(self, operation: Read | Write, reply: Reply) -> Read | Write | None:
        """Take in a reply; give the operation that has to follow, or None.

        Raises SessionGone where the promises say so. Read this beside docs/semantics.
        """
        state = reply.state
        if state is State.LIVE or state is State.REFUSED:
            self.left, self.now = reply.left, reply.now
            if isinstance(operation, Read):
                return self._learn_values(operation, reply)
            self._learn_done(operation, reply)
            return None
        if state is State.SESSION_LIMIT:
            raise SessionLimit
        signs_in = isinstance(operation, Write) and isinstance(operation.life, Login)
        if self.status is Status.ALIVE and not signs_in:
            self._learn_gone(operation)
            return None
        if isinstance(operation, Read):
            return self._learn_lost(operation, reply)
        verbs, life = operation.verbs, operation.life
        if operation.create:
            return self._create(Token.new(), verbs, life)  # the name was taken
        chosen = self.status in (Status.ALIVE, Status.GONE) or state is State.OTHER_USER
        if self.status is not Status.GONE:
            self.status = Status.LOST
        if state is State.OTHER_USER:
            self.cache.fields[USER] = reply.user
        self._note_rejection(operation.claim, state)
        if chosen:
            self._leave()
        self.cache.clear()
        if operation.optional:
            if self._detached:
                raise SessionGone()
            return None
        self._met |= {state}
        following = None if chosen else self._after(operation.claim)
        if following is not None:
            return self._guarded(following, verbs, life)
        if signs_in:
            if self._detached:
                raise SessionGone()
            return self._create(Token.new(), verbs, life)
        ends = isinstance(life, Invalidate)
        refused = State.REPLACED in self._met or (State.ENDED in self._met and not ends)
        if refused or self._detached:
            # Never a new session: its cookie would replace the one a newer login has just set.
            raise SessionGone()
        if ends:
            self._find_nothing(verbs, life)
            # Else another answer may be setting a newer one: of who ended it, or signs in again.
            if not self._met & {State.ENDED, State.OWED}:
                self.cookie = False
            return None
        return self._without_session(verbs, life)

    def _learn_lost(self, operation: Read, reply: Reply) -> Read | Write | None:
        self.status = Status.LOST
        following = None
        for claim, state in zip(operation.claims, reply.values, strict=True):
            if state is State.REUSED:
                # Only the script ends a session: let it see who came.
                token = next(token for token in self._tokens if token.claim == claim)
                following = self._guarded(token, (), Touch(), optional=True)
            else:
                self._note_rejection(claim, state)
        if self._detached and following is None:
            raise SessionGone()
        return following

    def _learn_done(self, operation: Write, reply: Reply) -> None:
        if not operation.create:
            self._choose(operation.claim)
            self.cache.fields[USER] = reply.user
        if reply.state is State.REFUSED:
            raise Refused(reply.values)
        if self._timing.renew_after:
            self._note_age_of_verifier(reply.since)
        if operation.create:
            self.status = Status.ALIVE
            self.new = True
            self.cache.complete = True
            self.cache.fields[CREATED] = b"%d" % reply.now
            self.cookie = self.token
            self._tell("created", operation.claim)
        self.results, self.done = reply.values, reply.done
        for verb, result in zip(operation.verbs, reply.values, strict=True):
            verb.note(self.cache, result)
        if operation.life is not None:
            self._learn_step(operation, operation.life, reply)
        if self.cookie:
            self.cookie_age = reply.remembered

    def _learn_step(self, operation: Write, life: Life, reply: Reply) -> None:
        if isinstance(life, Invalidate):
            self._tell("invalidated", operation.claim)  # while the session's user is known
        life.note(self.cache, reply.done)
        match life:
            case Login():
                self.cache.fields[LOGIN] = b"%d" % reply.now
                if not operation.create:
                    self._adopt(life.verifier, operation)
                self._tell("renewed", operation.claim, "login")
            case Renew():
                self._adopt(life.verifier, operation)
                self._tell("renewed", operation.claim, "renew")
            case Rotate() if reply.done:
                self._adopt(life.verifier, operation)
                self._tell("renewed", operation.claim, "periodic")
            case Invalidate():
                self._leave()
                self.status = Status.ENDED
                self.cookie = False if self._tokens else None

    def _adopt(self, verifier: str, operation: Write) -> None:
        self.token = self.cookie = Token(operation.claim.id, verifier)
        self._doubt = None
        self.renewal_due = False

    def _learn_values(self, operation: Read, reply: Reply) -> Write | None:
        if self.status is not Status.ALIVE or self._doubt is not None:
            self._choose(operation.claims[reply.which])
        if self.cookie:
            self.cookie_age = reply.remembered
        now, cache = reply.now, self.cache
        if operation.fields is None:
            cache.fields = {name: alive(raw, now) for name, raw in reply.values.items()}
            cache.complete = True
        else:
            for name, raw in zip(operation.fields, reply.values, strict=True):
                framed = raw is not None and raw[:1] == b"@"
                cache.fields[name] = alive(raw, now) if framed else raw
        facts = reply.facts
        if facts is not None:
            cache.fields[USER], cache.fields[LOGIN] = facts.user, facts.login
            if self._timing.renew_after:
                self._note_age_of_verifier(facts.verifier_since)
        return self._touch_if_due(operation, reply)

    def _note_age_of_verifier(self, since: int | None) -> None:
        """Only signed-in sessions have a ``since``."""
        after, now = self._timing.renew_after, self.now or 0
        self.renewal_due = since is not None and now - since >= after

    def _touch_if_due(self, operation: Read, reply: Reply) -> Write | None:
        """The touch that a read owes: not before touch_interval, and never at the deadline.

        More time left than any touch gives means that the server's clock was set back (or a TTL
        was taken off by hand): the script puts that right.
        """
        left, facts, token = reply.left, reply.facts, self.token
        if not operation.touch or left is None or facts is None or token is None:
            return None
        timing, usual = self._timing, facts.tti is None and facts.predecessor is None
        if usual and timing.tti <= left <= timing.tti + timing.interval:
            return None
        timing = self._times(None).own(reply.tti)
        confirms = facts.unconfirmed and facts.proof == token.claim.proof
        astray = left == -1 or left > timing.tti + timing.interval + 1000
        if reply.deadline is not None and reply.now + left >= reply.deadline:
            # No touch moves the end; but the index of its user has to see the session at times.
            due = facts.login is not None and reply.now - facts.last_use >= self._timing.interval
        else:
            due = left < timing.tti
        touches = due or astray or confirms
        return self._guarded(token, (), Touch(), optional=True) if touches else None

    def _learn_gone(self, operation: Read | Write) -> None:
        """Row one: seen alive in this request, and now gone."""
        self.status = Status.GONE
        self.left = self.cookie = None
        if not operation.optional:  # a touch: the read that owed it succeeded before the end
            self.cache.clear()
            raise SessionGone()

    def _leave(self) -> None:
        """The session that this request saw is over for it: nothing that was read of it, or is not
        written into it yet, may reach another one."""
        self.cache.clear()
        self.left = self.cookie = self._doubt = None
        self.new = self.renewal_due = False
        if self.changes is not None:
            self.changes.forget()
        self.abandon()

    def unsure(self, operation: Read | Write) -> None:
        """No reply came: whether a write was carried out is not known. So forget its fields, and
        let a read tell which verifier the session answers to before anything else is written."""
        if not isinstance(operation, Write):
            return
        self.cache.forget(*[v.name for v in operation.verbs if isinstance(v, DataVerb)])
        life = operation.life
        if isinstance(life, Renew | Login) and not operation.create:
            self._doubt = Token(operation.claim.id, life.verifier)
            self.several = True
            self.cache.forget(USER, LOGIN, CSRF_TOKEN)

    def _choose(self, claim: Claim) -> None:
        """The first live candidate serves the whole request."""
        if self._doubt is not None and claim == self._doubt.claim:
            self.token = self.cookie = self._doubt  # the lost reply was a success
            self._doubt = None
            self._tell("renewed", claim, "lost reply")
        elif self.status is not Status.ALIVE:
            known = self._tokens if self.token is None else [*self._tokens, self.token]
            for token in known:
                if token.claim == claim:
                    self.token = token
        self.status = Status.ALIVE

    def _after(self, claim: Claim) -> Token | None:
        claims = [token.claim for token in self._tokens]
        place = claims.index(claim) + 1
        return self._tokens[place] if place < len(claims) else None

    def _note_rejection(self, claim: Claim, state: State) -> None:
        if state in (State.REJECTED, State.REUSED) and claim not in self._rejected:
            self._rejected |= {claim}
            self._tell("rejected", claim, state.name.lower())
        if state in (State.OTHER_USER, State.REUSED):
            reason = "login of another user" if state is State.OTHER_USER else "reuse"
            self._tell("invalidated", claim, reason)

    def tell_ended(self, ids: Iterable[str], user: str, reason: str) -> None:
        """Subscribers are to be told that a call of this session ended others."""
        self.events += tuple([PendingEvent("invalidated", id, user, reason) for id in ids])

    def _tell(self, kind: str, claim: Claim, reason: str = "call") -> None:
        self.events += (PendingEvent(kind, claim.id, self.user, reason),)
