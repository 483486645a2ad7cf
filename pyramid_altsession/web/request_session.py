"""``request.session``: the session as a dict, written at the end of the request."""

import time
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import Any

from pyramid.interfaces import ISession
from pyramid.request import Request
from zope.interface import implementer

from ..protocol.changes import Held, PendingChanges, as_queue, messages_of
from ..protocol.commands import field_name
from ..protocol.fields import CSRF_TOKEN, FLASH, Raw
from ..protocol.token import new_csrf_token
from ..protocol.verbs import Pop
from ..session import AltSession
from .requests import request_sessions


@implementer(ISession)
class SyncSession(MutableMapping[str, Any]):
    """Pyramid's session, without lost updates: a dict of this visitor's values.

    Reading an item costs one round trip, once; iteration, ``len`` and truth one for all items.
    Changes, nested ones included, are written when the request ends, in one step and only into a
    session that is still alive; keys that did not change are not written, so two requests that
    change different keys both succeed. ``changed()`` is not needed. An unhandled exception or a 5xx
    answer writes nothing. A change after the answer was made raises RuntimeError, because it would
    be lost.

    Keys become str. TypeError at the assignment for a value that JSON cannot carry. Iteration is
    in the server's order, with what this request adds at the end.
    """

    def __init__(
        self, session: AltSession, keys: Collection[str] | None, login_keys: Collection[str]
    ) -> None:
        self._session = session
        self._driver = session.driver
        self._state = state = session.driver.state
        self._keys = None if keys is None else tuple(keys)
        if state.changes is None:
            state.changes = PendingChanges(state.cache, session.commands, login_keys)
        self._changes = state.changes

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
        self._changes.set(name, value)

    def __delitem__(self, key: object) -> None:
        name = self._name(key)
        self._refuse_late()
        if name not in self._changes.flashes and self._raw(name) is None:
            raise KeyError(key)
        self._changes.remove(name)

    def __contains__(self, key: object) -> bool:
        name = self._name(key)
        return name in self._changes.flashes or self._raw(name) is not None

    def __iter__(self) -> Iterator[str]:
        self._fetch(self._keys)
        names = dict.fromkeys([*self._state.cache.present(), *self._changes.flashes])
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

    # With ``get`` and ``pop`` of the base class, a key that altsession.sync.keys does not allow
    # would seem to be missing.

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
        """A plain dict of everything; changes to it are not written."""
        return dict(self)

    def __json__(self, request: Any) -> dict[str, Any]:
        """For Pyramid's JSON renderer."""
        return self.copy()

    # -- ISession

    @property
    def created(self) -> int:
        """When the session was made, in seconds since 1970; the time now if there is no session
        yet.
        """
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
        """End the session at once. A value stored later in this request starts a new session."""
        self._session.invalidate()

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Append a message. If two requests do so at once, none is lost.

        ValueTooLarge for a message that ``session.max_value_bytes`` does not allow. A queue that
        would become longer loses its oldest messages.
        """
        name = self._name(FLASH + queue)
        self._refuse_late()
        if not allow_duplicate:
            known = self.peek_flash(queue)
            if msg in known or self._changes.as_stored(name, msg) in known:
                return
        self._changes.publish()
        if self._changes.appends(name):
            self._changes.append(name, msg)
        else:
            messages = [*as_queue(name, self.get(name, [])), msg]
            self[name] = self._changes.fitting(name, messages, self._session.id)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Take the messages out, at once: if several requests do so, only one gets them. One round
        trip, two if there are messages.
        """
        name = self._name(FLASH + queue)
        changes = self._changes
        changes.publish()
        # The messages that this request has appended need not be sent.
        found, own = self._raw(name), changes.flashes.pop(name, [])
        try:
            stored = [] if found is None else self._take_out(name, alone=not own)
        except BaseException:
            if own:
                changes.flashes[name] = own
            raise
        changes.held.pop(name, None)
        return stored + messages_of(own)

    def peek_flash(self, queue: str = "") -> list[Any]:
        """The messages, without taking them out."""
        name = self._name(FLASH + queue)
        held = self._load(name)
        return [] if held is None else as_queue(name, held.value)

    def new_csrf_token(self) -> str:
        """A new CSRF token in place of the old one."""
        token = new_csrf_token()
        self[CSRF_TOKEN] = token
        return token

    def get_csrf_token(self) -> str:
        """The CSRF token. A missing one is made and stored at once: two tabs get the same."""
        token = self.get(CSRF_TOKEN)
        if token is not None:
            return str(token)
        if CSRF_TOKEN in self._changes.dirty:
            # This request has removed the token, so a token on the server does not count.
            return self.new_csrf_token()
        return str(self._session.setdefault(CSRF_TOKEN, new_csrf_token()))

    def write_back(self) -> None:
        """Write the changes now, not at the end of the request."""
        if self._changes.due():
            self._driver.run(self._driver.dialogue.write_back(self._changes))

    # -- inside

    def _name(self, key: object) -> str:
        name = field_name(key if isinstance(key, str) else str(key))
        if self._keys is not None and name not in self._keys:
            raise KeyError(f"{name!r} is not among the keys of altsession.sync.keys")
        return name

    def _fetch(self, names: tuple[str, ...] | None) -> None:
        if self._state.reported:
            return  # debugtoolbar looks at every session, above every error page
        known = self._changes.dirty if names else dict(self._state.cache.fields)
        self._driver.ask(names)
        # The values at hand were made from the older bytes, so the cache keeps those.
        self._state.cache.fields.update(known)

    def _raw(self, name: str) -> Raw:
        self._fetch((name,))
        return self._state.cache.fields.get(name)

    def _load(self, name: str) -> Held | None:
        self._fetch((name,))
        return self._changes.value(name)

    def _refuse_late(self) -> None:
        if self._state.answered:
            raise RuntimeError(
                "request.session: a change after the response callbacks of this request have run"
                " (in app_iter, NewResponse or a finished callback) would be lost; make it earlier,"
                " or call request.altsession, which writes at once"
            )

    # -- inside: flash queues

    def _take_out(self, name: str, *, alone: bool) -> list[Any]:
        """The stored messages. If this request stored the whole list itself, they are the same
        objects, without those that still wait to be appended.
        """
        held = self._changes.held.get(name)
        (raw,) = self._driver.write(Pop(name))
        if alone and held is not None and held.raw == raw:
            return as_queue(name, held.value)
        return self._changes.queue(name, raw)


def session_factory(request: Request) -> SyncSession:
    """``request.session``. Subrequests for the same visitor share its unwritten changes."""
    sessions = request_sessions(request)
    return SyncSession(sessions.session(request), sessions.sync.keys, sessions.sync.login_keys)
