"""``request.altsession``: keys and values on one side, operations and bytes on the other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Never, TypeVar, overload

from .batch import Batch
from .config.table import SessionSettings
from .errors import SessionGone, StoreUnavailable, TooManySessions, ValueTooLarge
from .protocol.administration import (
    end_all_sessions,
    end_sessions,
    live_sessions,
    prune_some,
    survey,
)
from .protocol.commands import UNSET, Command, Commands, several
from .protocol.envelope import framed
from .protocol.fields import CREATED, LOGIN, USER, Raw, Timing, is_key
from .protocol.keys import LONGEST, MAX_KEY_BYTES, Key, SessionKey, Values, encodable, field_name
from .protocol.lifecycle import Invalidate, Life, Login, Renew, Touch
from .protocol.messages import Read, Reply, SessionLimit, Write
from .protocol.state import Layer, PendingEvent, SessionState, Status
from .protocol.token import new_verifier
from .protocol.verbs import CompareAndSet, DataVerb, Everything, Get, Refused, Verb

if TYPE_CHECKING:
    from .interfaces import Store

T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E")

MAX_INFO_BYTES = 512
MODIFY_TRIES = 100
MAX_STEPS = 16
"""Operations that one call may need; a server whose answers ask for more makes no sense."""
PRUNE_EACH = 16
"""Entries of one user's index by which it has to grow until a login looks for ended sessions."""


def _no_dict(call: str) -> TypeError:
    return TypeError(f"an AltSession is no dict: use {call}")


