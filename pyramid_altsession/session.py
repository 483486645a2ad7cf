"""``request.altsession``: keys and values on one side, operations and bytes on the other."""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .errors import (
    InvalidKey,
    SessionGone,
    StoreUnavailable,
    TooManySessions,
    ValueTooLarge,
)
from .operations import (
    CREATED,
    INFO,
    INFO_CHUNK,
    LOGIN,
    SAFE_INTEGER,
    USER,
    CompareAndSet,
    Crowded,
    DataVerb,
    Increment,
    Invalidate,
    Login,
    Pop,
    Raw,
    Read,
    Refused,
    Remove,
    Renew,
    Set,
    SetDefault,
    Timing,
    Touch,
    Verb,
    Write,
)
from .settings import SessionSettings
from .state import Happening, SessionState, Status
from .users import end_session, live_sessions, survey

if TYPE_CHECKING:
    from .interfaces import Codec, Store

MAX_KEY_BYTES = 512
MAX_INFO_BYTES = len(INFO) * INFO_CHUNK
NO_LIFETIME = 400 * 86400.0
"""Seconds: the lifetime of a signed-in session without one, as long as browsers keep cookies."""
MODIFY_TRIES = 100


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
    with ``@`` (:exc:`InvalidKey`). All durations are seconds.

    An AltSession belongs to one thread.
    """

    __slots__ = ("_codec", "_notify", "_settings", "_state", "_store")

    def __init__(
        self,
        store: "Store",
        codec: "Codec",
        state: SessionState,
        *,
        settings: SessionSettings,
        notify: Callable[[Happening], None],
    ) -> None:
        self._store = store
        self._codec = codec
        self._state = state
        self._settings = settings
        self._notify = notify

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.status.name.lower()} {self.id}>"

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

    def get(self, key: str, default: Any = None, *, fresh: bool = False) -> Any:
        """The value of ``key``, or ``default`` when there is none.

        :exc:`CorruptValue` when it cannot be decoded; every other key still works.
        """
        name = field_name(key)
        self._fetch((name,), fresh)
        raw = self._state.memo.fields.get(name)
        return default if raw is None else self._codec.decode(name, raw)

    def mget(
        self, keys: Iterable[str], default: Any = None, *, fresh: bool = False
    ) -> dict[str, Any]:
        """A dict with every asked key, ``default`` where there is no value; one round trip."""
        names = tuple([field_name(key) for key in _several(keys)])
        self._fetch(names, fresh)
        fields = self._state.memo.fields
        return {name: self._decode(name, fields.get(name), default) for name in names}

    def all(self, *, fresh: bool = False) -> dict[str, Any]:
        """Every key with its value; one round trip."""
        present = self._everything(fresh)
        return {name: self._codec.decode(name, raw) for name, raw in present.items()}

    def keys(self, *, fresh: bool = False) -> list[str]:
        """Every key, sorted; one round trip. Undecodable values do no harm here."""
        return sorted(self._everything(fresh))

    def exists(self, key: str | None = None, *, fresh: bool = False) -> bool:
        """Whether the session is alive; with a key, whether it holds that key."""
        if key is not None:
            name = field_name(key)
            self._fetch((name,), fresh)
            return self._state.memo.fields.get(name) is not None
        if self._state.status is not Status.ALIVE or fresh:
            try:
                self._carry_out(self._state.read(()))
            except SessionGone:
                if self._state.status is Status.GONE:
                    raise
                return False
        return self._state.status is Status.ALIVE

    def created(self) -> datetime | None:
        """When the session was made, by the server's clock (UTC); None without a session."""
        self._fetch((CREATED,), False)
        raw = self._state.memo.fields.get(CREATED)
        return None if raw is None else datetime.fromtimestamp(int(raw) / 1000, UTC)

    def ttl(self) -> float | None:
        """Seconds until the server forgets the session if nobody uses it; None without one.

        Always one round trip, and never an extension.
        """
        self._state.left = None
        self._carry_out(self._state.read((), touch=False))
        left = self._state.left
        return None if left is None else left / 1000

    # -- writes

    def set(self, key: str, value: Any) -> None:
        """Store one value. TypeError when JSON cannot carry it, :exc:`ValueTooLarge` when it is
        longer than ``session.max_value_bytes``; then nothing is sent."""
        name = field_name(key)
        self._write(Set(name, self._encode(name, value)))

    def mset(self, values: Mapping[str, Any]) -> None:
        """Store several values in one step: nobody ever reads half of them."""
        verbs = []
        for key, value in values.items():
            name = field_name(key)
            verbs.append(Set(name, self._encode(name, value)))
        if verbs:
            self._write(*verbs)

    def remove(self, keys: str | Iterable[str]) -> int:
        """Remove one key or many; returns how many were there."""
        names = [field_name(keys)] if isinstance(keys, str) else [field_name(key) for key in keys]
        removed = self._write(*[Remove(name) for name in dict.fromkeys(names)]) if names else []
        return sum(removed)

    def pop(self, key: str, default: Any = None) -> Any:
        """Take a value out: of several callers one gets it, the others ``default``."""
        name = field_name(key)
        (raw,) = self._write(Pop(name))
        return self._decode(name, raw, default)

    def setdefault(self, key: str, value: Any) -> Any:
        """Store ``value`` unless there is one already; returns what is stored afterwards."""
        name = field_name(key)
        (raw,) = self._write(SetDefault(name, self._encode(name, value)))
        return self._decode(name, raw, value)

    def increment(self, key: str, by: int = 1) -> int:
        """Add to a whole number (0 when there is none) and return the sum; nothing is lost
        between concurrent callers. TypeError when something else is stored, or the sum is
        beyond ±(2⁵³ − 1), the whole numbers that JSON carries everywhere."""
        name = field_name(key)
        if isinstance(by, bool) or not isinstance(by, int) or abs(by) > SAFE_INTEGER:
            raise TypeError(f"increment({name!r}): by must be a whole number, not {by!r}")
        try:
            (raw,) = self._write(Increment(name, by))
        except Refused:
            raise TypeError(
                f"increment({name!r}): the stored value is no whole number, or the sum is too large"
            ) from None
        return int(raw)

    def compare_and_set(self, key: str, expected: Any, value: Any) -> bool:
        """Store ``value`` if the stored one equals ``expected`` (None also stands for no value).

        Of several callers with the same expectation one succeeds. One round trip, unless the
        same value is stored in other JSON (spaces, order): then one more.
        """
        name = field_name(key)
        raw: Raw = None if expected is None else self._encode(name, expected)
        new = self._encode(name, value)
        for _ in range(MODIFY_TRIES):
            ((done, held),) = self._write(CompareAndSet(name, raw, new))
            if done:
                return True
            if held == raw or self._decode(name, held, None) != self._decode(name, raw, None):
                return False
            raw = held
        return False

    def modify(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        """Replace a value by ``function(value)`` and return the new one.

        Reads, applies and writes if unchanged, again if somebody was faster: two round trips
        when nobody is. ``function`` may run several times and gets ``default`` where there is
        no value. RuntimeError after 100 tries.
        """
        name = field_name(key)
        for _ in range(MODIFY_TRIES):
            self._fetch((name,), True)
            raw = self._state.memo.fields.get(name)
            value = function(self._decode(name, raw, default))
            ((done, _held),) = self._write(CompareAndSet(name, raw, self._encode(name, value)))
            if done:
                return value
        raise RuntimeError(f"modify({name!r}): somebody else was faster {MODIFY_TRIES} times")

    def touch(self) -> bool:
        """Restart the time to idle; False without a live session. Uses do that by themselves."""
        return bool(self._write(Touch())[0])

    def renew(self) -> bool:
        """New verifier and cookie for the same session and data; the old cookie is dead at once.

        False without a live session.
        """
        return bool(self._write(Renew(self._state.verifier()))[0])

    # -- who is signed in

    def userid(self) -> str | None:
        """The user that the session is bound to; None without a login. At most one round trip
        per request, none after any other read."""
        self._fetch((USER,), False)
        return self._state.user

    def login_age(self) -> float | None:
        """Seconds since the login, by the server's clock; None without one. One round trip."""
        self._state.now = None
        self._carry_out(self._state.read((LOGIN,), fresh=True))
        raw, now = self._state.memo.fields.get(LOGIN), self._state.now
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
        verb = self._login(userid, remember, info)
        try:
            self._carry_out(self._state.login(verb))
        except Crowded:
            ended = survey(self._store, userid)[1]  # entries of ended sessions do not count
            try:
                self._carry_out(self._state.login(replace(verb, limit=verb.limit + ended)))
            except Crowded:
                raise TooManySessions(
                    f"the user has {verb.limit} sessions (session.max_sessions_per_user)"
                ) from None
        self._end_oldest(userid)

    def logout(self) -> bool:
        """The same as :meth:`invalidate`."""
        return self.invalidate()

    def _login(self, userid: str, remember: float | None, info: Mapping[str, Any] | None) -> Login:
        if not isinstance(userid, str) or not userid:
            raise TypeError(f"login: the user id must be a non-empty str, not {userid!r}")
        if len(userid.encode()) > MAX_KEY_BYTES:
            raise ValueTooLarge(f"login: a user id must have at most {MAX_KEY_BYTES} bytes")
        if isinstance(remember, bool) or not isinstance(remember, int | float | None):
            raise TypeError(f"login: remember must be a number of seconds, not {remember!r}")
        if remember is not None and not 1 <= remember <= NO_LIFETIME:
            raise ValueError(f"login: remember must be 1 second to 400 days, not {remember!r}")
        noted = b"" if info is None else self._codec.encode("info", dict(info))
        if len(noted) > MAX_INFO_BYTES:
            raise ValueTooLarge(f"login: info has {len(noted)} bytes, and {MAX_INFO_BYTES} fit")
        session = self._settings
        own = None if remember is None else round(remember * 1000)
        lifetime = own or round((session.lifetime or NO_LIFETIME) * 1000)
        limit = session.max_sessions_per_user if session.on_max_sessions == "deny" else 0
        return Login(self._state.verifier(), userid, own, lifetime, limit, noted)

    def _end_oldest(self, userid: str) -> None:
        """After a login, so that a failure in between ends nobody's session for nothing."""
        session = self._settings
        if session.max_sessions_per_user and session.on_max_sessions == "end_oldest":
            # Never this one, whatever the server's clock said at its login.
            others = [k.id for k in live_sessions(self._store, userid) if k.id != self.id]
            surplus, timing = others[session.max_sessions_per_user - 1 :], Timing.of(session)
            ended = [id for id in surplus if end_session(self._store, id, timing, userid)]
            for id in ended:
                self._notify(Happening("invalidated", id, userid, "max_sessions_per_user"))

    # -- the end

    def invalidate(self) -> bool:
        """End the session: data and id are forgotten, the cookie is dropped.

        False, and no error, when there was no live session. A later write of the same request
        starts a new session. :exc:`SessionGone` when another request has just renewed the
        session: it is still alive under its newer cookie, and was not ended.
        """
        if self._state.layer is not None:
            self._state.layer.forget()
        return bool(self._write(Invalidate(secrets.token_bytes(16)))[0])

    # -- the driver: carry out, learn, go on

    def _carry_out(self, operation: Read | Write | None) -> Sequence[Any]:
        """Results of the verbs. Subscribers are told when all is done, as they may use the
        session themselves."""
        state = self._state
        try:
            while operation is not None:
                try:
                    reply = self._store.carry_out(operation)
                except BaseException as error:
                    state.unsure(operation)
                    if operation.optional and isinstance(error, StoreUnavailable):
                        break
                    raise
                operation = state.learn(operation, reply)
            return state.results
        finally:
            if state.happenings:
                happenings, state.happenings = state.happenings, ()
                for happening in happenings:
                    self._notify(happening)

    def _begin(self, values: Mapping[str, Any]) -> None:
        verbs = [Set(field_name(key), self._encode(key, value)) for key, value in values.items()]
        self._carry_out(self._state.create(*verbs))

    def _write(self, *verbs: Verb) -> Sequence[Any]:
        layer = self._state.layer
        if layer is None:
            return self._carry_out(self._state.write(*verbs))
        before = layer.pending({v.name for v in verbs if isinstance(v, DataVerb)})
        try:
            return self._carry_out(self._state.write(*before, *verbs))[len(before) :]
        except BaseException:
            layer.restore(before)
            raise

    def _fetch(self, names: tuple[str, ...], fresh: bool) -> None:
        if names:
            layer = self._state.layer
            if layer is not None and fresh:
                layer.publish()  # before newer values come in, which are not what it changed
            self._carry_out(self._state.read(names, fresh=fresh))
            if layer is not None:
                layer.publish()

    def _everything(self, fresh: bool) -> dict[str, bytes]:
        layer = self._state.layer
        if layer is not None:
            layer.publish()
        self._carry_out(self._state.read(None, fresh=fresh))
        if layer is not None:
            layer.publish()
        return self._state.memo.present()

    # -- keys and values

    def _encode(self, name: str, value: Any) -> bytes:
        raw = self._codec.encode(name, value)
        limit = self._settings.max_value_bytes
        if len(raw) > limit:
            raise ValueTooLarge(
                f"{name!r}: {len(raw)} bytes, and session.max_value_bytes is {limit}"
            )
        return raw

    def _decode(self, name: str, raw: Raw, default: Any) -> Any:
        return default if raw is None else self._codec.decode(name, raw)


def field_name(key: object) -> str:
    """The field's name for a key; InvalidKey before anything is sent."""
    if not isinstance(key, str):
        raise InvalidKey(f"a key must be a str, not {key!r}")
    if not key or key[0] == "@":
        raise InvalidKey(f"a key must not be empty or begin with '@': {key!r}")
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"a key must be encodable as UTF-8: {key!r}") from None
    if size > MAX_KEY_BYTES:
        raise InvalidKey(
            f"a key must have at most {MAX_KEY_BYTES} bytes, not {size}: {key[:40]!r}…"
        )
    return key


def _several(keys: Iterable[str]) -> Iterable[str]:
    if isinstance(keys, str):
        raise InvalidKey(f"keys must be a list of keys, not one str: {keys!r}")
    return keys
