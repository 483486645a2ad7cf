"""Whether the server's user has each right that the package needs, by trying them on a key that
does not exist: nothing is written."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import redis

from .findings import ERROR, OK, WARNING, Finding

Ask = Callable[..., Any]

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "hget": ("f",),
    "hmget": ("f",),
    "hset": ("f", "v", "a field without a value"),
    "hdel": ("f",),
    "hgetall": (),
    "exists": (),
    "pttl": (),
    "pexpire": ("1",),
    "pexpireat": ("1",),
    "zadd": ("no number", "m"),
    "zrem": ("m",),
    "zcard": (),
    "zscore": ("m",),
    "zmscore": ("m",),
    "zrevrange": ("0", "0"),
    "zrandmember": (),
}
"""Commands about a key, each with arguments that change nothing."""
OTHERS: dict[str, tuple[str, ...]] = {
    "time": (),
    "eval": ("return 1", "0"),
    "evalsha": ("0" * 40, "0"),
}
LISTING, TELLING, CONFIRMING = "scan", "publish", "wait"
FOR_SOME = {
    LISTING: "for list, stats, load and end-all",
    TELLING: "for watch",
    CONFIRMING: "for calls with durable=True",
}
"""Rights that only some commands of the tool, or some calls, need."""


def rights(
    ask: Ask,
    prefix: str,
    name: str | None,
    *,
    database: int = 0,
    publishes: bool = False,
    replicas: bool = True,
) -> Iterator[Finding]:
    """``ask`` sends a command and raises redis.ResponseError if the server refuses it.
    ``publishes``: whether the settings make writes publish notices. ``replicas``: whether durable
    calls ask the server about them.
    """
    key = f"{prefix}:doctor-{secrets.token_hex(4)}"
    tries = {command: (key, *more) for command, more in ARGUMENTS.items()} | OTHERS
    tries[LISTING] = ("0", "COUNT", "1")
    if replicas:
        tries[CONFIRMING] = ("0", "0")
    if publishes:
        tries["spublish"] = tries[TELLING] = (key, "nobody listens")
    said = {command: _refusal(ask, command, *more) for command, more in tries.items()}
    missing = [command for command, refusal in said.items() if refusal == "command"]
    user = name or "default"
    if "database" in said.values():
        found = f"user {user} may not use database {database}"
        yield Finding("rights", ERROR, found, of_database(name, database))
    if "key" in said.values():
        found = f"user {user} may not use keys that begin with {prefix}:"
        yield Finding("rights", ERROR, found, f"ACL SETUSER {user} ~{prefix}:*")
    if "channel" in said.values():
        found = f"user {user} may not publish to channels that begin with {prefix}:"
        yield Finding("rights", ERROR, found, f"ACL SETUSER {user} &{prefix}:*")
    needed = [command for command in missing if command not in FOR_SOME]
    if needed:
        advice = f"ACL SETUSER {user} " + " ".join(f"+{command}" for command in needed)
        if "evalsha" in needed:
            advice += "; a server that runs no scripts cannot hold sessions: each write is one"
        yield Finding("rights", ERROR, f"user {user} may not run {', '.join(needed)}", advice)
    for command in [command for command in missing if command in FOR_SOME]:
        advice = f"ACL SETUSER {user} +{command}, {FOR_SOME[command]}"
        yield Finding("rights", WARNING, f"user {user} may not run {command}", advice)
    if not any(said.values()):
        yield Finding("rights", OK, f"user {user} may run all that is needed")


def of_database(name: str | None, database: int) -> str:
    """What gives the user the right to a database. Rights to others, if any, would be replaced."""
    user = name or "default"
    return f"ACL SETUSER {user} db={database} and the user's other databases, or alldbs"


def _refusal(ask: Ask, *command: str) -> str:
    """The kind of right that is missing: ``command``, ``channel``, ``key``, ``database``, or empty
    if none is. A refusal in words that are not known counts as one of the command.
    """
    try:
        ask(*command)
    except redis.exceptions.NoPermissionError as error:
        kinds = ("command", "channel", "key", "database")
        return next((kind for kind in kinds if kind in str(error)), "command")
    except redis.ResponseError as error:  # the command was run, unless the server does not have it
        return "command" if str(error).startswith("unknown command") else ""
    return ""
