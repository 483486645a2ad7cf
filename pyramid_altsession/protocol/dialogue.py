"""The dialogue between one session and the store, call by call and without I/O.

``AltSession`` and ``request.session`` are two views of the same state; both ask and write through
this, so that neither overwrites what the other has not written yet.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..errors import StoreUnavailable
from .changes import PendingChanges
from .contract import PendingRead
from .fields import Raw, is_key
from .lifecycle import Life
from .messages import Read, Write
from .state import SessionState, Status
from .steps import TRIES, Prefetch, Steps, TooManyConflicts
from .verbs import Get, Refused, Verb, flat

MAX_STEPS = 16
"""How many operations one call may need. If a server's answers lead to more, they contradict each
other.
"""


class Dialogue:
    """The steps that one session's calls are made of."""

    __slots__ = ("state",)

    def __init__(self, state: SessionState) -> None:
        self.state = state

    def follow(self, operation: Read | Write | None, sent: Prefetch | None = None) -> Steps[None]:
        """Carry out the operation, learn from the reply, and go on until no operation has to
        follow. Then ``results`` and ``done`` of the state are those of the call. ``sent``: the
        operation has been sent already.
        """
        state, steps = self.state, 0
        while operation is not None:
            steps += 1
            if steps > MAX_STEPS:
                raise StoreUnavailable("the server's answers contradict each other")
            try:
                reply = yield operation if sent is None else sent
            except BaseException as error:
                if not state.failed(operation, error):
                    raise
                return
            sent = None
            operation = state.learn(operation, reply)

    # -- reads

    def ask(
        self, names: tuple[str, ...] | None, *, touch: bool = True, fresh: bool = False
    ) -> Steps[None]:
        """Fetch what is not remembered (None: all fields)."""
        state = self.state
        if state.sent is not None:
            yield from self.settle()
        yield from self.follow(state.read(names, touch=touch, fresh=fresh))

    def fetch(self, names: tuple[str, ...], fresh: bool = False) -> Steps[None]:
        """The same for calls of ``request.altsession``, which see what ``request.session`` has
        changed."""
        if not names:
            return
        changes = self.state.changes
        if changes is not None and fresh:
            changes.publish()  # before newer values replace those that it changed
        yield from self.ask(names, fresh=fresh)
        if changes is not None:
            changes.publish()

    def everything(self, fresh: bool) -> Steps[dict[str, bytes]]:
        """Every key with its bytes."""
        changes = self.state.changes
        if changes is not None:
            changes.publish()
        yield from self.ask(None, fresh=fresh)
        if changes is not None:
            changes.publish()
        return {n: raw for n, raw in self.shown().items() if raw is not None and is_key(n)}

    def look_up(self, verbs: Sequence[Verb], fresh: bool = False) -> Steps[Sequence[Any]]:
        """Results of verbs that only read, by one read of the fields that are not remembered."""
        names = tuple([verb.name for verb in verbs if isinstance(verb, Get)])
        if len(names) == len(verbs):
            yield from self.fetch(names, fresh)
            present: dict[str, bytes] = {}
        else:
            present = yield from self.everything(fresh)
        shown = self.shown()
        everything = flat(present)
        return [shown.get(v.name) if isinstance(v, Get) else everything for v in verbs]

    def prefetch(self, names: tuple[str, ...], send: Callable[[Read], PendingRead]) -> Steps[None]:
        """Send the read for these fields; the first call that uses one takes its reply."""
        state = self.state
        if state.status is Status.GONE or not names:
            return
        yield from self.settle(needed=False)
        operation = state.read(names)
        if operation is not None:
            state.sent = Prefetch(operation, send(operation))

    def settle(self, *, needed: bool = True) -> Steps[None]:
        """Take the answer of a prefetch before anything else is asked, so that it does not
        overwrite newer values. ``needed``: raise an error of the store.
        """
        state, sent = self.state, self.state.sent
        if sent is None:
            return
        changes = state.changes
        if changes is not None:
            try:
                changes.publish()
            except BaseException:
                state.abandon()
                raise
        state.sent = None
        try:
            yield from self.follow(sent.operation, sent)
        except StoreUnavailable:
            if needed:
                raise
        if changes is not None:
            changes.publish()

    def shown(self) -> Mapping[str, Raw]:
        """The remembered fields, with the changes of ``request.session``."""
        changes, fields = self.state.changes, self.state.cache.fields
        return fields if changes is None else changes.shown(fields)

    # -- writes

    def prepare(self) -> Steps[None]:
        """Prepare a write: take the answer of a prefetch, and find out which of several tokens is
        the right one.
        """
        if self.state.sent is not None:
            yield from self.settle(needed=False)
        if self.state.several:
            yield from self.follow(self.state.choice())

    def step(self, life: Life) -> Steps[bool]:
        """Take this step of the session's life; whether there was a live session."""
        yield from self.prepare()
        yield from self.follow(self.state.write(life=life))
        return bool(self.state.done)

    def write(self, *verbs: Verb) -> Steps[Sequence[Any]]:
        """Write the verbs, after the changes of ``request.session`` to the same keys. Results of
        the verbs.
        """
        yield from self.prepare()
        changes = self.state.changes
        if changes is None:
            yield from self.follow(self.state.write(*verbs))
            return self.state.results
        everything = any(verb.names is None for verb in verbs)
        names = {name for verb in verbs for name in verb.names or ()}
        life, before = self._pending(changes, None if everything else names)
        return (yield from self._write_after(changes, life, before, verbs))

    def write_back(self, changes: PendingChanges) -> Steps[None]:
        """Write what changed in ``request.session`` and is ``due``, in one step.

        A change of who is signed in replaces the verifier and the CSRF token, as a login does,
        because a visitor who planted the session knows both.
        """
        try:
            yield from self.prepare()
            life, verbs = changes.take(None, exists=self.state.status is not Status.NONE)
            yield from self._write_after(changes, life, verbs, ())
        except BaseException:
            changes.forget()  # otherwise the page for the error would try it again
            raise

    def _pending(
        self, changes: PendingChanges, names: Collection[str] | None
    ) -> tuple[Life | None, Sequence[Verb]]:
        """The changes of ``request.session`` to these keys (None: to all) that are still to be
        written.
        """
        return changes.pending(names, exists=self.state.status is not Status.NONE)

    def _write_after(
        self,
        changes: PendingChanges,
        life: Life | None,
        before: Sequence[Verb],
        verbs: Sequence[Verb],
    ) -> Steps[Sequence[Any]]:
        """Write the changes of ``request.session``, and then the verbs. If that fails, the changes
        still have to be written. Results of the verbs.

        If a flash queue becomes too long, it is read and written anew without its oldest messages,
        and again if another request was faster.
        """
        state = self.state
        ready, queues = before, set[str]()
        try:
            for _ in range(TRIES):
                try:
                    yield from self.follow(state.write(*ready, *verbs, life=life))
                    return state.results[len(ready) :]
                except Refused as refused:
                    place: int = refused.args[0]
                    if place >= len(ready):
                        raise Refused(place - len(ready)) from None
                    queues.update(ready[place].names or ())
                    yield from self.ask(tuple(queues), fresh=True)
                    ready = changes.shortened(before, queues, state.id)
            raise TooManyConflicts(f"writing {', '.join(sorted(queues))}")
        except BaseException:
            # Changes for a session that is gone are dropped.
            if state.status is not Status.GONE:
                changes.restore(before)
            raise
