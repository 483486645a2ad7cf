"""What a call costs on a cluster, in calls on one server.

    make bench            all of it
    python benchmarks/cluster.py --rounds 5

Three primaries and one server, all over TCP, all on the CPU of the client, and none with a replica:
what is compared is the way through the package and the node, not the work of replication. Rounds
are interleaved, figures are medians. Times of separate runs are not comparable, the ratios are.
"""

import itertools
from collections.abc import Callable, Iterable

from common import cluster, medians, one_cpu, options, port

from pyramid_altsession.api import OpenSession, SessionAPI

ALLOWED = 1.3
"""What a read and a write may cost, in those on one server."""
SESSIONS = 30
"""Which are spread over the nodes."""


def each(
    sessions: Iterable[OpenSession], call: Callable[[OpenSession], object]
) -> Callable[[], object]:
    """The call, on one session after the other."""
    turn = itertools.cycle(sessions)
    return lambda: call(next(turn))


def main() -> None:
    given = options(__doc__)
    with one_cpu(), port() as alone, cluster() as ports:
        urls = {
            "one server": f"redis://127.0.0.1:{alone}",
            "cluster": f"redis+cluster://127.0.0.1:{ports[0]}",
        }
        apis = {name: SessionAPI.from_settings({"redis.url": url}) for name, url in urls.items()}
        calls = {}
        for name, api in apis.items():
            sessions = [api.create({"n": 0}) for _ in range(SESSIONS)]
            calls[f"read, {name}"] = each(sessions, lambda session: session.get("n", fresh=True))
            calls[f"write, {name}"] = each(sessions, lambda session: session.set("n", 1))
        median = medians(calls, given.rounds, given.times)
        for api in apis.values():
            api.close()
    for kind in ("read", "write"):
        one, many = (median[f"{kind}, {name}"] for name in urls)
        verdict = "held" if many / one <= ALLOWED else "missed"
        print(f"{kind:6} {one * 1e6:7.1f} µs on one server, {many * 1e6:7.1f} µs on a cluster:"
              f" {many / one:.2f} x, and {ALLOWED} x is allowed: {verdict}")  # fmt: skip


if __name__ == "__main__":
    main()
