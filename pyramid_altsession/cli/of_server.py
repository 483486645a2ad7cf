"""The doctor's findings about one server, from INFO and CONFIG GET."""

import re
from collections.abc import Iterator, Mapping

from .findings import ERROR, OK, WARNING, Finding

Said = Mapping[str, str]
OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
LISTPACK = 512
LAG = 10
"""Seconds without news of a replica after which it counts as lost."""
FULL = 0.8
"""The part of maxmemory in use from which on the doctor warns."""
CONFIGURATION = (
    "save",
    "timeout",
    "hash-max-listpack-value",
    "min-replicas-to-write",
)
"""What CONFIG GET is asked for."""


def info_of(text: bytes) -> dict[str, str]:
    """INFO's reply."""
    lines = [line.partition(":") for line in text.decode().splitlines()]
    return {name: value for name, sign, value in lines if sign}


def of_server(info: Said, config: Said | None) -> Iterator[Finding]:
    """The findings. ``config``: None if the server does not allow CONFIG GET. Hosted servers may
    tell only a part of it, and the findings about the rest are left out.
    """
    yield version(info)
    yield persistence(info, config)
    yield eviction(info)
    yield memory(info)
    yield from replication(info, config)
    if config and "hash-max-listpack-value" in config:
        yield listpack(config)
    if config and "timeout" in config:
        yield idle(config)


def version(info: Said) -> Finding:
    kind = info.get("server_name", "redis")
    found = info.get(f"{kind}_version", info["redis_version"])
    oldest = OLDEST.get(kind, OLDEST["redis"])
    if tuple([int(part) for part in re.findall(r"\d+", found)[:2]]) < oldest:
        wanted = ".".join(map(str, oldest))
        return Finding("version", ERROR, f"{kind} {found}", f"{kind} {wanted} or later is needed")
    return Finding("version", OK, f"{kind} {found}")


def persistence(info: Said, config: Said | None) -> Finding:
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        return Finding("persistence", ERROR, f"{failed[0]} is err", "see the server's log and disk")
    if info["aof_enabled"] == "1":
        return Finding("persistence", OK, "append-only file")
    if config is None or "save" not in config:
        return Finding("persistence", WARNING, "no append-only file", "see whether it saves at all")
    if config["save"]:
        advice = "what came after the last snapshot is lost; appendonly yes loses a second at most"
        return Finding("persistence", OK, f"snapshots ({config['save']})", advice)
    if int(info.get("connected_slaves", "0")) > 0:
        advice = "a primary that restarts comes back empty, and its replicas drop all they have:"
        advice += " set appendonly yes"
        return Finding("persistence", ERROR, "none, with replicas", advice)
    advice = "a restart ends every session; set appendonly yes"
    return Finding("persistence", WARNING, "none", advice)


def eviction(info: Said) -> Finding:
    policy = info["maxmemory_policy"]
    if policy == "noeviction":
        return Finding("eviction", OK, policy)
    advice = "a full server ends sessions that are in use; set maxmemory-policy noeviction"
    return Finding("eviction", ERROR, policy, advice)


def memory(info: Said) -> Finding:
    used, most = int(info["used_memory"]), int(info["maxmemory"])
    if not most:
        advice = "set maxmemory, or the system ends the server when there is no more"
        return Finding("memory", WARNING, f"{_megabytes(used)}, without a limit", advice)
    found = f"{_megabytes(used)} of {_megabytes(most)}"
    if used >= most:
        return Finding("memory", ERROR, f"{found}: full", "no session can begin; raise maxmemory")
    if used >= FULL * most:
        return Finding("memory", WARNING, found, "raise maxmemory before it is full")
    return Finding("memory", OK, found)


def _megabytes(number: int) -> str:
    return f"{number / 2**20:.1f} MiB"


def replication(info: Said, config: Said | None) -> Iterator[Finding]:
    if info["role"] != "master":
        advice = "name the primary in altsession.redis.url"
        yield Finding("replication", ERROR, "a read-only replica", advice)
        return
    replicas = [_replica(value) for name, value in info.items() if re.fullmatch(r"slave\d+", name)]
    late = [r for r in replicas if r["state"] != "online" or int(r["lag"]) > LAG]
    for replica in late:
        place = f"{replica['ip']}:{replica['port']}"
        found = f"{place} is {replica['state']}, last heard of {replica['lag']} s ago"
        yield Finding("replication", WARNING, found, "see that replica's log")
    if not late:
        yield Finding("replication", OK, _number(len(replicas)))
    if replicas and config and "min-replicas-to-write" in config:
        yield min_replicas(config)


def _number(replicas: int) -> str:
    return {0: "no replica", 1: "1 replica"}.get(replicas, f"{replicas} replicas")


def _replica(value: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in value.split(",")]
    return {name: held for name, _, held in pairs}


def min_replicas(config: Said) -> Finding:
    number = config["min-replicas-to-write"]
    if number == "0":
        advice = "a primary that is cut off takes writes that will be lost, logouts included; set 1"
        return Finding("min-replicas-to-write", WARNING, number, advice)
    return Finding("min-replicas-to-write", OK, number)


def listpack(config: Said) -> Finding:
    found = config["hash-max-listpack-value"]
    if int(found) < LISTPACK:
        advice = f"longer values double a session's memory; {LISTPACK} is a good number"
        return Finding("hash-max-listpack-value", WARNING, found, advice)
    return Finding("hash-max-listpack-value", OK, found)


def idle(config: Said) -> Finding:
    found = config["timeout"]
    if found != "0":
        advice = "the server closes idle connections, and calls have to connect anew; set 0"
        return Finding("timeout", WARNING, found, advice)
    return Finding("timeout", OK, found)
