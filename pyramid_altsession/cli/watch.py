"""``altsession CONFIG_URI watch``: sign-ins, logouts and ended sessions, as they happen."""

import math
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

import redis

from ..config.converters import PREFIX
from ..errors import StoreUnavailable
from ..protocol.notices import parse_event
from .configuration import Configured
from .errors import CommandError
from .output import Output, Row

COLUMNS = {"time": 8, "event": 12, "id": 22, "user": 16}
PAUSE = 0.25
"""Seconds between two attempts to reconnect."""
PATIENCE = 10.0
"""Seconds after which the command gives up."""


class Speaker(Protocol):
    """One server. ``hear`` yields None when it has subscribed to the channel, and then what is
    published there; it raises redis.ResponseError if the server refuses.
    """

    def hear(self, channel: str, wait: float) -> Iterator[bytes | None]: ...


@runtime_checkable
class Heard(Protocol):
    """A store on servers that publish what happens to its sessions. Every server publishes the
    events of all sessions.
    """

    def close(self) -> None: ...

    def nodes(self) -> Sequence[Speaker]: ...


def watch(arguments: Namespace, configured: Configured, output: Output) -> int:
    """Show what happens to sessions until the user interrupts it; then the exit code is 0."""
    if configured.settings.session.notify == "none":
        wanted = f"{PREFIX}session.notify = life or keys"
        raise CommandError(f"watch wanted {wanted} wherever sessions are written, found none")
    store = configured.store()
    assert isinstance(store, Heard)
    with closing(store), suppress(KeyboardInterrupt):
        output.live(of_user(session_events(store, configured), arguments.user), COLUMNS)
    return 0


def of_user(rows: Iterable[Row], user: str | None) -> Iterator[Row]:
    """The rows about one user (None: about all), and those about the connection."""
    for row in rows:
        if user is None or row["id"] is None or row["user"] == user:
            yield row


def session_events(store: Heard, configured: Configured) -> Iterator[Row]:
    """Yields a row for each event. The first is ``connected``; between ``disconnected`` and the
    next ``connected`` events may be missing.

    Raises StoreUnavailable at once if it cannot connect at first, and after PATIENCE if it lost the
    server later.
    """
    prefix, wait = configured.settings.session.prefix, configured.settings.redis.timeout
    hears, lost = False, -math.inf
    while True:
        failure = None
        for node in store.nodes():
            heard = node.hear(f"{prefix}:", wait)
            try:
                while True:
                    said = next(heard)
                    hears = True
                    if said is None:
                        yield _row("connected")
                    elif event := parse_event(said):
                        yield _row(*event)
            except redis.ResponseError as error:
                user = configured.settings.redis.username or "default"
                advice = f"ACL SETUSER {user} +subscribe &{prefix}:*"
                raise CommandError(f"watch: {error}; {advice}") from None
            except StoreUnavailable as error:
                failure = error
                if hears:
                    hears, lost = False, time.monotonic()
                    yield _row("disconnected")
        if failure is not None and time.monotonic() - lost > PATIENCE:
            raise failure
        time.sleep(PAUSE)


def _row(event: str, id: str | None = None, userid: str | None = None) -> dict[str, Any]:
    return {"time": datetime.now(UTC), "event": event, "id": id, "user": userid}
