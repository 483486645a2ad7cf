"""What plain and awaitable sessions share: everything without I/O."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, Never, TypeVar

from .config.table import SessionSettings
from .protocol.calls import Calls
from .protocol.commands import Commands
from .protocol.dialogue import Dialogue
from .protocol.fields import CREATED, LOGIN
from .protocol.state import PendingEvent, SessionState
from .protocol.steps import Steps
from .protocol.verbs import Everything, Get, Verb

AnyStore = TypeVar("AnyStore")
AnyDriver = TypeVar("AnyDriver", bound="DriverBase[Any]")


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


def _no_dict(call: str) -> TypeError:
    return TypeError(f"an AltSession is no dict: use {call}")


class SessionBase(Generic[AnyDriver]):
    """The part that plain and awaitable sessions share: everything without I/O."""

    __slots__ = ("_settings", "commands", "driver")

    def __init__(self, driver: AnyDriver, commands: Commands, settings: SessionSettings) -> None:
        self.driver = driver
        self.commands = commands
        self._settings = settings

    @property
    def _calls(self) -> Calls:
        return Calls(self.driver.dialogue, self.commands, self._settings)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.driver.state.status.name.lower()} {self.id}>"

    # It is no dict, because nothing is loaded or saved unless a call asks for it. The error names
    # the call to use instead, and because of ``Never`` type checkers report it too.

    def __getitem__(self, key: Never) -> Never:
        raise _no_dict(f'get("{key}")')

    def __setitem__(self, key: Never, value: Never) -> Never:
        raise _no_dict(f'set("{key}", …)')

    def __delitem__(self, key: Never) -> Never:
        raise _no_dict(f'remove("{key}")')

    def __contains__(self, key: Never) -> Never:
        raise _no_dict(f'exists("{key}")')

    def __iter__(self) -> Never:
        raise _no_dict("keys()")

    @property
    def id(self) -> str | None:
        """The session's public handle, safe to log. None until the session was seen alive or
        made in this request. No round trip."""
        return self.driver.state.id

    @property
    def new(self) -> bool:
        """Whether this request made the session. No round trip."""
        return self.driver.state.new

    def _born(self) -> datetime | None:
        """The time of creation, if it was fetched."""
        raw = self.driver.state.cache.fields.get(CREATED)
        return None if raw is None else datetime.fromtimestamp(int(raw) / 1000, UTC)

    def _age_of_login(self) -> float | None:
        """Seconds from the login to the last reply, if both are known."""
        raw, now = self.driver.state.cache.fields.get(LOGIN), self.driver.state.now
        return None if raw is None or now is None else (now - int(raw)) / 1000

    def _steps_together(self, verbs: Sequence[Verb]) -> Steps[Sequence[Any]]:
        """The steps of a batch: one read, if it contains nothing else."""
        dialogue = self.driver.dialogue
        if all(isinstance(verb, Get | Everything) for verb in verbs):
            return dialogue.look_up(verbs)
        return dialogue.write(*verbs)
