"""What ``request.session`` promises holds over a sealed store: the very tests of test_sync."""

from typing import Any

import pytest
import test_sync
from sealed import CODEC, SealedBehind
from test_sync import *  # noqa: F403
from test_sync import Visitor

from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.sealed import SealedStore


@pytest.fixture(autouse=True)
def plain_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put behind the store's back is sealed on the way."""
    monkeypatch.setattr(test_sync, "Behind", SealedBehind)


@pytest.fixture
def stranger() -> Visitor:
    return Visitor(SealedStore(MemoryStore(), CODEC))


@pytest.fixture
def visitor() -> Visitor:
    visitor = Visitor(SealedStore(MemoryStore(), CODEC))
    visitor.jar = visitor.api.create({"a": 1, "b": [1]}).token
    visitor.watched.operations.clear()
    return visitor


@pytest.fixture
def live(store: Any) -> Visitor:
    visitor = Visitor(SealedStore(store, CODEC))
    visitor.jar = visitor.api.create({"a": 1, "b": [1]}).token
    return visitor
