"""The event loop that the tests wait for."""

from collections.abc import Iterator

import pytest
from awaited import Loop


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the tests that are shared with the plain stores and sessions, those that ask one."""
    items[:] = [item for item in items if item.path.parent.name != "aio" or _asks(item)]


def _asks(item: pytest.Item) -> bool:
    if not getattr(item.module, "SHARED", False):  # type: ignore[attr-defined]
        return True
    if "prefetch" in item.name or item.name.startswith("test_repr_"):
        return False  # test_async_session.py has them: a task waits, and a name is another one
    return "store" in item.fixturenames  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.stop()
