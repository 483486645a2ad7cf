"""What one request pays for its session: ours and the other libraries', in one process.

    python benchmarks/in_process.py --rounds 5 --times 50

Each request goes through the whole WSGI application, whose browser keeps cookies. Microseconds are
over the same application without sessions. ``normal``: time on the wall, on any CPU. ``pinned``:
CPU time of this process and the server together, on one CPU.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hiredis
from common import (
    Browser,
    Calls,
    Clock,
    application,
    cpu_of_both,
    interleaved,
    options,
    pin,
    process_of,
    server,
)
from peers import DICT, FACTORIES, FRAMEWORKS, HOLDS_LITTLE, OURS, browsers
from views import BY_HAND, RAW, Floor, bare, plain

MICRO = 1e6


def measured(rounds: int, times: int) -> dict[str, Any]:
    """Everything, on the CPUs that the system gives, and then pinned to one."""
    found: dict[str, Any] = {}
    with server() as path:
        calls = {library: dict(browsers(library, path)) for library in (OURS, DICT, *FACTORIES)}
        large = {
            library: dict(browsers(library, path, large=True))
            for library in (OURS, DICT, *FACTORIES)
            if library not in HOLDS_LITTLE
        }
        frameworks = {name: dict(make(path)) for name, make in FRAMEWORKS.items()}
        found["traffic"] = {
            library: {name: traffic(call) for name, call in each.items()}
            for library, each in calls.items()
        }
        found["large traffic"] = {
            library: {name: traffic(call) for name, call in each.items()}
            for library, each in large.items()
        }
        floor = Floor(path)
        raw: Calls = {
            RAW: floor.ask,
            "bare": Browser(application(bare, {})),
            **{
                f"{BY_HAND} {doing}": Browser(application(floor.view(packet), {}))
                for doing, packet in packets(calls[OURS]).items()
            },
            "bare, no request property": Browser(application(plain, {}, property=False)),
        }
        for mode, clock in (("normal", time.perf_counter), ("pinned", cpu_of_both(path))):
            if mode == "pinned":
                pin(0, process_of(path))
            found[mode] = {
                "small": flat(raw, calls, rounds, times, clock),
                "64 kB": flat(raw, large, rounds, max(times // 3, 1), clock),
                "frameworks": flat({}, frameworks, rounds, max(times // 3, 1), clock),
            }
    return found


def flat(
    raw: Calls,
    calls: dict[str, dict[str, Callable[[], object]]],
    rounds: int,
    times: int,
    clock: Clock,
) -> dict[str, Any]:
    """{library: {what: {"us", "low", "high"}}}, all in the same rounds."""
    together: dict[str, Callable[[], object]] = {f"\t{name}": call for name, call in raw.items()}
    for library, each in calls.items():
        together |= {f"{library}\t{name}": call for name, call in each.items()}
    found: dict[str, Any] = {}
    for name, sample in interleaved(together, rounds, times, clock).items():
        library, _, what = name.partition("\t")
        found.setdefault(library, {})[what] = {
            "us": sample.median * MICRO,
            "low": sample.low * MICRO,
            "high": sample.high * MICRO,
        }
    return found


# -- what goes over the wire


@contextmanager
def counting() -> Iterator[tuple[list[bytes], list[int]]]:
    """What sockets of this process send meanwhile, and how many bytes they receive."""
    sent: list[bytes] = []
    received: list[int] = []
    kept = {name: getattr(socket.socket, name) for name in ("send", "sendall", "recv", "recv_into")}

    def sending(name: str) -> Callable[..., Any]:
        def send(self: socket.socket, data: Any, *flags: int) -> Any:
            sent.append(bytes(data))
            return kept[name](self, data, *flags)

        return send

    def receiving(name: str) -> Callable[..., Any]:
        def receive(self: socket.socket, *arguments: Any) -> Any:
            got = kept[name](self, *arguments)
            received.append(got if isinstance(got, int) else len(got))
            return got

        return receive

    for name in kept:
        setattr(socket.socket, name, (sending if "send" in name else receiving)(name))
    try:
        yield sent, received
    finally:
        for name in kept:
            delattr(socket.socket, name)


def packets(calls: Calls) -> dict[str, bytes]:
    """What one read and one write send, so that a view without the library can send the same."""
    found = {}
    for doing in ("read one", "write one"):
        with counting() as (sent, _):
            calls[doing]()
        (found[doing],) = sent
    return found


def traffic(call: Callable[[], object], times: int = 20) -> dict[str, float]:
    """Packets, commands and bytes of one request that has been made before."""
    for _ in range(3):
        call()
    with counting() as (sent, received):
        for _ in range(times):
            call()
    reader = hiredis.Reader()
    for packet in sent:
        reader.feed(packet)
    commands = sum(1 for _ in iter(reader.gets, False))
    return {
        "packets": len(sent) / times,
        "commands": commands / times,
        "sent": sum(map(len, sent)) / times,
        "received": sum(received) / times,
    }


def main() -> None:
    given = options(__doc__)
    found = measured(given.rounds, given.times)
    for mode in ("normal", "pinned"):
        base = found[mode]["small"][""]["bare"]["us"]
        for library, each in found[mode]["small"].items():
            line = {what: round(sample["us"] - base, 1) for what, sample in each.items()}
            print(mode, library or "raw", json.dumps(line))


if __name__ == "__main__":
    main()
