"""Commands about sessions: see them, end them."""

from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from ..api import SessionInfo
from .configuration import Configured
from .errors import CommandError
from .output import Output, ask

COLUMNS = {"id": 22, "user": 16, "created": 11, "last_seen": 11, "expires": 9}


def listed(arguments: Namespace, configured: Configured, output: Output) -> int:
    """All sessions, or those of one user."""
    user = arguments.user
    with configured.api() as api:
        found: Iterable[SessionInfo] = api.scan() if user is None else api.sessions_of(user)
        output.rows((_row(info) for info in found), COLUMNS)
    return 0


def show(arguments: Namespace, configured: Configured, output: Output) -> int:
    """One session: its times and keys, and with --values what it holds."""
    with configured.api() as api:
        info = api.describe(arguments.id, keys=True)
        values = api.values_of(arguments.id) if arguments.values else None
    if info is None:
        raise _unknown(arguments.id)
    sizes = info.keys or {}
    row = _row(info) | {"bytes": info.size, "keys": dict(sizes)}
    if values is not None:
        unreadable = "(cannot be read)"
        row |= {"values": {key: values.get(key, unreadable) for key in sizes}}
    output.one(row)
    return 0


def end(arguments: Namespace, configured: Configured, output: Output) -> int:
    """End one session."""
    with configured.api() as api:
        if not api.invalidate_id(arguments.id):
            raise _unknown(arguments.id)
    return _ended(output, 1)


def end_user(arguments: Namespace, configured: Configured, output: Output) -> int:
    """End every session of a user."""
    with configured.api() as api:
        return _ended(output, api.invalidate_user(arguments.user))


def end_all(arguments: Namespace, configured: Configured, output: Output) -> int:
    """End every session there is."""
    place = configured.settings.redis.place
    prefix = configured.settings.session.prefix
    if not (arguments.yes or ask(f"End every session on {place} whose key begins {prefix}:?")):
        raise CommandError("nothing was ended")
    with configured.api() as api, output.progress("sessions ended") as show:
        number = api.invalidate_all(progress=show)
    return _ended(output, number)


def _row(info: SessionInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "user": info.userid,
        "created": info.created,
        "last_seen": info.last_seen,
        "expires": info.expires,
        "login": info.login,
        "info": dict(info.info),
    }


def _unknown(id: str) -> CommandError:
    return CommandError(f"{id}: no live session has this id")


def _ended(output: Output, number: int) -> int:
    output.one({"ended": number})
    return 0
