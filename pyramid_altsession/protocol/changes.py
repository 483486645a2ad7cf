"""The changes that ``request.session`` has not written yet. They belong to the request's state, so
that ``request.altsession`` shows them, and writes them before its own changes of the same keys.
"""

import logging
import sys
from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from msgspec import Struct

from ..errors import CorruptValue
from .commands import Commands
from .fields import CSRF_TOKEN, FieldCache, Raw
from .frame import framed, holding, split
from .lifecycle import Renew
from .token import new_verifier
from .verbs import Append, Expect, Refused, Remove, Set, Verb

log = logging.getLogger("pyramid_altsession")

USERID = "userid"
"""The end of the key under which Pyramid's SessionAuthenticationHelper keeps the signed-in user,
after a prefix, by default ``auth.``.
"""


_UNCHANGING = frozenset({str, int, float, bool, type(None)})
"""Values of these types cannot be changed in place."""


class Held(Struct, frozen=True, eq=False):
    """A value that the application has got, the bytes in the cache that it came from, and its own
    encoding, by which changes are found.
    """

    value: Any
    raw: Raw
    plain: bytes


class Flash(Append, frozen=True, eq=False):
    """A message that is to be appended to its queue, and the object that the application passed."""

    message: Any


def messages_of(flashes: list[Flash]) -> list[Any]:
    return [flash.message for flash in flashes]


def names_of(verbs: Collection[Verb]) -> set[str]:
    return {name for verb in verbs for name in verb.names or ()}


def appended(name: str, raw: Raw, flashes: list[Flash]) -> Raw:
    """The bytes of a queue with the messages added; unchanged if the value is no queue."""
    items = b",".join([flash.item for flash in flashes])
    try:
        return Append(name, items, sys.maxsize).apply(raw, 0)[0]
    except Refused:
        return raw


def as_queue(name: str, value: Any) -> list[Any]:
    """The messages of a queue; CorruptValue if the value is no list."""
    if not isinstance(value, list | tuple):
        raise CorruptValue(f"the flash queue {name!r} holds no list: set or remove it")
    return list(value)


class Snapshot(NamedTuple):
    """The unwritten changes at one moment: fields, and flash messages to append. ``held``: the
    values that the application had got. ``written``: keys whose changes were written since.
    """

    dirty: dict[str, Raw]
    flashes: dict[str, list[Flash]]
    held: dict[str, Held]
    written: set[str]


