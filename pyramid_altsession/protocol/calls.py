"""Calls of one session that take several steps, or need more than verbs: each is written once,
without I/O, for every driver."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from msgspec.structs import replace

from ..config.table import SessionSettings
from ..errors import (
    UNCONFIRMED,
    NotDurable,
    SessionGone,
    StoreUnavailable,
    TooManySessions,
    ValueTooLarge,
)
from .administration import end_all_sessions, end_sessions, live_sessions, prune_some, survey
from .commands import UNSET, Commands, field_name
from .dialogue import Dialogue
from .fields import USER, Raw, Timing
from .frame import framed
from .keys import LONGEST, MAX_KEY_BYTES, Key, encodable
from .lifecycle import Invalidate, Login, Renew
from .messages import SessionLimit
from .state import Status
from .steps import TRIES, Steps, TooManyConflicts
from .token import new_verifier

T = TypeVar("T")

MAX_INFO_BYTES = 512
PRUNE_EACH = 16
"""Each time a user's index has grown by so many entries, a login looks for ended sessions."""


class Calls:
    """The calls of one session; ``AltSession`` tells what each means."""

    __slots__ = ("_commands", "_dialogue", "_settings", "_state")

    def __init__(self, dialogue: Dialogue, commands: Commands, settings: SessionSettings) -> None:
        self._dialogue = dialogue
        self._state = dialogue.state
        self._commands = commands
        self._settings = settings

    # -- reads

    def alive(self, fresh: bool) -> Steps[bool]:
        state = self._state
        if state.status is not Status.ALIVE or fresh:
            try:
                yield from self._dialogue.ask(())
            except SessionGone:
                if state.status is Status.GONE:
                    raise
                return False
        return state.status is Status.ALIVE

    def ttl(self) -> Steps[float | None]:
        yield from self._dialogue.settle()
        self._state.left = None
        yield from self._dialogue.ask((), touch=False)
        left = self._state.left
        return None if left is None else left / 1000

    # -- writes

    def compare_and_set(self, key: Key, expected: Any, value: Any) -> Steps[bool]:
        raw: Raw = None if expected is None else self._commands.framed(key, expected)[1]
        for _ in range(TRIES):
            verb = self._commands.comparison(key, raw, value)
            ((done, held),) = yield from self._dialogue.write(verb)
            if done:
                return True
            if held == raw or not self._commands.same(key, held, raw):
                return False
            raw = held  # the same value in other JSON
        return False  # others store it anew each time

    def modify(self, key: Key, function: Callable[[Any], Any], default: Any = UNSET) -> Steps[Any]:
        name = field_name(key)
        for _ in range(TRIES):
            yield from self._dialogue.fetch((name,), True)
            raw = self._dialogue.shown().get(name)
            value = function(self._commands.value(key, raw, default))
            verb = self._commands.comparison(key, raw, value)
            ((done, _held),) = yield from self._dialogue.write(verb)
            if done:
                return value
        raise TooManyConflicts(f"modify({name!r})")

    # -- what a replica has to confirm

    def durably(self, steps: Steps[T]) -> Steps[T]:
        """The same call; NotDurable if it was carried out but no replica confirmed it."""
        state = self._state
        state.durable = state.confirmed = True
        try:
            value = yield from steps
        finally:
            state.durable = False
        if not state.confirmed:
            raise NotDurable(UNCONFIRMED)
        return value

    def renew(self) -> Steps[bool]:
        return (yield from self._dialogue.step(Renew(new_verifier())))

    # -- who is signed in

    def login(
        self, userid: str, remember: float | None, info: Mapping[str, Any] | None
    ) -> Steps[None]:
        life = self.step_of_login(userid, remember, info)
        state = self._state
        with suppress(SessionGone):  # a login works all the same
            yield from self._dialogue.prepare()
        yield from self._sign_in(life)
        entries = state.done
        yield from self._end_oldest(userid)
        if entries % PRUNE_EACH == 0:
            with suppress(StoreUnavailable):  # the user is signed in all the same
                yield from prune_some(userid)

    def _sign_in(self, life: Login) -> Steps[None]:
        """Entries of sessions that ended without a logout do not count. This finds out which they
        are. The script that enters the session counts how many of them the index still lists,
        because other requests prune the index, or sign in, meanwhile.
        """
        for _ in range(TRIES):
            try:
                yield from self._dialogue.follow(self._state.login(life))
                return
            except SessionLimit:
                found = yield from survey(life.user)
            if len(found.live) + found.entering >= life.limit:
                break
            life = replace(life, verifier=new_verifier(), ended=found.ended)
        raise TooManySessions(f"the user has {life.limit} sessions (session.max_sessions_per_user)")

    def step_of_login(
        self, userid: str, remember: float | None, info: Mapping[str, Any] | None
    ) -> Login:
        if not isinstance(userid, str) or not userid:
            raise TypeError(f"login: the user id must be a non-empty str, not {userid!r}")
        if len(encodable("login", userid, "user id")) > MAX_KEY_BYTES:
            raise ValueTooLarge(f"login: a user id must have at most {MAX_KEY_BYTES} bytes")
        if isinstance(remember, bool) or not isinstance(remember, int | float | None):
            raise TypeError(f"login: remember must be a number of seconds, not {remember!r}")
        if remember is not None and not 1 <= remember <= LONGEST:
            raise ValueError(f"login: remember must be 1 second to 400 days, not {remember!r}")
        if not (info is None or isinstance(info, Mapping)):
            raise TypeError(f"login: info must be a mapping, not {type(info).__name__}")
        noted = b"" if info is None else framed(self._commands.codec.encode("info", dict(info)))
        if len(noted) > MAX_INFO_BYTES:
            raise ValueTooLarge(f"login: info has {len(noted)} bytes, and {MAX_INFO_BYTES} fit")
        session = self._settings
        own = None if remember is None else round(remember * 1000)
        lifetime = own or round((session.lifetime or LONGEST) * 1000)
        limit = session.max_sessions_per_user if session.on_max_sessions == "deny" else 0
        return Login(new_verifier(), userid, own, lifetime, limit, noted)

    def _end_oldest(self, userid: str) -> Steps[None]:
        """Called after the login, so that no session is ended if the login fails."""
        session = self._settings
        if not session.max_sessions_per_user or session.on_max_sessions != "end_oldest":
            return
        found = yield from live_sessions(userid)
        # Never this one, whatever the server's clock said at its login.
        others = [known.id for known in found if known.id != self._state.id]
        surplus = others[session.max_sessions_per_user - 1 :]
        ended = yield from end_sessions(userid, surplus, Timing.of(session))
        self._state.tell_ended(ended, userid, "max_sessions_per_user")

    def end_others(self) -> Steps[int]:
        yield from self._dialogue.fetch((USER,), True)
        if self._state.away is not None:
            raise self._state.away
        user = self._state.user
        if user is None:
            return 0
        timing = Timing.of(self._settings)
        ended = yield from end_all_sessions(user, timing, keep=self._state.id)
        self._state.tell_ended(ended, user, "end_others")
        return len(ended)

    # -- the end

    def invalidate(self) -> Steps[bool]:
        state = self._state
        again = state.unconfirmed
        if state.durable and again is not None and state.status is Status.ENDED:
            # The script recognises its own end, and the replicas are asked again.
            again = replace(again, durable=True)
            reply = yield again
            state.confirmed = reply.confirmed
            state.unconfirmed = None if reply.confirmed else again
            return True
        life = Invalidate(state.mark, told=state.tells_browser)
        ended = yield from self._dialogue.step(life)
        if state.changes is not None:
            state.changes.forget()
        return ended
