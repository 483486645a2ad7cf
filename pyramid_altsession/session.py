"""``request.altsession``: keys and values on one side, operations and bytes on the other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar, overload

from zope.interface import implementer

from .batch import Batch
from .errors import SessionGone, StoreUnavailable
from .interfaces import IAltSession
from .protocol.commands import UNSET, Command, field_name
from .protocol.contract import Store
from .protocol.fields import CREATED, LOGIN, USER
from .protocol.keys import Key, SessionKey, Values
from .protocol.lifecycle import Life, Touch
from .protocol.messages import Read, Write
from .protocol.steps import Steps, run
from .protocol.verbs import Refused, Verb
from .session_base import DriverBase, SessionBase

T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E")


class Driver(DriverBase[Store]):
    """Carries out the calls of a session by waiting for the store. It belongs to one thread."""

    __slots__ = ()

    def run(self, steps: Steps[T]) -> T:
        """The value of a call of several steps."""
        try:
            return run(self.store.execute, steps)
        finally:
            if self.state.events:
                self._tell()

    def execute(self, operation: Read | Write | None) -> Sequence[Any]:
        """Carry out one operation and what has to follow it, as ``follow`` of the dialogue does:
        most calls need no more. Results of its verbs."""
        state = self.state
        if operation is None:
            return state.results
        try:
            try:
                reply = self.store.execute(operation)
            except BaseException as error:
                if not state.failed(operation, error):
                    raise
                return state.results
            following = state.learn(operation, reply)
            if following is not None:
                run(self.store.execute, self.dialogue.follow(following))
            return state.results
        finally:
            if state.events:
                self._tell()

    def fetch(self, names: tuple[str, ...], fresh: bool = False) -> None:
        """Read these fields into the field cache, for ``shown``."""
        state = self.state
        if state.sent is None and state.changes is None and names:
            self.execute(state.read(names, fresh=fresh))
        else:
            self.run(self.dialogue.fetch(names, fresh))

    def ask(self, names: tuple[str, ...] | None, *, touch: bool = True) -> None:
        """Read these fields into the field cache (None: all), as the server has them."""
        if self.state.sent is None:
            self.execute(self.state.read(names, touch=touch))
        else:
            self.run(self.dialogue.ask(names, touch=touch))

    def write(self, *verbs: Verb) -> Sequence[Any]:
        """Carry out a write; returns the results of the verbs."""
        state = self.state
        if state.changes is None and state.sent is None and not state.several:
            return self.execute(state.write(*verbs))
        return self.run(self.dialogue.write(*verbs))

    def step(self, life: Life) -> bool:
        """Take this step of the session's life; whether there was a live session."""
        return self.run(self.dialogue.step(life))

    def prefetch(self, names: tuple[str, ...]) -> None:
        """Send the read for these fields; the first call that uses one takes its reply."""
        self.run(self.dialogue.prefetch(names, self.store.send))


