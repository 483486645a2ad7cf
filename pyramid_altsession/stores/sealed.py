"""Seals the values of another store, so that the server can neither read them nor move them to
another key.

Everything above works on plain bytes. If a verb has to look into a value (``increment``,
``compare_and_set``, ``append``), this store reads the value, works out the new one, and writes it
if no other request changed it meanwhile; otherwise it starts again. Ends, names, ids and user ids
stay readable, because the server needs them.
"""

from typing import Any

from msgspec.structs import replace

from ..errors import ValueTooLarge
from ..interfaces import SealingCodec, Store
from ..protocol.contract import PendingRead
from ..protocol.fields import INFO, INFO_CHUNK, Raw, State
from ..protocol.frame import UNREADABLE, alive, end_of, ending, framed, split
from ..protocol.keys import LONGEST
from ..protocol.lifecycle import Life, Login
from ..protocol.messages import Describe, Inspect, Operation, Read, Reply, Write
from ..protocol.steps import TRIES, Steps, TooManyConflicts, run
from ..protocol.verbs import (
    Everything,
    Expect,
    Get,
    Pop,
    Refused,
    Remove,
    Set,
    SetDefault,
    Verb,
    flat,
    pairs,
)

_PASSED_ON = (Get, Set, Remove, Pop, SetDefault, Everything)
"""Verbs for which the server neither looks into a value nor moves one to another key."""
NOTED = "@n"
"""The field name for which a login's ``info`` is sealed."""
LONGEST_INFO = len(INFO) * INFO_CHUNK
"""Bytes of a sealed ``info`` that fit; the rest would be cut, and nobody could open it."""


class SealedStore:
    """The store contract, on another store."""

    def __init__(self, store: Store, codec: SealingCodec) -> None:
        self.store = store
        self._sealing = Sealing(codec)

    def __repr__(self) -> str:
        return f"<SealedStore {self.store!r}>"

    def execute(self, operation: Operation) -> Reply:
        """As many round trips as the other store; one more for verbs that are worked out here."""
        return run(self.store.execute, self._sealing.steps(operation))

    def send(self, operation: Read) -> "SealedPendingRead":
        return SealedPendingRead(self._sealing, self.store.send(operation))

    def close(self) -> None:
        """Close the other store."""
        self.store.close()


class SealedPendingRead:
    """A read under way on the other store."""

    def __init__(self, sealing: "Sealing", sent: PendingRead) -> None:
        self._sealing = sealing
        self._sent = sent

    def result(self, operation: Read) -> Reply:
        return self._sealing.opened(operation, self._sent.result(operation))

    def cancel(self) -> None:
        self._sent.cancel()


