"""``request.session``: the session as a dict, written at the end of the request."""

import logging
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from itertools import accumulate
from typing import Any, NamedTuple

from pyramid.interfaces import ISession
from pyramid.request import Request
from zope.interface import implementer

from ..interfaces import ISessionAPI
from ..protocol.envelope import framed, holding
from ..protocol.fields import CSRF_TOKEN, Raw
from ..protocol.keys import field_name
from ..protocol.lifecycle import Renew
from ..protocol.state import Status
from ..protocol.token import new_verifier
from ..protocol.verbs import Expect, Pop, Remove, Set, Verb
from ..session import AltSession
from .flash import Flash, appended, checked, messages_of

log = logging.getLogger("pyramid_altsession")


USERID = "userid"
"""What the key ends in where Pyramid's SessionAuthenticationHelper keeps who is signed in; a prefix
stands before it, ``auth.`` unless the application says another."""


class _Held(NamedTuple):
    """A value handed out: the cache's bytes it came from, and its own, to see changes by."""

    value: Any
    raw: Raw
    plain: bytes


class Changes(NamedTuple):
    """What a SyncSession has not written yet: fields, and flash messages to append."""

    dirty: dict[str, Raw]
    flashes: dict[str, list[Flash]]


@implementer(ISession)
class SyncSession(MutableMapping[str, Any]):
    """Pyramid's session, without lost updates: a dict of this visitor's values.

    Reading an item costs one round trip, once; iteration, ``len`` and truth one for all items.
    Changes, nested ones included, are written when the request ends, in one step and only into a
    session that is still alive; what did not change is not written, so two requests that change
    different keys both win. ``changed()`` is not needed. An unhandled exception or a 5xx answer
    writes nothing. RuntimeError for a change after the answer was made: it would be lost.

    Keys become str. TypeError at the assignment for a value that JSON cannot carry. Iteration is
    in the server's order, with what this request adds at the end.
    """

    def __init__(
        self, session: AltSession, keys: Collection[str] | None, login_keys: Collection[str]
    ) -> None:
        self._session = session
        self._state = session._state
        self._commands = session._commands
        self._keys = None if keys is None else tuple(keys)
        self._login_keys = login_keys
        self._held: dict[str, _Held] = {}
        self._dirty: dict[str, Raw] = {}
        self._flashes: dict[str, list[Flash]] = {}

    def __repr__(self) -> str:
        return f"<SyncSession {self._session!r}>"

    # -- dict

    def __getitem__(self, key: object) -> Any:
        held = self._load(self._name(key))
        if held is None:
            raise KeyError(key)
        return held.value

    def __setitem__(self, key: object, value: Any) -> None:
        name = self._name(key)
        self._refuse_late()
        plain = self._commands.encode(name, value)
        raw = framed(plain)
        fields = self._state.cache.fields
        self._flashes.pop(name, None)
        self._held[name] = _Held(value, raw, plain)
        if fields.get(name) is None:
            fields.pop(name, None)  # a new key is the last one
        fields[name] = self._dirty[name] = raw
        if self._signs_in(name):
            # Who planted the session knows its token: what is asked for from now on is another.
            fields[CSRF_TOKEN] = self._dirty.setdefault(CSRF_TOKEN, None)

    def __delitem__(self, key: object) -> None:
        name = self._name(key)
        self._refuse_late()
        if self._flashes.pop(name, None) is None and self._raw(name) is None:
            raise KeyError(key)
        self._held.pop(name, None)
        self._state.cache.fields[name] = self._dirty[name] = None

    def __contains__(self, key: object) -> bool:
        name = self._name(key)
        return name in self._flashes or self._raw(name) is not None

    def __iter__(self) -> Iterator[str]:
        self._fetch(self._keys)
        names = dict.fromkeys([*self._state.cache.present(), *self._flashes])
        return iter([n for n in names if self._keys is None or n in self._keys])

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __ior__(self, other: Mapping[str, Any]) -> "SyncSession":
        self.update(other)
        return self

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return self.copy() | dict(other)

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return dict(other) | self.copy()

    # ``get`` and ``pop`` of the base class would take a key that is not among altsession.sync.keys
    # for one that is not there.

    def get(self, key: object, default: Any = None) -> Any:
        held = self._load(self._name(key))
        return default if held is None else held.value

    def pop(self, key: object, *default: Any) -> Any:
        self._name(key)
        return super().pop(key, *default)  # type: ignore[call-overload]

    def popitem(self) -> tuple[str, Any]:
        """The last key, and its value."""
        for name in reversed(self):
            return name, self.pop(name)
        raise KeyError("the session is empty")

    def clear(self) -> None:
        for name in list(self):
            del self[name]

    def copy(self) -> dict[str, Any]:
        """A plain dict of everything; what is put into it is not written."""
        return dict(self)

    def __json__(self, request: Any) -> dict[str, Any]:
        """For Pyramid's JSON renderer."""
        return self.copy()

    # -- ISession

    @property
    def created(self) -> int:
        """When the session was made, seconds since 1970; now, where there is none yet."""
        made = self._session.created()
        return int(time.time() if made is None else made.timestamp())

    @property
    def new(self) -> bool:
        """Whether the visitor came without a live session."""
        return self._state.new or not self._session.exists()

    def changed(self) -> None:
        """Not needed: changes are found by comparison."""
        self._refuse_late()

    def invalidate(self) -> None:
        """End the session at once; what is stored later in this request starts a new one."""
        self._session.invalidate()

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Append a message; two requests that do so at once lose nothing.

        ValueTooLarge for a message that ``session.max_value_bytes`` does not allow. A queue that
        would become longer loses its oldest messages.
        """
        name = self._name(f"_f_{queue}")
        self._refuse_late()
        if not allow_duplicate and msg in self.peek_flash(queue):
            return
        self.publish()
        appends = self._commands.codec.encode(name, []) == b"[]"  # the server appends to JSON alone
        if name in self._dirty or not appends:
            self[name] = self._fitting(name, [*checked(name, self.get(name, [])), msg])
        else:
            self._commands.encode(name, [msg])
            self._flashes.setdefault(name, []).append(self._flash(name, msg))
            self._held.pop(name, None)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Take the messages out, at once: of several requests one shows them. One round trip,
        two when there are any."""
        name = self._name(f"_f_{queue}")
        self.publish()
        found, own = self._raw(name), self._flashes.pop(name, [])  # they need not travel
        try:
            stored = [] if found is None else self._take_out(name, alone=not own)
        except BaseException:
            if own:
                self._flashes[name] = own
            raise
        self._held.pop(name, None)
        return stored + messages_of(own)

    def peek_flash(self, queue: str = "") -> list[Any]:
        """The messages, which stay."""
        name = self._name(f"_f_{queue}")
        held = self._load(name)
        return [] if held is None else checked(name, held.value)

    def new_csrf_token(self) -> str:
        """A new CSRF token in place of the old one."""
        token = secrets.token_hex(20)
        self[CSRF_TOKEN] = token
        return token

    def get_csrf_token(self) -> str:
        """The CSRF token. A missing one is made and stored at once: two tabs get the same."""
        token = self.get(CSRF_TOKEN)
        if token is not None:
            return str(token)
        if CSRF_TOKEN in self._dirty:
            return self.new_csrf_token()  # removed by this request: nobody else's counts
        return str(self._session.setdefault(CSRF_TOKEN, secrets.token_hex(20)))

    # -- towards request.altsession

    def publish(self) -> None:
        """Put changed values into the cache, where ``request.altsession`` finds them. How long they
        are is asked when they are to be written."""
        fields = self._state.cache.fields
        fields.update(self._dirty)
        for waiting in self._flashes.values():
            waiting[:] = [self._flash(flash.name, flash.message) for flash in waiting]
        for name, held in list(self._held.items()):
            if fields.get(name) != held.raw:
                continue  # written through request.altsession since
            plain = self._commands.codec.encode(name, held.value)
            if plain != held.plain and self._differ(name, held.plain, plain):
                raw = holding(held.raw or b"", plain)  # a change in place keeps the value's end
                self._held[name] = _Held(held.value, raw, plain)
                fields[name] = self._dirty[name] = raw
                self._flashes.pop(name, None)  # part of the value

    def shown(self, fields: dict[str, Raw]) -> Mapping[str, Raw]:
        """What is remembered, and the messages that wait."""
        if not self._flashes:
            return fields
        queues = {
            name: appended(name, fields.get(name), own) for name, own in self._flashes.items()
        }
        return fields | queues

    def pending(self, names: Collection[str] | None) -> tuple[Renew | None, tuple[Verb, ...]]:
        """What has to be written before ``request.altsession`` writes the same keys (None: before
        it looks at all of them)."""
        self.publish()
        return self._take([*self._dirty, *self._flashes] if names is None else names)

    def shortened(self, verbs: Collection[Verb], queues: Collection[str]) -> tuple[Verb, ...]:
        """The same verbs, where each of these queues is written anew, without its oldest messages
        if it would be too long. The server is asked what the queues hold now."""
        self._session._ask(tuple(queues), fresh=True)
        shortened: list[Verb] = [verb for verb in verbs if getattr(verb, "name", "") not in queues]
        for name in queues:
            raw = self._state.cache.fields.get(name)
            own = [verb for verb in verbs if isinstance(verb, Flash) and verb.name == name]
            kept = self._fitting(name, self._queue(name, raw) + messages_of(own))
            plain = self._commands.encode(name, kept)
            shortened += [Expect(name, raw), Set(name, holding(raw or b"", plain))]
        return tuple(shortened)

    def restore(self, verbs: Collection[Verb]) -> None:
        """The verbs that ``pending`` gave were not written: they still have to be."""
        for verb in verbs:
            if isinstance(verb, Flash):
                self._flashes.setdefault(verb.name, []).append(verb)
            elif isinstance(verb, Set | Remove):
                raw = verb.value if isinstance(verb, Set) else None
                self._state.cache.fields[verb.name] = self._dirty.setdefault(verb.name, raw)

    def forget(self) -> None:
        """Drop every change that is not written yet."""
        self.restart(Changes({}, {}))

    # -- towards a transaction

    def changes(self) -> "Changes":
        """What is not written yet."""
        self.publish()
        return Changes(dict(self._dirty), {n: list(items) for n, items in self._flashes.items()})

    def restart(self, changes: "Changes") -> None:
        """Go back to these changes."""
        self._state.cache.forget(*self._dirty)
        self._held.clear()
        self._dirty = dict(changes.dirty)
        self._flashes = {name: list(items) for name, items in changes.flashes.items()}
        self._state.cache.fields.update(self._dirty)

    # -- the end of the request

    def write_back(self) -> None:
        """Write what changed, in one step; nothing if nothing did.

        A change of who is signed in replaces the verifier, and the CSRF token, as a login does:
        who planted the session knows both.
        """
        try:
            self._session._prepare()
            life, verbs = self.pending(None)
            if verbs:
                self._session._write_after(self, life, verbs, ())
        except BaseException:
            self.forget()  # or the page that tells so would try it again
            raise

    # -- inside

    def _name(self, key: object) -> str:
        name = field_name(key if isinstance(key, str) else str(key))
        if self._keys is not None and name not in self._keys:
            raise KeyError(f"{name!r} is not among the keys of altsession.sync.keys")
        return name

    def _fetch(self, names: tuple[str, ...] | None) -> None:
        if self._state.reported:
            return  # debugtoolbar looks at every session, above every error page
        known = self._dirty if names else dict(self._state.cache.fields)
        self._session._ask(names)
        self._state.cache.fields.update(known)  # newer ones are not what the values at hand are of

    def _raw(self, name: str) -> Raw:
        self._fetch((name,))
        return self._state.cache.fields.get(name)

    def _load(self, name: str) -> _Held | None:
        raw = self._raw(name)
        held = self._held.get(name)
        if held is not None and held.raw == raw:
            return held
        self._held.pop(name, None)
        waiting = self._flashes.get(name, [])
        if raw is None and not waiting:
            return None
        value = [] if raw is None else self._commands.decode(name, raw)
        if waiting and isinstance(value, list):
            # As part of the queue; they are still appended, unless it changes otherwise.
            value = value + messages_of(waiting)
        # Not the stored bytes: another program's spacing is no change of ours.
        held = self._held[name] = _Held(value, raw, self._commands.codec.encode(name, value))
        return held

    def _differ(self, name: str, before: bytes, now: bytes) -> bool:
        """Whether these are other values, and not other bytes alone, as of a codec that seals."""
        codec = self._commands.codec
        known = codec.decode(name, before)
        if codec.encode(name, known) == before:
            return True  # a value has one form
        return repr(known) != repr(codec.decode(name, now))

    def _take(self, names: Collection[str]) -> tuple[Renew | None, tuple[Verb, ...]]:
        """Verbs for what these keys have to become, and the renewal that a change of who is signed
        in needs; then it counts as written."""
        verbs: list[Verb] = []
        renewal: Renew | None = None
        for name in names:
            raw = self._dirty.get(name)
            if raw is not None:
                self._commands.check_size(name, raw)
        if any(self._signs_in(name) and self._dirty.get(name) is not None for name in names):
            if self._state.status is not Status.NONE:
                renewal = Renew(new_verifier())
            self._dirty.setdefault(CSRF_TOKEN, None)
            names = [*names, CSRF_TOKEN]
        for name in dict.fromkeys(names):
            if name in self._dirty:
                raw = self._dirty.pop(name)
                verbs.append(Remove(name) if raw is None else Set(name, raw))
            verbs += self._flashes.pop(name, [])
        return renewal, tuple(verbs)

    def _signs_in(self, name: str) -> bool:
        """Whether this key tells who is signed in. One too many costs a new cookie; one too few
        would leave the session to whoever planted its cookie."""
        return name.endswith(USERID) or name in self._login_keys

    def _refuse_late(self) -> None:
        if self._state.answered:
            raise RuntimeError(
                "request.session: a change after the response callbacks of this request have run"
                " (in app_iter, NewResponse or a finished callback) would be lost; make it earlier,"
                " or call request.altsession, which writes at once"
            )

    # -- inside: flash queues

    def _flash(self, name: str, message: Any) -> Flash:
        item = self._commands.codec.encode(name, [message])[1:-1]
        return Flash(name, item, self._commands.limit, message)

    def _take_out(self, name: str, *, alone: bool) -> list[Any]:
        """The messages that were stored; the very objects, where this request handed them in as a
        whole list, without others that wait."""
        held = self._held.get(name)
        (raw,) = self._session._write(Pop(name))
        if alone and held is not None and held.raw == raw:
            return checked(name, held.value)
        return self._queue(name, raw)

    def _queue(self, name: str, raw: Raw) -> list[Any]:
        """The messages that are stored."""
        return checked(name, [] if raw is None else self._commands.decode(name, raw))

    def _fitting(self, name: str, messages: list[Any]) -> list[Any]:
        """The same messages where they fit; else the newest ones, as many as half of the limit
        holds, and at least one. Half, so that the next message meets no full queue again."""
        encode, limit = self._commands.codec.encode, self._commands.limit
        if len(messages) == 1 or len(encode(name, messages)) <= limit:
            return messages
        sizes = accumulate(len(encode(name, [message])) for message in reversed(messages))
        kept = max(1, sum(size <= limit // 2 for size in sizes))
        log.warning(
            "session %s: the flash queue %r outgrew session.max_value_bytes, as nobody shows its"
            " messages; the oldest %d of %d were dropped",
            *(self._session.id, name, len(messages) - kept, len(messages)),
        )
        return messages[-kept:]


def session_factory(request: Request) -> SyncSession:
    """``request.session``: one for a request, its attempts' each and its subrequests."""
    api = request.registry.getUtility(ISessionAPI)
    session = api.session(request)
    layer = session._state.layer
    if layer is None:
        sync = api.settings.sync
        layer = session._state.layer = SyncSession(session, sync.keys, sync.login_keys)
    return layer
