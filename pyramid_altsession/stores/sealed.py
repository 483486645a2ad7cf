"""Another store, whose values are sealed: the server sees neither what they say nor may move them.

Everything above works on plain bytes. What the server would have to work out from a value
(``increment``, ``compare_and_set``, ``append``) is worked out here, from what was read, and written
if nobody changed it meanwhile; else again. Frames, ids and user ids stay readable: the server
judges by them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..frame import alive, split
from ..interfaces import SealingCodec, Store
from ..operations import (
    Append,
    CompareAndSet,
    DataVerb,
    Describe,
    Everything,
    Expect,
    Get,
    Increment,
    Login,
    Operation,
    Pop,
    Raw,
    Read,
    Refused,
    Remove,
    Reply,
    Set,
    SetDefault,
    State,
    Verb,
    Write,
    pairs,
)
from ..state import Sending

TRIES = 100
UNREADABLE = b"\x00"
"""Stands for a value that cannot be unsealed: no codec decodes it."""
NOTED = "@n"
"""The name that what was noted at login is sealed for."""


class SealedStore:
    """The store contract, on another store."""

    def __init__(self, store: Store, codec: SealingCodec) -> None:
        self._store = store
        self._codec = codec

    def __repr__(self) -> str:
        return f"<SealedStore {self._store!r}>"

    def carry_out(self, operation: Operation) -> Reply:
        """As many round trips as the other store, and for what is worked out here, a read more."""
        match operation:
            case Read():
                return self.opened(operation, self._store.carry_out(operation))
            case Write(verbs=verbs):
                if any(isinstance(verb, Increment | CompareAndSet | Append) for verb in verbs):
                    return self._work_out(operation)
                return self._pass_on(operation)
            case Describe(ids):
                described = self._store.carry_out(operation)
                values = [
                    known and known._replace(info=self._unsealed(id, NOTED, known.info) or b"")
                    for id, known in zip(ids, described.values, strict=True)
                ]
                return described._replace(values=values)
            case _:
                return self._store.carry_out(operation)

    def send(self, operation: Read) -> "SentSealed":
        return SentSealed(self, self._store.send(operation))

    def close(self) -> None:
        """Close the other store."""
        self._store.close()

    def opened(self, operation: Read, reply: Reply) -> Reply:
        """The reply to a read, with plain values."""
        if reply.state is not State.LIVE:
            return reply
        id = operation.claims[reply.which].id
        if operation.fields is None:
            values: Any = {n: self._unsealed(id, n, raw) for n, raw in reply.values.items()}
        else:
            fields = zip(operation.fields, reply.values, strict=True)
            values = [self._unsealed(id, name, raw) for name, raw in fields]
        return reply._replace(values=values)

    def _pass_on(self, write: Write) -> Reply:
        """A write that the server can carry out without reading a value."""
        id = write.claim.id
        reply = self._store.carry_out(
            replace(write, verbs=tuple([self._sealing(id, verb) for verb in write.verbs]))
        )
        if reply.state is not State.LIVE:
            return reply
        results = zip(write.verbs, reply.values, strict=True)
        return reply._replace(values=[self._result(id, verb, raw) for verb, raw in results])

    def _sealing(self, id: str, verb: Verb) -> Verb:
        if isinstance(verb, Set | SetDefault):
            return replace(verb, value=self._sealed(id, verb.name, verb.value))
        if isinstance(verb, Login) and verb.info:
            return replace(verb, info=self._codec.seal(id, NOTED, verb.info))
        return verb

    def _result(self, id: str, verb: Verb, result: Any) -> Any:
        if isinstance(verb, Get | Pop | SetDefault):
            return self._unsealed(id, verb.name, result)
        if isinstance(verb, Everything):
            opened = {n: self._unsealed(id, n, raw) for n, raw in pairs(result).items()}
            return [part for name, raw in opened.items() for part in (name.encode(), raw)]
        return result

    # -- worked out here

    def _work_out(self, write: Write) -> Reply:
        for _ in range(TRIES):
            draft = self._draft(write)
            try:
                results = [draft.apply(verb) for verb in write.verbs]
            except Refused as refused:
                return Reply(State.REFUSED, refused.args[0], draft.now, draft.left)
            first = [verb for verb in write.verbs if not isinstance(verb, DataVerb | Everything)]
            expected = [Expect(name, raw) for name, raw in draft.sealed.items()]
            verbs = (*first, *expected, *self._changes(write.claim.id, draft))
            reply = self._store.carry_out(replace(write, verbs=verbs))
            if reply.state is State.LIVE:
                of_first = iter(reply.values)
                values = [next(of_first) if r is _LATER else r for r in results]
                return reply._replace(values=values)
            if reply.state is not State.REFUSED:
                return reply
        raise RuntimeError(f"a sealed value: somebody else was faster {TRIES} times")

    def _draft(self, write: Write) -> "_Draft":
        """What the verbs are about, as it is stored; nothing where there is no session yet."""
        names = {verb.name for verb in write.verbs if isinstance(verb, DataVerb)}
        whole = any(isinstance(verb, Everything) for verb in write.verbs)
        held: dict[str, Raw] = {}
        reply = Reply(State.DEAD)
        if not write.create:
            fields = tuple(sorted(names))
            asked = None if whole else fields
            reply = self._store.carry_out(Read((write.claim,), asked, write.timing, touch=False))
            if reply.state is State.LIVE:
                held = dict(reply.values if whole else zip(fields, reply.values, strict=True))
        stored = {name: alive(raw, reply.now) for name, raw in held.items() if name[0] != "@"}
        id = write.claim.id
        plain = {name: self._unsealed(id, name, raw) for name, raw in stored.items()}
        sealed = {} if write.create else {name: stored.get(name) for name in sorted(names)}
        return _Draft(plain, sealed, reply.now, reply.left)

    def _changes(self, id: str, draft: "_Draft") -> Iterator[Verb]:
        for name, raw in draft.changed.items():
            yield Remove(name) if raw is None else Set(name, self._sealed(id, name, raw))

    # -- one value

    def _sealed(self, id: str, name: str, raw: bytes) -> bytes:
        frame, plain = split(raw)
        return frame + self._codec.seal(id, name, plain)

    def _unsealed(self, id: str, name: str, raw: Raw) -> Raw:
        if not raw or (name[0] == "@" and name != NOTED):
            return raw
        frame, sealed = split(raw)
        plain = self._codec.unseal(id, name, sealed)
        return frame + (UNREADABLE if plain is None else plain)


_LATER = object()
"""Stands for the result of a verb that the server carries out."""


@dataclass
class _Draft:
    """Plain values, as the verbs find and leave them; ``sealed``: what the fields held."""

    plain: dict[str, Raw]
    sealed: dict[str, Raw]
    now: int
    left: int | None

    def __post_init__(self) -> None:
        self.changed: dict[str, Raw] = {}
        self._place = -1

    def apply(self, verb: Verb) -> Any:
        self._place += 1
        if isinstance(verb, Everything):
            present = [(n.encode(), raw) for n, raw in self.plain.items() if raw is not None]
            return [part for both in present for part in both]
        if not isinstance(verb, DataVerb):
            return _LATER
        held = self.plain.get(verb.name)
        try:
            value, result = verb.apply(held, self.now)
        except Refused:
            raise Refused(self._place) from None
        if value != held:
            self.plain[verb.name] = self.changed[verb.name] = value
        return result


class SentSealed:
    """A read under way on the other store."""

    def __init__(self, store: SealedStore, sending: Sending) -> None:
        self._store = store
        self._sending = sending

    def reply(self, operation: Read) -> Reply:
        return self._store.opened(operation, self._sending.reply(operation))

    def drop(self) -> None:
        self._sending.drop()