class Sealing:
    """Seals values on their way to a store, and opens them on the way back, without I/O."""

    def __init__(self, codec: SealingCodec) -> None:
        self._codec = codec

    def steps(self, operation: Operation) -> Steps[Reply]:
        """The operations on the other store that replace this one."""
        match operation:
            case Read():
                return self.opened(operation, (yield operation))
            case Write(verbs=verbs):
                if all(isinstance(verb, _PASSED_ON) for verb in verbs):
                    return (yield from self._pass_on(operation))
                return (yield from self._work_out(operation))
            case Describe(ids):
                described = yield operation
                values = [
                    known and known._replace(info=known.info and self._open(id, NOTED, known.info))
                    for id, known in zip(ids, described.values, strict=True)
                ]
                return replace(described, values=values)
            case Inspect(ids, opened=True):
                found = yield operation
                values = [
                    held and {name: self._open(id, name, raw) for name, raw in held.items()}
                    for id, held in zip(ids, found.values, strict=True)
                ]
                return replace(found, values=values)
            case _:
                return (yield operation)

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
        return replace(reply, values=values)

    def _pass_on(self, write: Write) -> Steps[Reply]:
        """A write that the server can carry out without reading a value."""
        id = write.claim.id
        verbs = tuple([self._seal_verb(id, verb) for verb in write.verbs])
        life = self._noting(id, write.life)
        reply = yield replace(write, verbs=verbs, life=life)
        if reply.state is not State.LIVE:
            return reply
        results = zip(write.verbs, reply.values, strict=True)
        return replace(reply, values=[self._result(id, verb, raw) for verb, raw in results])

    def _seal_verb(self, id: str, verb: Verb) -> Verb:
        if isinstance(verb, Set | SetDefault):
            return replace(verb, value=self._sealed(id, verb.name, verb.value))
        return verb

    def _noting(self, id: str, life: Life | None) -> Life | None:
        if not (isinstance(life, Login) and life.info):
            return life
        info = self._sealed(id, NOTED, life.info)
        if len(info) > LONGEST_INFO:
            raise ValueTooLarge(
                f"login: the sealed info has {len(info)} bytes, and {LONGEST_INFO} fit"
            )
        return replace(life, info=info)

    def _result(self, id: str, verb: Verb, result: Any) -> Any:
        if isinstance(verb, Get | Pop | SetDefault):
            return self._unsealed(id, verb.name, result)
        if isinstance(verb, Everything):
            return flat({n: self._unsealed(id, n, raw) for n, raw in pairs(result).items()})
        return result

    # -- worked out here

    def _work_out(self, write: Write) -> Steps[Reply]:
        id, life = write.claim.id, self._noting(write.claim.id, write.life)
        # The result of a Set does not depend on the old value.
        reading = [verb.names or () for verb in write.verbs if not isinstance(verb, Set)]
        names = tuple(sorted({name for names in reading for name in names}))
        # What it shows of all keys must be what the write meets, not what the read before it met.
        whole = tuple([verb for verb in write.verbs if isinstance(verb, Everything)][:1])
        for _ in range(TRIES):
            found, stored = yield from self._stored(write, names)
            plain = {name: self._unsealed(id, name, raw) for name, raw in stored.items()}
            try:
                # At time 0, a new end is the same as a time to live: the server adds its clock.
                after = worked_out(write.verbs, plain, 0)[0]
                changes = self._changes(id, write.verbs, plain, after)
            except Refused as refused:
                if found.state is State.LIVE:
                    user = found.facts and found.facts.user  # as the reply to a write tells it
                    return replace(found, state=State.REFUSED, values=refused.args[0], user=user)
                changes = _IMPOSSIBLE  # the other store reports the session's state
            unchanged = [Expect(name, raw) for name, raw in stored.items() if name in names]
            reply = yield replace(write, verbs=(*unchanged, *whole, *changes), life=life)
            if reply.state is State.LIVE:
                if whole:
                    met = pairs(reply.values[len(unchanged)])
                    plain = {name: self._unsealed(id, name, raw) for name, raw in met.items()}
                return replace(reply, values=worked_out(write.verbs, plain, reply.now)[1])
            if reply.state is not State.REFUSED:
                return reply
        raise TooManyConflicts(f"writing sealed values ({', '.join(names)})")

    def _stored(self, write: Write, names: tuple[str, ...]) -> Steps[tuple[Reply, dict[str, Raw]]]:
        """The present values of the fields; None for a field without a value, or whose value has
        ended.
        """
        if write.create:
            return Reply(State.LIVE), {}
        whole = any(verb.names is None for verb in write.verbs)
        wanted = None if whole else names
        read = Read((write.claim,), wanted, write.timing, touch=False, whose=write.whose)
        reply = yield read
        held: dict[str, Raw] = dict.fromkeys(names)
        if reply.state is State.LIVE:
            held |= reply.values if whole else zip(names, reply.values, strict=True)
        return reply, {n: alive(raw, reply.now) for n, raw in held.items() if n[:1] != "@"}

    def _changes(
        self, id: str, verbs: tuple[Verb, ...], before: dict[str, Raw], after: dict[str, Raw]
    ) -> tuple[Verb, ...]:
        """The verbs that turn the old values into the new ones; none for values that stay as they
        are, unless a Set stores the same again: another request may change it meanwhile.
        """
        stored = {verb.name for verb in verbs if isinstance(verb, Set)}
        return tuple(
            [
                self._change(id, name, raw)
                for name, raw in after.items()
                if name in stored or raw != before.get(name)
            ]
        )

    def _change(self, id: str, name: str, raw: Raw) -> Verb:
        if raw is None:
            return Remove(name)
        end = end_of(raw)
        if end is None or end > LONGEST * 1000:
            return Set(name, self._sealed(id, name, raw))
        return Set(name, self._sealed(id, name, ending(raw, None)), end)

    # -- one value

    def _sealed(self, id: str, name: str, raw: bytes) -> bytes:
        """The end stays outside, where the server can read it; the version is sealed."""
        return framed(self._codec.seal(id, name, ending(raw, None)), end=end_of(raw))

    def _unsealed(self, id: str, name: str, raw: Raw) -> Raw:
        """The package's own fields are not sealed."""
        return raw if raw is None or name[:1] == "@" else self._open(id, name, raw)

    def _open(self, id: str, name: str, raw: bytes) -> bytes:
        plain = self._codec.unseal(id, name, split(raw)[1])
        return UNREADABLE if plain is None else ending(plain, end_of(raw))


_IMPOSSIBLE: tuple[Verb, ...] = (Expect("", None), Expect("", b""))
"""A verb that every live session refuses."""


def worked_out(
    verbs: tuple[Verb, ...], plain: dict[str, Raw], now: int
) -> tuple[dict[str, Raw], list[Any]]:
    """The values of the fields after the verbs, and the verbs' results, as the server's script
    would work them out.
    """
    held = dict(plain)
    results: list[Any] = []
    for verb in verbs:
        try:
            changes, result = verb.work(held, now)
        except Refused:
            raise Refused(len(results)) from None
        held |= changes
        results.append(result)
    return held, results
