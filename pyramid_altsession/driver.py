"""Carries out the calls of a session with a store that answers at once."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .protocol.contract import Store
from .protocol.dialogue import Dialogue
from .protocol.lifecycle import Life
from .protocol.messages import Read, Write
from .protocol.state import PendingEvent, SessionState
from .protocol.steps import Steps, run
from .protocol.verbs import Verb

T = TypeVar("T")
AnyStore = TypeVar("AnyStore")


class DriverBase(Generic[AnyStore]):
    """Connects one session's state with the store.

    Subscribers are told of a call's events when it is over, as they may use the session
    themselves.
    """

    __slots__ = ("notify", "state", "store")

    def __init__(
        self, store: AnyStore, state: SessionState, notify: Callable[[PendingEvent], None]
    ) -> None:
        self.store = store
        self.state = state
        self.notify = notify

    @property
    def dialogue(self) -> Dialogue:
        """The steps of calls. Made when first used, as most requests do not need them."""
        return Dialogue(self.state)

    def _tell(self) -> None:
        events, self.state.events = self.state.events, ()
        for event in events:
            self.notify(event)


class Driver(DriverBase[Store]):
    """It belongs to one thread."""

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
