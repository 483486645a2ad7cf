"""Which cases of the tests run, in which order, and which of them coverage counts.

Many tests take the fixture ``store`` and so have a case for each kind of store. On a developer's
machine each case runs in memory and on Valkey, and the other kinds of store share the cases among
them. In CI, or where ALTSESSION_EVERY_STORE is set, every case runs on every store.

``make quick`` leaves out the tests marked ``volume``, ``process``, ``slow`` and ``repeated`` (see
pyproject.toml); this module sets ``process`` and ``repeated`` where a test's parameters say so.

tests/conftest.py takes over the hooks from here.
"""

import gc
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage

import pyramid_altsession

__all__ = [
    "pytest_collection_modifyitems",
    "pytest_deselected",
    "pytest_generate_tests",
    "pytest_runtest_call",
    "pytest_runtestloop",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
]

# -- on which stores


STORES = ["memory", "valkey-unix", "redis7"]
TOPOLOGIES = ["valkey-tcp", "redis7tls", "sentinel-tcp", "cluster-tcp"]
SEALED = ["sealed-memory", "sealed-valkey-unix"]
MORE_STORES = {
    # The contract and users' sessions are tried on every topology; other tests are not about where
    # the servers are.
    "test_contract": TOPOLOGIES,
    "test_limits": TOPOLOGIES,
    "test_users": TOPOLOGIES,
    # What a session promises holds over sealed stores too.
    "test_session": ["sealed-valkey-unix"],
    "test_attach": ["cluster-tcp", *SEALED],
    "test_sync": SEALED,
}
EVERY_CASE = ["memory", "valkey-unix"]
EVERY_CASE_ON_REDIS = ("test_contract", "test_limits", "test_value_ttl")
"""Where the server's own words matter; elsewhere Redis 7.0 is one of those that share the cases."""


def has_every_case(kind: str, item: pytest.Item) -> bool:
    """Whether every case of the test runs on this kind of store, wherever the tests run."""
    on_redis = item.path.stem in EVERY_CASE_ON_REDIS
    return kind in EVERY_CASE or (kind == "redis7" and on_redis)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which stores the tests of a module are about."""
    if "store" in metafunc.fixturenames and not hasattr(metafunc.module, "store"):
        kinds = STORES + MORE_STORES.get(metafunc.module.__name__, [])
        metafunc.parametrize("store", kinds, indirect=True)


# -- which cases, and in what order


def starts_processes(item: pytest.Item) -> bool:
    """Whether the test starts a process of its own."""
    return "own_server" in getattr(item, "fixturenames", ())


def company(item: pytest.Item) -> str:
    """Tests of the same one follow each other on one worker, as what they share takes long to
    start, or costs as long as it is there: a browser, servers, an application; "": none."""
    names = getattr(item, "fixturenames", ())
    if "browser" in names:
        return "browser"
    for kind in ("sentinel", "cluster"):
        if kind_of(item).startswith(kind) or f"{kind}_server" in names:
            return kind
    return order_of_includes(item)


def order_of_includes(item: pytest.Item) -> str:
    """The order of includes of a test, the applications of which several tests use."""
    params = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
    return "-".join(params.get("includes", ()))


def repeats_another(item: pytest.Item) -> bool:
    """Whether the case repeats one that runs on Valkey (with awaitable sessions: in memory) without
    pyramid_retry."""
    if hasattr(item.module, "ORIGINAL"):  # type: ignore[attr-defined]
        return kind_of(item) not in ("", "memory")
    given = getattr(item, "callspec", None)
    again = given and any(value in ("redis7", "retried") for value in texts(given.params))
    return kind_of(item) not in ("", "valkey-unix") or bool(again)


def texts(params: Mapping[str, object]) -> list[str]:
    return [value for value in params.values() if isinstance(value, str)]


def left_out(item: pytest.Item) -> bool:
    """Whether the test's module leaves out this case, by its function ``left_out``."""
    given = getattr(item, "callspec", None)
    rule = getattr(item.module, "left_out", None)  # type: ignore[attr-defined]
    return left_to_the_original(item) or bool(rule and given and rule(given.params))


def left_to_the_original(item: pytest.Item) -> bool:
    """Whether this is a test of the plain stores and sessions that says nothing about awaitable
    ones, for which tests/aio runs the others once more. test_async has its own tests of prefetches
    and of ``repr``."""
    if not hasattr(item.module, "ORIGINAL"):  # type: ignore[attr-defined]
        return False
    own = "prefetch" in item.name or item.name.startswith("test_repr_")
    return own or "store" not in item.fixturenames  # type: ignore[attr-defined]