class AltSession:
    """The session of one request, key by key; nothing is loaded or saved otherwise.

    A **read** costs one round trip whatever the session's size, and each key is read at most
    once per request (``fresh=True`` asks again). Without a live session a read finds nothing,
    and leaves the visitor's cookie alone.

    A **write** costs one round trip and reaches the server at once, but only if the session is
    still alive there and still answers to this cookie. The first write of a visitor without a
    live session makes one and sets the cookie. Each value is one JSON value: ``str``, ``int``,
    ``float``, ``bool``, ``None``, ``list`` (tuples come back as lists), ``dict`` with str keys.

    Every call may raise :exc:`SessionGone` (409) when this request saw the session alive and it
    ended since, or, for writes, when the cookie was replaced moments ago; and
    :exc:`StoreUnavailable` (503). Keys are non-empty str of at most 512 bytes that do not begin
    with ``@`` (:exc:`InvalidKey`), or a :class:`SessionKey`. All durations are seconds.

    An AltSession belongs to one thread.
    """

    __slots__ = ("_commands", "_notify", "_settings", "_state", "_store")

    def __init__(
        self,
        store: "Store",
        calls: Commands,
        state: SessionState,
        *,
        settings: SessionSettings,
        notify: Callable[[PendingEvent], None],
    ) -> None:
        self._store = store
        self._commands = calls
        self._state = state
        self._settings = settings
        self._notify = notify

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.status.name.lower()} {self.id}>"

    # Nothing is loaded or saved unasked, so it is no dict; who takes it for one is told the call.
    # Never: a type checker tells it too.

    def __getitem__(self, key: Never) -> Never:
        raise _no_dict(f'get("{key}")')

    def __setitem__(self, key: Never, value: Never) -> Never:
        raise _no_dict(f'set("{key}", …)')

    def __delitem__(self, key: Never) -> Never:
        raise _no_dict(f'remove("{key}")')

    def __contains__(self, key: Never) -> Never:
        raise _no_dict(f'exists("{key}")')

    def __iter__(self) -> Never:
        raise _no_dict("keys()")

    @property
    def id(self) -> str | None:
        """The session's public handle, safe to log. None until the session was seen alive or
        made in this request. No round trip."""
        known = self._state.status in (Status.ALIVE, Status.GONE)
        return self._state.token.id if known and self._state.token else None

    @property
    def new(self) -> bool:
        """Whether this request made the session. No round trip."""
        return self._state.new

    # -- reads

    @overload
    def get(self, key: SessionKey[T, D], *, fresh: bool = False) -> T | D: ...

    @overload
    def get(self, key: SessionKey[T, Any], default: E, *, fresh: bool = False) -> T | E: ...

    @overload
    def get(self, key: str, default: Any = None, *, fresh: bool = False) -> Any: ...

    def get(self, key: Key, default: Any = UNSET, *, fresh: bool = False) -> Any:
        """The value of ``key``, or ``default`` (None) when there is none.

        :exc:`CorruptValue` when it cannot be decoded; every other key still works.
        """
        name = field_name(key)
        if self._state.layer is None:
            self._ask((name,), fresh=fresh)
            fields: Mapping[str, Raw] = self._state.cache.fields
        else:
            self._fetch((name,), fresh)
            fields = self._shown()
        return self._commands.value(key, fields.get(name), default)

    @overload
    def mget(
        self, keys: Iterable[str], default: Any = None, *, fresh: bool = False
    ) -> dict[str, Any]: ...

    @overload
    def mget(
        self, keys: Iterable[Key], default: Any = None, *, fresh: bool = False
    ) -> dict[Key, Any]: ...

    def mget(self, keys: Iterable[Key], default: Any = UNSET, *, fresh: bool = False) -> Any:
        """A dict with every asked key, ``default`` (None) where there is no value; one round
        trip."""
        asked = several(keys)
        names = tuple([field_name(key) for key in asked])
        self._fetch(names, fresh)
        fields, value = self._shown(), self._commands.value
        return {
            key: value(key, fields.get(name), default)
            for key, name in zip(asked, names, strict=True)
        }

    def all(self, *, fresh: bool = False) -> dict[str, Any]:
        """Every key with its value; one round trip."""
        return self._commands.values(self._everything(fresh))

    def keys(self, *, fresh: bool = False) -> list[str]:
        """Every key, sorted; one round trip. Undecodable values do no harm here."""
        return sorted(self._everything(fresh))

    def exists(self, key: Key | None = None, *, fresh: bool = False) -> bool:
        """Whether the session is alive; with a key, whether it holds that key."""
        if key is not None:
            name = field_name(key)
            self._fetch((name,), fresh)
            return self._shown().get(name) is not None
        if self._state.status is not Status.ALIVE or fresh:
            try:
                self._ask(())
            except SessionGone:
                if self._state.status is Status.GONE:
                    raise
                return False
        return self._state.status is Status.ALIVE

    def created(self) -> datetime | None:
        """When the session was made, by the server's clock (UTC); None without a session."""
        self._fetch((CREATED,), False)
        raw = self._state.cache.fields.get(CREATED)
        return None if raw is None else datetime.fromtimestamp(int(raw) / 1000, UTC)

    def ttl(self) -> float | None:
        """Seconds until the server forgets the session if nobody uses it; None without one.

        Always one round trip, and never an extension.
        """
        self._settle()
        self._state.left = None
        self._ask((), touch=False)
        left = self._state.left
        return None if left is None else left / 1000

    # -- writes

    @overload
    def set(self, key: SessionKey[T, Any], value: T, *, ttl: float | None = None) -> None: ...

    @overload
    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None: ...

    def set(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        """Store one value. TypeError when JSON cannot carry it, :exc:`ValueTooLarge` when it is
        longer than ``session.max_value_bytes``; then nothing is sent.

        ``ttl``: seconds until this value ends, by the server's clock (None: with the session).
        ``set`` without it takes an earlier one off; what changes a value in place keeps it.
        """
        self._do(self._commands.set(key, value, ttl))

    def mset(self, values: Values) -> None:
        """Store several values in one step: nobody ever reads half of them."""
        if values:
            self._do(self._commands.mset(values))

    def remove(self, keys: Key | Iterable[Key]) -> int:
        """Remove one key or many; returns how many were there."""
        call = self._commands.remove(keys)
        return self._do(call) if call.verbs else 0

    @overload
    def pop(self, key: SessionKey[T, D]) -> T | D: ...

    @overload
    def pop(self, key: SessionKey[T, Any], default: E) -> T | E: ...

    @overload
    def pop(self, key: str, default: Any = None) -> Any: ...

    def pop(self, key: Key, default: Any = UNSET) -> Any:
        """Take a value out: of several callers one gets it, the others ``default`` (None).

        :exc:`CorruptValue` when it cannot be decoded; it is taken out all the same.
        """
        return self._do(self._commands.pop(key, default))

    @overload
    def setdefault(self, key: SessionKey[T, Any], value: T) -> T: ...

    @overload
    def setdefault(self, key: str, value: Any) -> Any: ...

    def setdefault(self, key: Key, value: Any) -> Any:
        """Store ``value`` unless there is one already; returns what is stored afterwards."""
        return self._do(self._commands.setdefault(key, value))

    def increment(self, key: Key, by: int = 1) -> int:
        """Add to a whole number (0 when there is none) and return the sum; nothing is lost
        between concurrent callers. TypeError when something else is stored, or the sum is
        beyond ±(2⁵³ − 1), the whole numbers that JSON carries everywhere."""
        return self._do(self._commands.increment(key, by))

    def compare_and_set(self, key: Key, expected: Any, value: Any) -> bool:
        """Store ``value`` if the stored one equals ``expected`` (None also stands for no value).

        Of several callers with the same expectation one succeeds. One round trip, unless the
        same value is stored in other JSON (spaces, order, an older version): then one more.
        """
        raw: Raw = None if expected is None else self._commands.framed(key, expected)[1]
        for _ in range(MODIFY_TRIES):
            verb = self._commands.comparison(key, raw, value)
            done, held = self._compare(verb)
            if done:
                return True
            if held == raw or not self._commands.same(key, held, raw):
                return False
            raw = held
        return False

    @overload
    def modify(self, key: SessionKey[T, T], function: Callable[[T], T]) -> T: ...

    @overload
    def modify(self, key: SessionKey[T, None], function: Callable[[T | None], T]) -> T: ...

    @overload
    def modify(self, key: SessionKey[T, Any], function: Callable[[Any], T], default: Any) -> T: ...

    @overload
    def modify(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Any: ...

    def modify(self, key: Key, function: Callable[[Any], Any], default: Any = UNSET) -> Any:
        """Replace a value by ``function(value)`` and return the new one.

        Reads, applies and writes if unchanged, again if somebody was faster: two round trips
        when nobody is. ``function`` may run several times and gets ``default`` (None) where there
        is no value. RuntimeError after 100 tries.
        """
        name = field_name(key)
        for _ in range(MODIFY_TRIES):
            self._fetch((name,), True)
            raw = self._shown().get(name)
            value = function(self._commands.value(key, raw, default))
            if self._compare(self._commands.comparison(key, raw, value))[0]:
                return value
        raise RuntimeError(f"modify({name!r}): somebody else was faster {MODIFY_TRIES} times")

    def touch(self) -> bool:
        """Restart the time to idle; False without a live session. Uses do that by themselves."""
        return self._step(Touch())

    def renew(self) -> bool:
        """New verifier and cookie for the same session and data; the old cookie is dead at once.

        False without a live session.
        """
        return self._step(Renew(new_verifier()))

    # -- more in one round trip

    def batch(self) -> Batch:
        """``with session.batch() as b:`` several calls in one round trip; see :class:`Batch`."""
        return Batch(self)

    def prefetch(self, *keys: Key) -> None:
        """Ask for these keys now and go on; the answer is taken when the first of them is used.

        The view's own work and the round trip overlap. No error here: who uses a key that did not
        come asks again. What is not used by the end of the request is dropped.
        """
        names = tuple([field_name(key) for key in keys])
        if self._state.status is Status.GONE or not names:
            return
        with suppress(SessionGone, StoreUnavailable):  # whoever uses the session is told
            self._settle(needed=False)
            operation = self._state.read(names)
            if operation is not None:
                self._state.sent = operation, self._store.send(operation)

    # -- who is signed in

    def userid(self) -> str | None:
        """The user that the session is bound to; None without a login. At most one round trip
        per request, none after any other call."""
        self._fetch((USER,), False)
        return self._state.user

    def login_age(self) -> float | None:
        """Seconds from the login to the last answer of the server, by its clock; None without a
        login. At most one round trip per request, none after any other read."""
        self._fetch((LOGIN,), False)
        raw, now = self._state.cache.fields.get(LOGIN), self._state.now
        return None if raw is None or now is None else (now - int(raw)) / 1000

    def login(
        self,
        userid: str,
        *,
        remember: float | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Sign a user in: new verifier and cookie, same data, and a new lifetime.

        The old cookie is dead at once, and so is the CSRF token: who planted the session knows
        both. Another user's session is ended, and nothing of it is kept. ``remember``: seconds
        for which this session and its cookie last, used or not. ``info``: what
        ``sessions_of(userid)`` shows of this session, at most 512 bytes of JSON.

        One round trip on a live session. It works on a full server, and after
        :exc:`SessionGone`. :exc:`TooManySessions` as ``session.on_max_sessions`` says.
        """
        life = self._login(userid, remember, info)
        with suppress(SessionGone):  # the one thing that it does not stand in the way of
            self._prepare()
        try:
            entries, _ = self._carry_out(self._state.login(life))
        except SessionLimit:
            ended = survey(self._store, userid)[1]  # entries of ended sessions do not count
            life = replace(life, verifier=new_verifier(), limit=life.limit + ended)
            try:
                entries, _ = self._carry_out(self._state.login(life))
            except SessionLimit:
                raise TooManySessions(
                    f"the user has {life.limit - ended} sessions (session.max_sessions_per_user)"
                ) from None
        self._end_oldest(userid)
        if entries % PRUNE_EACH == 0:
            with suppress(StoreUnavailable):  # the user is signed in all the same
                prune_some(self._store, userid)

    def logout(self) -> bool:
        """The same as :meth:`invalidate`."""
        return self.invalidate()

    def end_others(self) -> int:
        """End all other sessions of the user who is signed in here; returns how many. This one
        stays, whether it was used before in this request or not.

        0 without a login. :exc:`SessionGone` when this session ended meanwhile: then none is.
        After a change of password: change it first, then call this.
        """
        self._fetch((USER,), True)
        user, timing = self._state.user, Timing.of(self._settings)
        if user is None:
            return 0
        ended = end_all_sessions(self._store, user, timing, keep=self.id)
        for id in ended:
            self._notify(PendingEvent("invalidated", id, user, "end_others"))
        return len(ended)

    def _login(self, userid: str, remember: float | None, info: Mapping[str, Any] | None) -> Login:
        if not isinstance(userid, str) or not userid:
            raise TypeError(f"login: the user id must be a non-empty str, not {userid!r}")
        if len(encodable("login", userid)) > MAX_KEY_BYTES:
            raise ValueTooLarge(f"login: a user id must have at most {MAX_KEY_BYTES} bytes")
        if isinstance(remember, bool) or not isinstance(remember, int | float | None):
            raise TypeError(f"login: remember must be a number of seconds, not {remember!r}")
        if remember is not None and not 1 <= remember <= LONGEST:
            raise ValueError(f"login: remember must be 1 second to 400 days, not {remember!r}")
        noted = b"" if info is None else framed(self._commands.codec.encode("info", dict(info)))
        if len(noted) > MAX_INFO_BYTES:
            raise ValueTooLarge(f"login: info has {len(noted)} bytes, and {MAX_INFO_BYTES} fit")
        session = self._settings
        own = None if remember is None else round(remember * 1000)
        lifetime = own or round((session.lifetime or LONGEST) * 1000)
        limit = session.max_sessions_per_user if session.on_max_sessions == "deny" else 0
        return Login(new_verifier(), userid, own, lifetime, limit, noted)

    def _end_oldest(self, userid: str) -> None:
        """After a login, so that a failure in between ends nobody's session for nothing."""
        session = self._settings
        if session.max_sessions_per_user and session.on_max_sessions == "end_oldest":
            # Never this one, whatever the server's clock said at its login.
            others = [k.id for k in live_sessions(self._store, userid) if k.id != self.id]
            surplus, timing = others[session.max_sessions_per_user - 1 :], Timing.of(session)
            for id in end_sessions(self._store, userid, surplus, timing):
                self._notify(PendingEvent("invalidated", id, userid, "max_sessions_per_user"))

    # -- the end

    def invalidate(self) -> bool:
        """End the session: data and id are forgotten, the cookie is dropped.

        False, and no error, when there was no live session. A later write of the same request
        starts a new session. :exc:`SessionGone` when another request has just renewed the
        session: it is still alive under its newer cookie, and was not ended.
        """
        state = self._state
        ended = self._step(Invalidate(state.mark, told=state.tells_browser))
        if state.layer is not None:
            state.layer.forget()
        return ended

    # -- the driver: carry out, learn, go on

    def _carry_out(
        self, operation: Read | Write | None, ask: Callable[[Read | Write], Reply] | None = None
    ) -> tuple[int, Sequence[Any]]:
        """Results of the step of life and of the verbs. Subscribers are told when all is done, as
        they may use the session themselves. ``ask``: who has the first reply."""
        state, execute = self._state, self._store.execute
        ask = execute if ask is None else ask
        steps = 0
        try:
            while operation is not None:
                steps += 1
                if steps > MAX_STEPS:
                    raise StoreUnavailable("the server's answers contradict each other")
                try:
                    reply = ask(operation)
                except BaseException as error:
                    state.unsure(operation)
                    if operation.optional and isinstance(error, StoreUnavailable):
                        break
                    raise
                operation, ask = state.learn(operation, reply), execute
            return state.done, state.results
        finally:
            if state.events:
                events, state.events = state.events, ()
                for event in events:
                    self._notify(event)

    def _ask(
        self, names: tuple[str, ...] | None, *, touch: bool = True, fresh: bool = False
    ) -> None:
        """Fetch what is not remembered."""
        state = self._state
        if state.sent is not None:
            self._settle()
        self._carry_out(state.read(names, touch=touch, fresh=fresh))

    def _settle(self, *, needed: bool = True) -> None:
        """Take the answer of a prefetch, before anything else is asked: what comes later must not
        be overwritten by it. Not ``needed``: who writes can do without it."""
        state = self._state
        if state.sent is None:
            return
        layer = state.layer
        if layer is not None:
            try:
                layer.publish()
            except BaseException:
                state.abandon()
                raise
        (operation, sending), state.sent = state.sent, None
        try:
            self._carry_out(operation, lambda _: sending.result(operation))
        except StoreUnavailable:
            if needed:
                raise
        if layer is not None:
            layer.publish()

    def _prepare(self) -> None:
        """What has to come before a write: the answer of a prefetch, and which token is the right
        one, where there are several."""
        state = self._state
        if state.sent is not None:
            self._settle(needed=False)
        if state.several:
            self._carry_out(state.choice())

    def _begin(self, values: Values) -> None:
        self._carry_out(self._state.create(*self._commands.mset(values).verbs))

    def _do(self, call: Command[T]) -> T:
        try:
            return call.result(self._write(*call.verbs))
        except Refused:
            raise TypeError(call.refused) from None

    def _compare(self, verb: CompareAndSet) -> tuple[bool, Raw]:
        """Whether it was stored, and what the field holds now."""
        ((done, held),) = self._write(verb)
        return bool(done), held

    def _together(self, verbs: Sequence[Verb]) -> Sequence[Any]:
        """Results of a batch: of one read, where it asks for nothing else."""
        if not all(isinstance(verb, Get | Everything) for verb in verbs):
            return self._write(*verbs)
        names = tuple([verb.name for verb in verbs if isinstance(verb, Get)])
        if len(names) == len(verbs):
            self._fetch(names, False)
            present: dict[str, bytes] = {}
        else:
            present = self._everything(False)
        shown = self._shown()
        flat = [part for name, raw in present.items() for part in (name.encode(), raw)]
        return [shown.get(v.name) if isinstance(v, Get) else flat for v in verbs]

    def _shown(self) -> Mapping[str, Raw]:
        """What is remembered, as ``request.session`` shows it too."""
        layer, fields = self._state.layer, self._state.cache.fields
        return fields if layer is None else layer.shown(fields)

    def _step(self, life: Life) -> bool:
        """Take this step of the session's life; whether there was a live session."""
        self._prepare()
        return bool(self._carry_out(self._state.write(life=life))[0])

    def _write(self, *verbs: Verb) -> Sequence[Any]:
        self._prepare()
        layer = self._state.layer
        if layer is None:
            return self._carry_out(self._state.write(*verbs))[1]
        everything = any(isinstance(verb, Everything) for verb in verbs)
        names = {verb.name for verb in verbs if isinstance(verb, DataVerb)}
        return self._write_after(layer, *layer.pending(None if everything else names), verbs)

    def _write_after(
        self, layer: "Layer", life: Life | None, before: Sequence[Verb], verbs: Sequence[Verb]
    ) -> Sequence[Any]:
        """Write what ``request.session`` still had to write, and then the verbs; if that fails,
        it still has to. Results of the verbs.

        Where a queue does not take its messages, it is read and written anew without its oldest
        ones, again if somebody was faster.
        """
        ready, queues = before, set[str]()
        try:
            for _ in range(MODIFY_TRIES):
                try:
                    write = self._state.write(*ready, *verbs, life=life)
                    return self._carry_out(write)[1][len(ready) :]
                except Refused as refused:
                    place: int = refused.args[0]
                    if place >= len(ready):
                        raise Refused(place - len(ready)) from None
                    queues.add(ready[place].name)  # type: ignore[union-attr]
                    ready = layer.shortened(before, queues)
            raise RuntimeError(f"{sorted(queues)}: somebody else was faster {MODIFY_TRIES} times")
        except BaseException:
            if self._state.status is not Status.GONE:  # else it was meant for what is no more
                layer.restore(before)
            raise

    def _fetch(self, names: tuple[str, ...], fresh: bool) -> None:
        if names:
            layer = self._state.layer
            if layer is not None and fresh:
                layer.publish()  # before newer values come in, which are not what it changed
            self._ask(names, fresh=fresh)
            if layer is not None:
                layer.publish()

    def _everything(self, fresh: bool) -> dict[str, bytes]:
        layer = self._state.layer
        if layer is not None:
            layer.publish()
        self._ask(None, fresh=fresh)
        if layer is not None:
            layer.publish()
        return {n: raw for n, raw in self._shown().items() if raw is not None and is_key(n)}
