"""The awaitable stores keep the contract: the tests of the plain ones, over stores that wait for
what is awaited."""

from collections.abc import Iterator
from typing import Any

import pytest
import test_contract as original
from awaited import Loop, WaitedStore, loop  # noqa: F401
from test_contract import *  # noqa: F403

from pyramid_altsession.aio.store import open_store
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store

ORIGINAL = original
SERVERS = ["valkey-unix", "redis7tls", "sentinel-tcp", "cluster-tcp"]


@pytest.fixture(params=SERVERS)
def store(request: pytest.FixtureRequest, loop: Loop) -> Iterator[Store]:  # noqa: F811
    """The awaitable store on each kind of server, empty."""
    kind, _, way = request.param.partition("-")
    found: Any = request.getfixturevalue(f"{kind}_server")
    found.empty()
    url = found.tcp_url if (kind, way) == ("valkey", "tcp") else found.url
    redis = {"url": url, "timeout": 30.0, **(getattr(found, "tls", None) or {})}
    opened = WaitedStore(open_store(read_settings({"redis": redis})), loop)
    yield opened
    opened.close()
