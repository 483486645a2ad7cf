"""``request.session``: a synchronous view on the very session that ``request.altsession`` shows.

One hash, one cookie, one memory. Reading an item fetches that one field once; at the end of the
request the fields whose value changed, and the removed ones, are written in one guarded write.
"""

import secrets
import time
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.interfaces import ISession, ISessionFactory
from pyramid.request import Request
from pyramid.viewderivers import INGRESS, VIEW
from zope.interface import implementer

from .errors import CorruptValue
from .frame import framed, holding
from .interfaces import ISessionAPI
from .keys import SessionKey, field_name
from .operations import CSRF_TOKEN, Append, Pop, Raw, Refused, Remove, Renew, Set, Verb
from .session import AltSession
from .settings import Settings
from .state import Status

AUTH_USERID = "auth.userid"
"""Where Pyramid's SessionAuthenticationHelper keeps who is signed in."""


class _Held(NamedTuple):
    """A value handed out: the memo's bytes it came from, and its own, to see changes by."""

    value: Any
    raw: Raw
    plain: bytes


class Changes(NamedTuple):
    """What a SyncSession has not written yet: fields, and flash messages to append."""

    dirty: dict[str, Raw]
    flashes: dict[str, list[bytes]]


@implementer(ISession)
class SyncSession(MutableMapping[str, Any]):
    """Pyramid's session, without lost updates: a dict of this visitor's values.

    Reading an item costs one round trip, once; iteration, ``len`` and truth one for all items.
    Changes, nested ones included, are written when the request ends, in one step and only into a
    session that is still alive; what did not change is not written, so two requests that change
    different keys both win. ``changed()`` is not needed. An unhandled exception or a 5xx answer
    writes nothing.

    Keys become str. TypeError at the assignment for a value that JSON cannot carry.
    """

    def __init__(self, session: AltSession, keys: Collection[str] | None) -> None:
        self._session = session
        self._state = session._state
        self._calls = session._calls
        self._keys = None if keys is None else frozenset(keys)
        self._held: dict[str, _Held] = {}
        self._dirty: dict[str, Raw] = {}
        self._flashes: dict[str, list[bytes]] = {}

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
        plain = self._calls.encode(name, value)
        raw = framed(plain)
        self._flashes.pop(name, None)
        self._held[name] = _Held(value, raw, plain)
        self._state.memo.fields[name] = self._dirty[name] = raw
        if name == AUTH_USERID:
            # Who planted the session knows its token: what is asked for from now on is another.
            self._state.memo.fields[CSRF_TOKEN] = self._dirty.setdefault(CSRF_TOKEN, None)

    def __delitem__(self, key: object) -> None:
        name = self._name(key)
        if self._flashes.pop(name, None) is None and self._raw(name) is None:
            raise KeyError(key)
        self._held.pop(name, None)
        self._state.memo.fields[name] = self._dirty[name] = None

    def __contains__(self, key: object) -> bool:
        name = self._name(key)
        return name in self._flashes or self._raw(name) is not None

    def __iter__(self) -> Iterator[str]:
        self._fetch(None if self._keys is None else tuple(self._keys))
        names = self._state.memo.present().keys() | self._flashes.keys()
        return iter(sorted(names if self._keys is None else names & self._keys))

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

    def clear(self) -> None:
        for name in list(self):
            del self[name]

    def copy(self) -> dict[str, Any]:
        """A plain dict of everything; what is put into it is not written."""
        return dict(self)

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

    def invalidate(self) -> None:
        """End the session at once; what is stored later in this request starts a new one."""
        self._session.invalidate()

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Append a message; two requests that do so at once lose nothing."""
        name = self._name(f"_f_{queue}")
        if not allow_duplicate and msg in self.peek_flash(queue):
            return
        self.publish()
        appends = self._calls.codec.encode(name, []) == b"[]"  # the server appends to JSON alone
        if name in self._dirty or not appends:
            self[name] = [*self.get(name, []), msg]
        else:
            self._flashes.setdefault(name, []).append(self._calls.encode(name, msg))
            self._held.pop(name, None)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Take the messages out, at once: of several requests one shows them. One round trip,
        two when there are any."""
        name = self._name(f"_f_{queue}")
        self.publish()
        found, own = self._raw(name), self._flashes.pop(name, [])  # they need not travel
        self._held.pop(name, None)
        if found is None:
            return self._waiting(name, own)
        (raw,) = self._session._write(Pop(name))
        stored = [] if raw is None else self._calls.decode(name, raw)
        return [*stored, *self._waiting(name, own)]

    def peek_flash(self, queue: str = "") -> list[Any]:
        """The messages, which stay."""
        name = self._name(f"_f_{queue}")
        held = self._load(name)
        return [] if held is None else list(held.value)

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
        """Put changed values into the memo, where ``request.altsession`` finds them."""
        fields = self._state.memo.fields
        fields.update(self._dirty)
        for name, held in list(self._held.items()):
            if fields.get(name) != held.raw:
                continue  # written through request.altsession since
            plain = self._calls.encode(name, held.value)
            if plain != held.plain and self._differ(name, held.plain, plain):
                raw = holding(held.raw or b"", plain)  # a change in place keeps the value's end
                self._held[name] = _Held(held.value, raw, plain)
                fields[name] = self._dirty[name] = raw
                self._flashes.pop(name, None)  # part of the value

    def pending(self, names: Collection[str]) -> tuple[Verb, ...]:
        """What has to be written before ``request.altsession`` writes the same keys."""
        self.publish()
        return tuple(self._take(names))

    def restore(self, verbs: Collection[Verb]) -> None:
        """What ``pending`` gave was not written: it still has to be."""
        for verb in verbs:
            if isinstance(verb, Append):
                self._flashes.setdefault(verb.name, []).append(verb.item)
            elif isinstance(verb, Set | Remove):
                raw = verb.value if isinstance(verb, Set) else None
                self._state.memo.fields[verb.name] = self._dirty.setdefault(verb.name, raw)

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
        self._state.memo.forget(*self._dirty)
        self._held.clear()
        self._dirty = dict(changes.dirty)
        self._flashes = {name: list(items) for name, items in changes.flashes.items()}
        self._state.memo.fields.update(self._dirty)

    # -- the end of the request

    def write_back(self) -> None:
        """Write what changed, in one step; nothing if nothing did.

        A change of who is signed in replaces the verifier, and the CSRF token, as a login does:
        who planted the session knows both.
        """
        try:
            self.publish()
            verbs = self._take([*self._dirty, *self._flashes])
            if verbs:
                self._session._write(*verbs)
        except Refused:
            self.forget()
            raise CorruptValue("a flash queue holds no list: the message was not added") from None
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
        known = self._dirty if names else dict(self._state.memo.fields)
        self._session._ask(names)
        self._state.memo.fields.update(known)  # newer ones are not what the values at hand are of

    def _raw(self, name: str) -> Raw:
        self._fetch((name,))
        return self._state.memo.fields.get(name)

    def _load(self, name: str) -> _Held | None:
        raw = self._raw(name)
        held = self._held.get(name)
        if held is not None and held.raw == raw:
            return held
        self._held.pop(name, None)
        waiting = self._flashes.get(name, [])
        if raw is None and not waiting:
            return None
        value = [] if raw is None else self._calls.decode(name, raw)
        if waiting:  # as part of the queue; they are still appended, unless it changes otherwise
            value = [*value, *self._waiting(name, waiting)]
        # Not the stored bytes: another program's spacing is no change of ours.
        held = self._held[name] = _Held(value, raw, self._calls.codec.encode(name, value))
        return held

    def _differ(self, name: str, before: bytes, now: bytes) -> bool:
        """Whether these are other values, and not other bytes alone, as of a codec that seals."""
        codec = self._calls.codec
        known = codec.decode(name, before)
        if codec.encode(name, known) == before:
            return True  # a value has one form
        return repr(known) != repr(codec.decode(name, now))

    def _take(self, names: Collection[str]) -> list[Verb]:
        """Verbs for what these keys have to become; then it counts as written."""
        verbs: list[Verb] = []
        if self._dirty.get(AUTH_USERID) is not None and AUTH_USERID in names:
            if self._state.status is not Status.NONE:
                verbs.append(Renew(self._state.verifier()))
            self._dirty.setdefault(CSRF_TOKEN, None)
            names = [*names, CSRF_TOKEN]
        for name in dict.fromkeys(names):
            if name in self._dirty:
                raw = self._dirty.pop(name)
                verbs.append(Remove(name) if raw is None else Set(name, raw))
            verbs += [Append(name, item) for item in self._flashes.pop(name, [])]
        return verbs

    def _waiting(self, name: str, items: list[bytes]) -> list[Any]:
        return [self._calls.decode(name, item) for item in items]


