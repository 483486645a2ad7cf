"""Faults of real topologies under load: every error is ours, nobody gets another's data, no key is
left without an end. ``make faults`` prints what each costs."""

from collections.abc import Iterator
from typing import Any

import pytest
from crowd import FAILOVERS, through
from outages import EMPTIES, KILLS, QUICK, TOPOLOGIES, UNNOTICED, cost_of

from pyramid_altsession.stores.redis.failures import LULL

LINES = 4
"""Of the log, about one server; two more whenever trouble that comes and goes is told again."""


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, Any]]:
    """Each kind of topology, once it is wanted."""
    found: dict[str, Any] = {}
    yield found
    for servers in found.values():
        servers.stop()


@pytest.mark.volume
@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, (_, faults) in TOPOLOGIES.items() for name in faults]
)
def test_what_a_fault_costs(started: dict[str, Any], kind: str, name: str) -> None:
    """StoreUnavailable while it lasts; afterwards what was acknowledged is there, and what was
    ended is not, but for what a killed primary had not told its replica."""
    start, faults = TOPOLOGIES[kind]
    if kind not in started:
        started[kind] = start()
    servers = started[kind]
    getattr(servers, "settle", lambda: None)()
    cost = cost_of(name, faults[name], servers)
    assert (cost.untyped, cost.foreign, cost.endless, cost.resurrected_durably) == ([], 0, 0, 0)
    assert set(cost.errors) <= (set() if name in UNNOTICED else {"StoreUnavailable", "StoreFull"})
    assert max(cost.lines.values(), default=0) <= LINES + 2 * cost.window / LULL
    if kind in ("server", "network") or name not in KILLS:
        assert cost.resurrected == 0
        assert not cost.lost or name in EMPTIES


@pytest.mark.volume
@pytest.mark.process
@pytest.mark.parametrize("kind", FAILOVERS)
def test_a_crowd_of_processes_through_failovers(started: dict[str, Any], kind: str) -> None:
    """What was acknowledged when the servers had come to agree is there; before that, only what a
    replica confirmed is sure."""
    start, failovers = FAILOVERS[kind]
    if kind not in started:
        started[kind] = start()
    started[kind].settle()
    started[kind].suspect_after(QUICK)
    found = through(started[kind], failovers, lambda load: load.serves(50))
    cost = found.cost
    assert (cost.untyped, cost.foreign, cost.endless, cost.resurrected_durably) == ([], 0, 0, 0)
    assert set(cost.errors) <= {"StoreUnavailable"}
    assert found.unexplained == 0
