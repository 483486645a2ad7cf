"""The results as reStructuredText: one file for each part of docs/performance.rst."""

from collections.abc import Iterable, Sequence
from typing import Any

from awaitable import CONNECTIONS, HGET, READS, TASKS
from load import CLIENTS, WAITRESS
from peers import BEAKER, COOKIE, DICT, HOLDS_LITTLE, NACL, OURS, REDIS
from views import BY_HAND, RAW

Results = dict[str, Any]
LIBRARIES = (OURS, DICT, COOKIE, NACL, REDIS, BEAKER)
DOINGS = ("untouched", "read one", "read five", "write one", "read and write", "login")


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f".. list-table:: {caption}", "   :header-rows: 1", ""]
    for row in (header, *rows):
        lines += [f"   {'*' if at == 0 else ' '} - {cell}" for at, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def machine(results: Results) -> str:
    said = results["machine"]
    versions = ", ".join([f"{name} {version}" for name, version in said["versions"].items()])
    load = said["load"]
    quick = " This was a quick look of few rounds." if said["quick"] else ""
    return (
        f"Measured on {said['date']} on {said['cpus']} CPUs of the model *{said['model']}*, with"
        f" Python {said['python']}. The machine's load was {load[0]:.1f} when the run began and"
        f" {load[1]:.1f} when it ended; above 2, something else was running, and times suffer from"
        f" that, but not counts.{quick} Versions: {versions}.\n"
    )


def requests(results: Results) -> str:
    found = results["in process"]
    parts = [
        _over_bare(found, "pinned", "small"),
        _over_bare(found, "normal", "small"),
        _over_bare(found, "pinned", "64 kB"),
        _bare(found),
        _traffic(found["traffic"], "five small keys"),
        _traffic(found["large traffic"], "five small keys and one of 64 kB"),
        _frameworks(found),
    ]
    return "\n".join(parts)


_MODES = {
    "pinned": "CPU time of client and server, which share one CPU",
    "normal": "time on the wall, client and server on any CPU",
}
_CONTENTS = {"small": "five small keys", "64 kB": "five small keys and one of 64 kB"}


def _over_bare(found: Results, mode: str, content: str) -> str:
    taken = found[mode][content]
    base, floor = taken[""]["bare"]["us"], taken[""][RAW]["us"]
    rows = []
    for library in LIBRARIES:
        if content != "small" and library in HOLDS_LITTLE:
            rows.append([library, *("a cookie holds 4 kB" for _ in DOINGS)])
            continue
        row = [library]
        for doing in DOINGS:
            sample = taken[library][doing]
            over, half = sample["us"] - base, (sample["high"] - sample["low"]) / 2
            row.append(f"{over:.0f} ± {half:.0f} ({over / floor:.1f})")
        rows.append(row)
    return table(
        f"µs of a request over the bare application, ± half the distance between the quartiles, and"
        f" in raw HGET round trips; {_CONTENTS[content]}; {_MODES[mode]}",
        ("", *DOINGS),
        rows,
    )


def _bare(found: Results) -> str:
    rows = []
    by_hand = [f"{BY_HAND} {doing}" for doing in _BOTH]
    for name in (RAW, "bare", *by_hand, "bare, no request property"):
        samples = [found[mode]["small"][""][name] for mode in ("normal", "pinned")]
        rows.append(
            [name, *(f"{s['us']:.1f} ({s['low']:.1f} to {s['high']:.1f})" for s in samples)]
        )
    return table(
        "µs of one call of what the others are compared with, and quartiles",
        ("", "time on the wall", "CPU time of client and server"),
        rows,
    )


def _traffic(traffic: Results, content: str) -> str:
    rows = [
        [library, *(_said(traffic[library][doing]) for doing in DOINGS)]
        for library in LIBRARIES
        if library in traffic and library not in (COOKIE, NACL)
    ]
    return table(
        f"Packets / commands / bytes sent / bytes received of one request; {content}",
        ("", *DOINGS),
        rows,
    )


def _said(counted: dict[str, float]) -> str:
    names = ("packets", "commands", "sent", "received")
    return " / ".join([f"{counted[name]:.0f}" for name in names])


def _frameworks(found: Results) -> str:
    rows = []
    for name in found["pinned"]["frameworks"]:
        row = [name]
        for mode in ("normal", "pinned"):
            taken = found[mode]["frameworks"][name]
            row += [f"{taken[doing]['us'] - taken['bare']['us']:.0f}" for doing in _BOTH]
        rows.append(row)
    ours = [OURS + " on Pyramid"]
    for mode in ("normal", "pinned"):
        taken = found[mode]["small"]
        ours += [f"{taken[OURS][doing]['us'] - taken['']['bare']['us']:.0f}" for doing in _BOTH]
    return table(
        "µs of a request over a bare application of the same framework, five small keys",
        ("", "read one, wall", "write one, wall", "read one, CPU", "write one, CPU"),
        [ours, *rows],
    )


_BOTH = ("read one", "write one")


def load(results: Results) -> str:
    parts = []
    for server, by_clients in results.get("load", {}).items():
        names = list(next(iter(by_clients.values())))
        rows = [
            [
                name,
                *(
                    f"{taken[name]['rate']:.0f} ({taken[name]['share']:.0%}) / "
                    f"{taken[name]['p99_ms']:.1f}"
                    for taken in by_clients.values()
                ),
            ]
            for name in names
        ]
        header = ("", *(f"{clients} clients" for clients in by_clients))
        caption = f"{server}: requests a second (share of the bare application's) / p99 in ms"
        parts.append(table(caption, header, rows))
    return "\n".join(parts) or "Not measured: ``wrk`` was not there.\n"


def switching(results: Results) -> str:
    found = results.get("switching", {})
    if not found:
        return "Not measured: ``wrk`` was not there.\n"
    rows = [
        [name, *(f"{each['rate']:.0f} / {each['p99_ms']:.0f}" for each in taken.values())]
        for name, taken in found.items()
    ]
    return table(
        f"{WAITRESS}, {CLIENTS[-1]} clients, by the interpreter's switch interval: requests a"
        " second / p99 in ms",
        ("", *found["bare"]),
        rows,
    )


def growth(results: Results) -> str:
    found = results["growth"]
    size, sessions = found["size"], found["sessions"]
    parts = [
        table(
            "µs of CPU time of client and server over the bare application to read one small"
            " key, by the bytes stored beside it",
            ("", *(f"{int(each):,}" for each in size[OURS])),
            [[library, *(f"{us:.0f}" for us in taken.values())] for library, taken in size.items()],
        ),
        table(
            "The same by the keys of the session",
            ("", *(f"{int(each):,}" for each in found["keys"])),
            [[OURS, *(f"{us:.0f}" for us in found["keys"].values())]],
        ),
        table(
            "The same by the sessions on the server; and bytes of the server's memory for each"
            " session of five small keys, its part of the keyspace included",
            ("", *(f"{int(each):,}" for each in sessions["us"])),
            [
                ["µs", *(f"{us:.0f}" for us in sessions["us"].values())],
                ["bytes", *(f"{size:.0f}" for size in sessions["bytes"].values())],
            ],
        ),
        table(
            "Reads a second of threads that share the connections; normal",
            ("", *(f"{each} threads" for each in found["threads"][OURS])),
            [
                [name, *(f"{rate:.0f}" for rate in taken.values())]
                for name, taken in found["threads"].items()
            ],
        ),
    ]
    return "\n".join(parts)


def server(results: Results) -> str:
    found = results["server"]
    parts = []
    for name, taken in found["time"].items():
        version = found["memory"][name]["version"]
        rows = [
            [library, *(f"{each[doing]:.1f}" if doing in each else "" for doing in _BOTH)]
            for library, each in taken.items()
        ]
        caption = f"µs of the server's time for one request, by its own count; {name}, {version}"
        parts.append(table(caption, ("", *_BOTH), rows))
    rows = [
        [f"{name}, {each['version']}", f"{each['bytes']:.0f}", f"{each['memory usage']:.0f}"]
        for name, each in found["memory"].items()
    ]
    parts.append(
        table(
            "Bytes of the server's memory for a session with five small keys: as its used_memory"
            " grew, and as MEMORY USAGE says",
            ("", "used_memory", "MEMORY USAGE"),
            rows,
        )
    )
    client = found["client"]
    grown = client["after_kb"] - client["before_kb"]
    parts.append(
        f"The application's process grew by {grown} kB over {client['requests']:,} requests that"
        " read and write.\n"
    )
    return "\n".join(parts)


def start(results: Results) -> str:
    found = results["start"]
    return (
        f"Importing the package takes {found['import']:.0f} ms where Pyramid and redis-py are"
        f" imported already; including it adds {found['include']:.1f} ms to making the"
        " application.\n"
    )


def awaited(results: Results) -> str:
    calls, crowd = results["awaitable"]["calls"], results["awaitable"]["crowd"]
    rows = [
        [
            f"``redis.asyncio``: {name}" if name in _THEIRS else f"{OURS}: {name}",
            *(
                f"{each[clock]:.1f} ({each[clock] / calls[HGET][clock]:.2f})"
                for clock in ("wall", "cpu")
            ),
        ]
        for name, each in calls.items()
    ]
    ms = {name: f"{each:,.0f}" for name, each in crowd.items()}
    return (
        table(
            "µs of one awaited call, and in those of ``hget`` of ``redis.asyncio``; client and"
            " server share one CPU; CPU is the client's",
            ("", "time on the wall", "CPU time"),
            rows,
        )
        + f"\n{TASKS:,} tasks share {CONNECTIONS} connections, and each reads {READS} times: a"
        f" read takes {ms['median']} ms in the median, {ms['p99']} ms at p99 and {ms['most']} ms at"
        f" most; a task is through after {ms['least of a task']} to {ms['most of a task']} ms.\n"
    )


_THEIRS = (HGET, "hset")


def bars(results: Results) -> str:
    rows = [
        [bar["what"], f"{bar['found']:.2f}", f"{bar['allowed']:g}", bar["verdict"]]
        for bar in results["bars"]
    ]
    taken = results["in process"]["pinned"]["small"]
    base = taken[""]["bare"]["us"]
    parts = []
    for doing in _BOTH:
        by_hand = taken[""][f"{BY_HAND} {doing}"]["us"] - base
        share = by_hand / (taken[COOKIE][doing]["us"] - base)
        parts.append(f"{by_hand:.0f} µs for *{doing}*, {share:.2f} of what the signed cookie adds")
    return (
        table("The bars of this run", ("", "found", "at most", ""), rows)
        + "\nWithout any library, a view that sends the same packet over a bare socket and does"
        f" nothing with the reply adds, pinned: {'; '.join(parts)}.\n"
    )


PAGES = {
    "machine": machine,
    "bars": bars,
    "requests": requests,
    "load": load,
    "switching": switching,
    "growth": growth,
    "server": server,
    "start": start,
    "awaitable": awaited,
}
