"""Carry out what a session asks, learn from the answers, and go on until nothing has to follow.

``AltSession`` and ``request.session`` are two views of the same state; both work through this.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import StoreUnavailable
from .protocol.changes import PendingChanges
from .protocol.fields import Raw, is_key
from .protocol.lifecycle import Life
from .protocol.messages import Read, Reply, Write
from .protocol.state import PendingEvent, SessionState, Status
from .protocol.verbs import DataVerb, Everything, Refused, Verb

if TYPE_CHECKING:
    from .interfaces import Store

MAX_STEPS = 16
"""Operations that one call may need; a server whose answers ask for more makes no sense."""
WRITE_TRIES = 100
"""How often what ``request.session`` has to write is tried, where others are faster."""


class Driver:
    """The way between one session's state and the store. It belongs to one thread."""

    __slots__ = ("notify", "state", "store")

    def __init__(
        self, store: "Store", state: SessionState, notify: Callable[[PendingEvent], None]
    ) -> None:
        self.store = store
        self.state = state
        self.notify = notify

    def execute(
        self, operation: Read | Write | None, ask: Callable[[Read | Write], Reply] | None = None
    ) -> tuple[int, Sequence[Any]]:
        """Results of the step of life and of the verbs. Subscribers are told when all is done, as
        they may use the session themselves. ``ask``: who has the first reply."""
        state, execute = self.state, self.store.execute
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
                    self.notify(event)

    def ask(
        self, names: tuple[str, ...] | None, *, touch: bool = True, fresh: bool = False
    ) -> None:
        """Fetch what is not remembered."""
        state = self.state
        if state.sent is not None:
            self.settle()
        self.execute(state.read(names, touch=touch, fresh=fresh))

    def settle(self, *, needed: bool = True) -> None:
        """Take the answer of a prefetch, before anything else is asked: what comes later must not
        be overwritten by it. Not ``needed``: who writes can do without it."""
        state = self.state
        if state.sent is None:
            return
        changes = state.changes
        if changes is not None:
            try:
                changes.publish()
            except BaseException:
                state.abandon()
                raise
        (operation, sending), state.sent = state.sent, None
        try:
            self.execute(operation, lambda _: sending.result(operation))
        except StoreUnavailable:
            if needed:
                raise
        if changes is not None:
            changes.publish()

    def prepare(self) -> None:
        """What has to come before a write: the answer of a prefetch, and which token is the right
        one, where there are several."""
        state = self.state
        if state.sent is not None:
            self.settle(needed=False)
        if state.several:
            self.execute(state.choice())

    def shown(self) -> Mapping[str, Raw]:
        """What is remembered, as ``request.session`` shows it too."""
        changes, fields = self.state.changes, self.state.cache.fields
        return fields if changes is None else changes.shown(fields)

    def step(self, life: Life) -> bool:
        """Take this step of the session's life; whether there was a live session."""
        self.prepare()
        return bool(self.execute(self.state.write(life=life))[0])

    def write(self, *verbs: Verb) -> Sequence[Any]:
        self.prepare()
        changes = self.state.changes
        if changes is None:
            return self.execute(self.state.write(*verbs))[1]
        everything = any(isinstance(verb, Everything) for verb in verbs)
        names = {verb.name for verb in verbs if isinstance(verb, DataVerb)}
        life, before = self._pending(changes, None if everything else names)
        return self.write_after(changes, life, before, verbs)

    def write_after(
        self,
        changes: PendingChanges,
        life: Life | None,
        before: Sequence[Verb],
        verbs: Sequence[Verb],
    ) -> Sequence[Any]:
        """Write what ``request.session`` still had to write, and then the verbs; if that fails,
        it still has to. Results of the verbs.

        Where a queue does not take its messages, it is read and written anew without its oldest
        ones, again if somebody was faster.
        """
        ready, queues = before, set[str]()
        try:
            for _ in range(WRITE_TRIES):
                try:
                    write = self.state.write(*ready, *verbs, life=life)
                    return self.execute(write)[1][len(ready) :]
                except Refused as refused:
                    place: int = refused.args[0]
                    if place >= len(ready):
                        raise Refused(place - len(ready)) from None
                    queues.add(ready[place].name)  # type: ignore[union-attr]
                    self.ask(tuple(queues), fresh=True)
                    ready = changes.shortened(before, queues, self.state.id)
            raise RuntimeError(f"{sorted(queues)}: somebody else was faster {WRITE_TRIES} times")
        except BaseException:
            if self.state.status is not Status.GONE:  # else it was meant for what is no more
                changes.restore(before)
            raise

    def _pending(
        self, changes: PendingChanges, names: Collection[str] | None
    ) -> tuple[Life | None, Sequence[Verb]]:
        """What ``request.session`` still has to write of these keys (None: of all)."""
        return changes.pending(names, exists=self.state.status is not Status.NONE)

    def fetch(self, names: tuple[str, ...], fresh: bool) -> None:
        if names:
            changes = self.state.changes
            if changes is not None and fresh:
                changes.publish()  # before newer values come in, which are not what it changed
            self.ask(names, fresh=fresh)
            if changes is not None:
                changes.publish()

    def everything(self, fresh: bool) -> dict[str, bytes]:
        changes = self.state.changes
        if changes is not None:
            changes.publish()
        self.ask(None, fresh=fresh)
        if changes is not None:
            changes.publish()
        return {n: raw for n, raw in self.shown().items() if raw is not None and is_key(n)}

    def write_back(self, changes: PendingChanges) -> None:
        """Write what changed in ``request.session``, in one step; nothing if nothing did.

        A change of who is signed in replaces the verifier, and the CSRF token, as a login does:
        who planted the session knows both.
        """
        try:
            self.prepare()
            life, verbs = self._pending(changes, None)
            if verbs:
                self.write_after(changes, life, verbs, ())
        except BaseException:
            changes.forget()  # or the page that tells so would try it again
            raise