def share_cases_among_stores(items: list[pytest.Item]) -> list[pytest.Item]:
    """Leave out cases, so that those kinds of store which do not have every case have each case
    once together, and at least one each."""
    if os.environ.get("CI") or os.environ.get("ALTSESSION_EVERY_STORE"):
        return items
    cases: dict[str, dict[Case, int]] = {}
    others: dict[str, dict[str, int]] = {}
    for item in items:
        if kind := kind_of(item):
            seen = cases.setdefault(test_of(item), {})
            seen.setdefault(case_of(item), len(seen))
            if not has_every_case(kind, item):
                found = others.setdefault(test_of(item), {})
                found.setdefault(kind, len(found))

    def runs(item: pytest.Item) -> bool:
        kind = kind_of(item)
        if not kind or has_every_case(kind, item):
            return True
        seen, found = cases[test_of(item)], others[test_of(item)]
        case, store = seen[case_of(item)], found[kind]
        return case % len(found) == store or store % len(seen) == case

    return [item for item in items if runs(item)]


Case = tuple[tuple[str, int], ...]


def kind_of(item: pytest.Item) -> str:
    """The store that the test is given; "": none."""
    given = getattr(item, "callspec", None)
    return str(given.params.get("store", "")) if given else ""


def test_of(item: pytest.Item) -> str:
    """The test that it is a case of."""
    return item.nodeid.partition("[")[0]


def case_of(item: pytest.Item) -> Case:
    """Its parameters, without the store."""
    params = item.callspec.params  # type: ignore[attr-defined]
    return tuple(sorted((name, id(value)) for name, value in params.items() if name != "store"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``volume`` come first, and then those that keep each other company, so that no
    worker is left with one in the end. The former repeat, thousands of times, what plain tests do
    once: their lines are not counted."""
    items[:] = share_cases_among_stores([item for item in items if not left_out(item)])
    for item in items:
        if starts_processes(item):
            item.add_marker("process")
        if repeats_another(item):
            item.add_marker("repeated")
    items.sort(key=lambda i: (i.get_closest_marker("volume") is None, not company(i), company(i)))
    groups = [list(group) for _, group in groupby(items, key=lambda i: company(i) or i.nodeid)]
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    in_turn = [group for first in range(workers) for group in groups[first::workers]]
    items[:] = chain.from_iterable(in_turn)


PACKAGE = Path(pyramid_altsession.__file__).parent
IN_MEMORY_TOO = ("session", "identity", "request_session", "operator")
"""Folders whose tests are not about stores."""


def skips_coverage(item: pytest.Item) -> bool:
    """Whether other cases go through the same lines: counting takes as long as the test itself."""
    kind = kind_of(item)
    if item.get_closest_marker("volume") or kind in ("valkey-tcp", "redis7", "sealed-valkey-unix"):
        return True
    twin = "twin" in getattr(item, "fixturenames", ())
    return kind == "valkey-unix" and (twin or item.path.parent.name in IN_MEMORY_TOO)


STOPPED: list[Coverage] = []
"""A worker has two, of which the ``no_cover`` marker of pytest-cov stops one, so that the other
goes on."""


def stop_counting() -> None:
    while running := Coverage.current():
        running.stop()
        STOPPED.append(running)


def count_again() -> None:
    while STOPPED:
        STOPPED.pop().start()


@pytest.hookimpl(wrapper=True, trylast=True)  # within pytest-cov's, which ends them
def pytest_runtestloop() -> Iterator[object]:
    """Of a run it counts the tests themselves: with it, what pytest, fixtures and reports do would
    take twice as long, and that is more than most tests do. Whatever is imported late was imported
    before, so that it counts whoever needs it first."""
    if Coverage.current():
        for path in PACKAGE.rglob("*.py"):
            name = path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
            if ".demo" not in name:
                import_module(name.removesuffix(".__init__"))
    gc.collect()
    gc.freeze()  # a test that collects garbage need not look through all tests: they stay
    stop_counting()
    try:
        return (yield)
    finally:
        count_again()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    if skips_coverage(item):
        return (yield)
    count_again()
    try:
        return (yield)
    finally:
        stop_counting()


LEFT_OUT: Counter[str] = Counter()


def pytest_deselected(items: list[pytest.Item]) -> None:
    LEFT_OUT.update(item.location[0] for item in items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if output := getattr(session.config, "workeroutput", None):
        output["left_out"] = dict(LEFT_OUT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    LEFT_OUT.clear()  # every worker says the same
    LEFT_OUT.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LEFT_OUT and terminalreporter.config.option.markexpr:
        files = ", ".join(f"{name} {count}" for name, count in LEFT_OUT.most_common())
        terminalreporter.write_line(f"Left out, {LEFT_OUT.total()} tests: {files}")