class PendingChanges:
    """Changes of one request's session that the server does not have yet.

    ``dirty``: the new bytes of fields, None for a field to remove. ``flashes``: messages to append.
    ``held``: values that the application has got and may change in place; ``_former``: those whose
    key was then read anew, or written through ``request.altsession``. ``_spoiled``: keys of values
    that cannot be encoded any more, after a call has raised the error.
    """

    _snapshots: tuple[Snapshot, ...] = ()

    def __init__(
        self, cache: FieldCache, commands: Commands, login_keys: Collection[str] = ()
    ) -> None:
        self.cache = cache
        self._commands = commands
        self._login_keys = login_keys
        self.dirty: dict[str, Raw] = {}
        self.flashes: dict[str, list[Flash]] = {}
        self.held: dict[str, Held] = {}
        self._former: list[tuple[str, Held]] = []
        self._spoiled: set[str] = set()

    def set(self, name: str, value: Any) -> None:
        """Replace a field."""
        plain = self._commands.encode(name, value)
        raw = framed(plain)
        fields = self.cache.fields
        self.flashes.pop(name, None)
        self._keep(name, Held(value, raw, plain))
        if fields.get(name) is None:
            fields.pop(name, None)  # a new key is the last one
        fields[name] = self.dirty[name] = raw
        if self.signs_in(name):
            # A person who planted the session knows its CSRF token, so it gets another one.
            fields[CSRF_TOKEN] = self.dirty.setdefault(CSRF_TOKEN, None)

    def remove(self, name: str) -> None:
        self.flashes.pop(name, None)
        self.held.pop(name, None)
        self.cache.fields[name] = self.dirty[name] = None

    def value(self, name: str) -> Held | None:
        """The field's value for the application: the same object each time."""
        raw = self.cache.fields.get(name)
        held = self.held.get(name)
        if held is not None:
            if held.raw == raw:
                return held
            self._former.append((name, self.held.pop(name)))
        waiting = self.flashes.get(name, [])
        if raw is None and not waiting:
            return None
        value = [] if raw is None else self._commands.decode(name, raw)
        if waiting and isinstance(value, list):
            # The messages are shown in the queue, but still appended, unless the queue is changed
            # in another way.
            value = value + messages_of(waiting)
            plain = self._commands.codec.encode(name, value)
        else:
            plain = split(raw or b"[]")[1]
        held = Held(value, raw, plain)
        self._keep(name, held)
        return held

    def _keep(self, name: str, held: Held) -> None:
        if held.value.__class__ in _UNCHANGING:
            self.held.pop(name, None)
        else:
            self.held[name] = held

    def append(self, name: str, message: Any) -> None:
        """Append a message to a queue."""
        item = self._commands.encode(name, [message])[1:-1]
        waiting = self.flashes.setdefault(name, [])
        waiting.append(Flash(name, item, self._commands.limit, message))
        self.held.pop(name, None)

    def appends(self, name: str) -> bool:
        """Whether the server can append to this queue: only to JSON, and to what is stored."""
        return name not in self.dirty and self._commands.codec.encode(name, []) == b"[]"

    @property
    def possible(self) -> bool:
        """Whether there may be any changes."""
        return bool(self.dirty or self.flashes or self.held or self._former)

    def due(self) -> bool:
        """Whether anything has to be written. If a value cannot be encoded, this raises the error
        once and drops the changes, because otherwise the page for the error would meet it again.
        """
        if self._spoiled:
            self._spoiled.clear()
        try:
            self.publish()
        except BaseException:
            self.forget()
            raise
        if self._former:
            self._warn_of_lost()
        return bool(self.dirty or self.flashes)

    def publish(self) -> None:
        """Put changed values into the cache, where ``request.altsession`` finds them. Their size is
        checked when they are written. A value that cannot be encoded raises its error once before
        it is ``due``, because the page for the error may use the session too.
        """
        fields = self.cache.fields
        fields.update(self.dirty)
        for name, waiting in self.flashes.items():
            try:
                waiting[:] = [self.flash(name, flash.message) for flash in waiting]
            except Exception:
                if self._is_new(name):
                    raise
        for name, held in list(self.held.items()):
            if fields.get(name) != held.raw:
                self._former.append((name, self.held.pop(name)))
                continue
            try:
                plain = self._commands.codec.encode(name, held.value)
            except Exception:
                if self._is_new(name):
                    raise
                continue
            if plain != held.plain and self._differ(name, held.plain, plain):
                raw = holding(held.raw or b"", plain)  # a change in place keeps the value's end
                self.held[name] = Held(held.value, raw, plain)
                fields[name] = self.dirty[name] = raw
                self.flashes.pop(name, None)  # part of the value
                if self.signs_in(name):
                    fields[CSRF_TOKEN] = self.dirty.setdefault(CSRF_TOKEN, None)

    def _warn_of_lost(self) -> None:
        """Warn of changes in place that cannot be written."""
        for name, held in self._former:
            if self._changed(name, held):
                log.warning(
                    "the value of %r that request.session returned was changed in place, after the"
                    " key was read anew or written through request.altsession: the change is lost",
                    name,
                )
        self._former.clear()

    def shown(self, fields: dict[str, Raw]) -> Mapping[str, Raw]:
        """The remembered fields, with the messages that wait."""
        if not self.flashes:
            return fields
        queues = {name: appended(name, fields.get(name), own) for name, own in self.flashes.items()}
        return fields | queues

    def pending(
        self, names: Collection[str] | None, *, exists: bool
    ) -> tuple[Renew | None, tuple[Verb, ...]]:
        """What has to be written before ``request.altsession`` writes the same keys (None: before
        it looks at all of them). ``exists``: there may be a session, which a change of who is
        signed in has to renew."""
        self.publish()
        return self.take(names, exists=exists)

    def shortened(
        self, verbs: Collection[Verb], queues: Collection[str], id: str | None
    ) -> tuple[Verb, ...]:
        """The same verbs, except that each of these queues is written anew, without its oldest
        messages if it would be too long. The queues have just been read.
        """
        shortened: list[Verb] = [verb for verb in verbs if getattr(verb, "name", "") not in queues]
        for name in queues:
            raw = self.cache.fields.get(name)
            own = [verb for verb in verbs if isinstance(verb, Flash) and verb.name == name]
            kept = self.fitting(name, self.queue(name, raw) + messages_of(own), id)
            plain = self._commands.encode(name, kept)
            shortened += [Expect(name, raw), Set(name, holding(raw or b"", plain))]
        return tuple(shortened)

    def restore(self, verbs: Collection[Verb]) -> None:
        """Take back the verbs that ``pending`` returned, because they were not written."""
        for snapshot in self._snapshots:
            snapshot.written.difference_update(names_of(verbs))
        for verb in verbs:
            if isinstance(verb, Flash):
                self.flashes.setdefault(verb.name, []).append(verb)
            else:
                assert isinstance(verb, Set | Remove)
                raw = verb.value if isinstance(verb, Set) else None
                self.cache.fields[verb.name] = self.dirty.setdefault(verb.name, raw)

    def forget(self) -> None:
        """Drop every change that is not written yet."""
        self.restart(Snapshot({}, {}, {}, set()))

    def snapshot(self) -> Snapshot:
        """The changes that are not written yet."""
        self.publish()
        flashes = {name: list(items) for name, items in self.flashes.items()}
        snapshot = Snapshot(dict(self.dirty), flashes, dict(self.held), set())
        self._snapshots += (snapshot,)
        return snapshot

    def restart(self, changes: Snapshot) -> None:
        """Go back to these changes, except those that a call has written since. A value that the
        application had got already, and has not changed since, stays the session's.
        """
        written = changes.written
        self.held = {
            name: held
            for name, held in changes.held.items()
            if name not in written and not self._changed(name, held)
        }
        fields = {name: held.raw for name, held in self.held.items() if name in self.dirty}
        self.cache.forget(*self.dirty)
        self.cache.fields.update(fields)
        self._former.clear()
        self.dirty = {n: raw for n, raw in changes.dirty.items() if n not in written}
        flashes = changes.flashes.items()
        self.flashes = {name: list(items) for name, items in flashes if name not in written}
        self.cache.fields.update(self.dirty)

    def _changed(self, name: str, held: Held) -> bool:
        """Whether the value was changed in place; also if it cannot be encoded any more."""
        try:
            plain = self._commands.codec.encode(name, held.value)
            return plain != held.plain and self._differ(name, held.plain, plain)
        except Exception:
            return True

    def _differ(self, name: str, before: bytes, now: bytes) -> bool:
        """Whether the values differ, and not only their bytes: a sealed value has other bytes each
        time.
        """
        codec = self._commands.codec
        known = codec.decode(name, before)
        if codec.encode(name, known) == before:
            return True  # the codec writes each value in one way
        return repr(known) != repr(codec.decode(name, now))

    def take(
        self, names: Collection[str] | None, *, exists: bool
    ) -> tuple[Renew | None, tuple[Verb, ...]]:
        """The verbs for the changes of these keys (None: of all) that ``publish`` has found, and
        the renewal that a change of the user needs. From then on they count as written.
        """
        if names is None:
            names = [*self.dirty, *self.flashes]
        verbs: list[Verb] = []
        renewal: Renew | None = None
        for name in names:
            raw = self.dirty.get(name)
            if raw is not None:
                self._commands.check_size(name, raw)
        if any(self.signs_in(name) and self.dirty.get(name) is not None for name in names):
            if exists:
                renewal = Renew(new_verifier())
            names = [*names, CSRF_TOKEN]
        for name in dict.fromkeys(names):
            if name in self.dirty:
                raw = self.dirty.pop(name)
                verbs.append(Remove(name) if raw is None else Set(name, raw))
            verbs += self.flashes.pop(name, [])
        for snapshot in self._snapshots:
            snapshot.written.update(names_of(verbs))
        return renewal, tuple(verbs)

    def signs_in(self, name: str) -> bool:
        """Whether this key holds the signed-in user. If wrongly true, it costs a new cookie; if
        wrongly false, an attacker who planted the cookie would keep the session.
        """
        return name.endswith(USERID) or name in self._login_keys

    def flash(self, name: str, message: Any) -> Flash:
        item = self._commands.codec.encode(name, [message])[1:-1]
        return Flash(name, item, self._commands.limit, message)

    def _is_new(self, name: str) -> bool:
        """Whether no error about this key was raised before."""
        new = name not in self._spoiled
        self._spoiled.add(name)
        return new

    def as_stored(self, name: str, message: Any) -> Any:
        """What the next request gets for this message: a list for a tuple, for instance."""
        codec = self._commands.codec
        return codec.decode(name, codec.encode(name, message))

    def queue(self, name: str, raw: Raw) -> list[Any]:
        """The stored messages."""
        return as_queue(name, [] if raw is None else self._commands.decode(name, raw))

    def fitting(self, name: str, messages: list[Any], id: str | None) -> list[Any]:
        """The same messages if they fit; otherwise the newest ones that fit into half of the limit,
        and at least one. Half, so that the next message does not find a full queue again.
        """
        encode, limit = self._commands.codec.encode, self._commands.limit
        if len(messages) == 1 or len(encode(name, messages)) <= limit:
            return messages
        sizes = accumulate(len(encode(name, [message])) for message in reversed(messages))
        kept = max(1, sum(size <= limit // 2 for size in sizes))
        log.warning(
            "session %s: the flash queue %r outgrew session.max_value_bytes, as nobody shows its"
            " messages; the oldest %d of %d were dropped",
            *(id, name, len(messages) - kept, len(messages)),
        )
        return messages[-kept:]
