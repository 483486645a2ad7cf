"""The state of one request's session: what it asks of the store, and what it learns from the reply.
No I/O here, so that every driver (plain, awaitable, the tests' scheduler) shares these decisions.

:meth:`SessionState.learn` is the table of promises (docs/semantics) in one function.
"""

import os
from collections.abc import Iterable, Sequence

from ..errors import SessionFull, SessionGone
from .fields import CREATED, LOGIN, USER, State, Timing
from .frame import alive
from .lifecycle import Invalidate, Life, Login, Renew, Rotate, Touch
from .messages import Read, Reply, SessionLimit, Write
from .state_base import PendingEvent, StateBase, Status
from .token import Claim, Token, new_verifier
from .verbs import Refused, Verb, creates

__all__ = ["PendingEvent", "SessionState", "Status"]


class SessionState(StateBase):
    """What one request knows of its session; shared by its attempts and subrequests.

    :meth:`read`, :meth:`write` and their like return the operation to carry out. Its reply is
    passed to :meth:`learn`, which returns the operation that has to follow, or None.
    """

    @property
    def user(self) -> str | None:
        """The session's user, as far as this request knows."""
        raw = self.cache.fields.get(USER)
        return None if raw is None else raw.decode()

    @property
    def mark(self) -> bytes:
        """A mark by which the script recognises this request, and so the session that it ended or
        may start.
        """
        if not self._mark:
            self._mark = os.urandom(16)
        return self._mark

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

    def create(self, *verbs: Verb) -> Write:
        """A new session without a request."""
        self._detached = True
        return self._create(Token.new(), verbs, None)

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

    def learn(self, operation: Read | Write, reply: Reply) -> Read | Write | None:
        """Learn from a reply; returns the operation that has to follow, or None.

        Raises SessionGone where the promises say so. Read this beside docs/semantics.
        """
        state = reply.state
        if not reply.confirmed:
            self.confirmed = False
        if state is State.LIVE or state is State.REFUSED or state is State.FULL:
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
            return self._create(Token.new(), verbs, life)  # the id was taken
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
            # Otherwise another answer may be setting a newer cookie: that of the request which
            # ended the session, or signs in again.
            if not self._met & {State.ENDED, State.OWED}:
                self.cookie = False
            return None
        return self._without_session(verbs, life)

    def _learn_lost(self, operation: Read, reply: Reply) -> Read | Write | None:
        self.status = Status.LOST
        following = None
        for claim, state in zip(operation.claims, reply.values, strict=True):
            if state is State.REUSED:
                # Only the script ends a session, so send it the replaced proof.
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
        if reply.state is State.FULL:
            what, found = reply.values[0].decode(), reply.values[1]
            limit = getattr(operation.timing, f"max_{what}")
            raise SessionFull(
                f"the session would have {found} {what}, and session.max_{what} is {limit}"
            )
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
                confirmed = operation.durable and reply.confirmed
                self.unconfirmed = None if confirmed else operation
                self.cookie = False if self._tokens else None

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
        """Note whether a renewal is due. Only signed-in sessions have a ``since``."""
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
            # A touch cannot move the end, but it checks from time to time that the user's index
            # lists the session.
            due = facts.login is not None and reply.now - facts.last_use >= self._timing.interval
        else:
            due = left < timing.tti
        touches = due or astray or confirms
        return self._guarded(token, (), Touch(), optional=True) if touches else None

    def _learn_gone(self, operation: Read | Write) -> None:
        """The first row of the table: seen alive in this request, and now gone."""
        self.status = Status.GONE
        self.left = self.cookie = None
        if not operation.optional:  # an optional touch: the read before it succeeded
            self.cache.clear()
            raise SessionGone()

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

    def _note_rejection(self, claim: Claim, state: State) -> None:
        if state in (State.REJECTED, State.REUSED) and claim not in self._rejected:
            self._rejected |= {claim}
            self._tell("rejected", claim, state.name.lower())
        if state in (State.OTHER_USER, State.REUSED):
            reason = "login of another user" if state is State.OTHER_USER else "reuse"
            self._tell("invalidated", claim, reason)

    def tell_ended(self, ids: Iterable[str], user: str, reason: str) -> None:
        """Note events for subscribers: a call of this session ended other sessions."""
        self.events += tuple([PendingEvent("invalidated", id, user, reason) for id in ids])

    def _tell(self, kind: str, claim: Claim, reason: str = "call") -> None:
        self.events += (PendingEvent(kind, claim.id, self.user, reason),)

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
