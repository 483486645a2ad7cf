"""The event loop that the tests wait for."""

from collections.abc import Iterator

import pytest
from awaited import Loop


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the tests that are shared with the plain stores and sessions, those that ask one."""
    items[:] = [
        item
        for item in items
        if item.path.parent.name != "aio"
        or not getattr(item.module, "SHARED", False)  # type: ignore[attr-defined]
        or "loop" in item.fixturenames  # type: ignore[attr-defined]
    ]


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.stop()