def session_factory(request: Request) -> SyncSession:
    """``request.session``: one for a request, its attempts' each and its subrequests."""
    api = request.registry.getUtility(ISessionAPI)
    session = api.session(request)
    layer = session._state.layer
    if layer is None:
        layer = session._state.layer = SyncSession(session, api.settings.sync.keys)
    return layer


def fetch_keys(view: Any, info: Any) -> Any:
    """View option ``altsession=("cart", "user")``: keys that are asked for before the view, and
    what comes before it, begins."""
    option = info.options.get("altsession")
    if option is None:
        return view
    keys = (option,) if isinstance(option, str | SessionKey) else tuple(option)
    for key in keys:
        field_name(key)

    def fetching(context: Any, request: Request) -> Any:
        request.altsession.prefetch(*keys)
        return view(context, request)

    return fetching


fetch_keys.options = ("altsession",)  # type: ignore[attr-defined]


def not_enabled(request: Request) -> SyncSession:
    """In place of Pyramid's own message, which does not know that we could serve it."""
    raise AttributeError(
        "request.session is not served: set altsession.sync.enabled = true, or register a session"
        " factory; request.altsession needs neither"
    )


def add_sync_layer(config: Configurator) -> None:
    """Serve ``request.session``, if the settings say so and the application does not."""

    def register() -> None:
        settings: Settings = config.registry.getUtility(ISessionAPI).settings
        if config.registry.queryUtility(ISessionFactory) is None:
            factory = session_factory if settings.sync.enabled else not_enabled
            config.registry.registerUtility(factory, ISessionFactory)

    config.action("altsession sync", register, order=PHASE3_CONFIG + 10)
    config.add_view_deriver(fetch_keys, under=INGRESS, over=("csrf_view", "secured_view", VIEW))