@implementer(IAltSession)
class AltSession(SessionBase[Driver]):
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
    :exc:`StoreUnavailable` (503). A write may raise :exc:`SessionFull` (409) where
    ``session.max_keys`` or ``session.max_bytes`` is set. Keys are non-empty str of at most 512
    bytes that do not begin with ``@`` (:exc:`InvalidKey`), or a :class:`SessionKey`. All durations
    are seconds.

    An AltSession belongs to one thread.
    """

    __slots__ = ()

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
        name, driver = field_name(key), self.driver
        driver.fetch((name,), fresh)
        state = driver.state
        fields = state.cache.fields if state.changes is None else driver.dialogue.shown()
        return self.commands.value(key, fields.get(name), default)

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
        return self._look_up(self.commands.mget(keys, default), fresh)

    def all(self, *, fresh: bool = False) -> dict[str, Any]:
        """Every key with its value; one round trip."""
        return self._look_up(self.commands.all(), fresh)

    def keys(self, *, fresh: bool = False) -> list[str]:
        """Every key, sorted; one round trip. Undecodable values do no harm here."""
        return self._look_up(self.commands.keys(), fresh)

    def exists(self, key: Key | None = None, *, fresh: bool = False) -> bool:
        """Whether the session is alive; with a key, whether it holds that key."""
        if key is not None:
            return self._look_up(self.commands.exists(key), fresh)
        return self.driver.run(self._calls.alive(fresh))

    def created(self) -> datetime | None:
        """When the session was made, by the server's clock (UTC); None without a session."""
        self.driver.fetch((CREATED,))
        return self._born()

    def ttl(self) -> float | None:
        """Seconds until the server forgets the session if nobody uses it; None without one.

        Always one round trip, and never an extension.
        """
        return self.driver.run(self._calls.ttl())

    # -- writes

    @overload
    def set(self, key: SessionKey[T, Any], value: T, *, ttl: float | None = None) -> None: ...

    @overload
    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None: ...

    def set(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        """Store one value. TypeError when JSON cannot carry it, :exc:`ValueTooLarge` when it is
        longer than ``session.max_value_bytes``; then nothing is sent.

        ``ttl``: seconds until this value ends, by the server's clock (None: with the session).
        ``set`` without it removes an earlier end; calls that change a value in place keep the end.
        """
        self._do(self.commands.set(key, value, ttl))

    def mset(self, values: Values) -> None:
        """Store several values in one step: nobody ever reads half of them."""
        if values:
            self._do(self.commands.mset(values))

    def remove(self, keys: Key | Iterable[Key]) -> int:
        """Remove one key or many; returns how many were there."""
        call = self.commands.remove(keys)
        return self._do(call) if call.verbs else 0

    @overload
    def pop(self, key: SessionKey[T, D]) -> T | D: ...

    @overload
    def pop(self, key: SessionKey[T, Any], default: E) -> T | E: ...

    @overload
    def pop(self, key: str, default: Any = None) -> Any: ...

    def pop(self, key: Key, default: Any = UNSET) -> Any:
        """Remove a value and return it: of several callers only one gets it, the others get
        ``default`` (None).

        :exc:`CorruptValue` if it cannot be decoded; it is removed all the same.
        """
        return self._do(self.commands.pop(key, default))

    @overload
    def setdefault(self, key: SessionKey[T, Any], value: T) -> T: ...

    @overload
    def setdefault(self, key: str, value: Any) -> Any: ...

    def setdefault(self, key: Key, value: Any) -> Any:
        """Store ``value`` unless there is one already; returns what is stored afterwards."""
        return self._do(self.commands.setdefault(key, value))

    def increment(self, key: Key, by: int = 1) -> int:
        """Add to a whole number (0 when there is none) and return the sum; nothing is lost
        between concurrent callers. TypeError when something else is stored, or the sum is
        beyond ±(2⁵³ − 1), the whole numbers that JSON carries everywhere. TypeError, too, for a
        SessionKey whose type has bounds, because the server does not check them: use ``modify``.
        """
        return self._do(self.commands.increment(key, by))

    def compare_and_set(self, key: Key, expected: Any, value: Any) -> bool:
        """Store ``value`` if the stored one equals ``expected`` (None also stands for no value).

        Of several callers that expect the same value, one succeeds. One round trip, unless the
        same value is stored in other JSON (spaces, order, an older version): then one more.
        """
        return self.driver.run(self._calls.compare_and_set(key, expected, value))

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

        It reads the value, applies the function, and writes the result if the value is unchanged.
        If another request was faster, it starts again. Two round trips if none was. ``function``
        may run several times and gets ``default`` (None) where there is no value. RuntimeError
        after 100 tries.
        """
        return self.driver.run(self._calls.modify(key, function, default))

    def touch(self) -> bool:
        """Restart the time to idle; False without a live session. Other calls do that by
        themselves.
        """
        return self.driver.step(Touch())

    def renew(self, *, durable: bool = False) -> bool:
        """New verifier and cookie for the same session and data; the old cookie is dead at once.

        False without a live session. ``durable``: as for :meth:`invalidate`.
        """
        return self._run_durably(self._calls.renew(), durable)

    # -- more in one round trip

    def batch(self) -> Batch:
        """``with session.batch() as b:`` several calls in one round trip; see :class:`Batch`."""
        return Batch(self)

    def prefetch(self, *keys: Key) -> None:
        """Ask for these keys now and go on; the answer is taken when the first of them is used.

        The view's own work and the round trip overlap. If the read fails, ``prefetch`` raises no
        error; a call that uses one of the keys asks again. Values that are not used by the end of
        the request are dropped.
        """
        names = tuple([field_name(key) for key in keys])
        with suppress(SessionGone, StoreUnavailable):  # the call that uses a key raises it
            self.driver.prefetch(names)

    # -- who is signed in

    def userid(self) -> str | None:
        """The user that the session is bound to; None without a login. At most one round trip
        per request, none after any other call."""
        self.driver.fetch((USER,))
        return self.driver.state.user

    def login_age(self) -> float | None:
        """Seconds from the login to the last answer of the server, by its clock; None without a
        login. At most one round trip per request, none after any other read."""
        self.driver.fetch((LOGIN,))
        return self._age_of_login()

    def login(
        self,
        userid: str,
        *,
        remember: float | None = None,
        info: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> None:
        """Sign a user in: new verifier and cookie, same data, and a new lifetime.

        The old cookie and the CSRF token stop working at once, because somebody who planted the
        session knows both. Another user's session is ended, and nothing of it is kept.
        ``remember``: seconds for which this session and its cookie last, even without use.
        ``info``: what ``sessions_of(userid)`` shows of this session, at most 512 bytes of JSON.
        ``durable``: as for :meth:`invalidate`.

        One round trip on a live session. It works on a full server, and after
        :exc:`SessionGone`. :exc:`TooManySessions` as ``session.on_max_sessions`` says.
        """
        self._run_durably(self._calls.login(userid, remember, info), durable)

    def logout(self, *, durable: bool = False) -> bool:
        """The same as :meth:`invalidate`."""
        return self.invalidate(durable=durable)

    def end_others(self) -> int:
        """End all other sessions of the user who is signed in here; returns how many. This session
        stays, even if the request has not used it before.

        0 without a login. :exc:`SessionGone` if this session has ended meanwhile; then no session
        is ended. When a user changes the password, store the new password first, and then call
        this.
        """
        return self.driver.run(self._calls.end_others())

    # -- the end

    def invalidate(self, *, durable: bool = False) -> bool:
        """End the session: data and id are forgotten, the cookie is dropped.

        False, and no error, when there was no live session. A later write of the same request
        starts a new session. :exc:`SessionGone` when another request has just renewed the
        session: it is still alive under its newer cookie, and was not ended.

        ``durable``: wait until a replica has confirmed, so that no failover brings the session
        back; :exc:`NotDurable` if none confirms within a third of ``redis.timeout``.
        """
        return self._run_durably(self._calls.invalidate(), durable)

    # -- inside

    def begin(self, values: Values) -> None:
        self.driver.execute(self.driver.state.create(*self.commands.mset(values).verbs))

    def together(self, verbs: Sequence[Verb]) -> Sequence[Any]:
        """Send a batch; returns its results."""
        return self.driver.run(self._steps_together(verbs))

    def _look_up(self, call: Command[T], fresh: bool) -> T:
        return call.result(self.driver.run(self.driver.dialogue.look_up(call.verbs, fresh)))

    def _run_durably(self, steps: Steps[T], durable: bool) -> T:
        """Carry out the steps; if ``durable``, a replica has to confirm them."""
        return self.driver.run(self._calls.durably(steps) if durable else steps)

    def _do(self, call: Command[T]) -> T:
        try:
            return call.result(self.driver.write(*call.verbs))
        except Refused:
            raise TypeError(call.refused) from None
