"""What a session promises holds over a sealed store: the very tests of test_session, where what
a test puts on the server, or looks at there, is sealed and opened for it."""

from collections.abc import Iterator

import pytest
from apps import Behind
from conftest import settings_for
from sealed import CODEC, SealedBehind
from servers import Server
from test_session import *  # noqa: F403

from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.sealed import SealedStore


@pytest.fixture(params=["memory", "valkey"])
def store(request: pytest.FixtureRequest) -> Iterator[SealedStore]:
    url = "memory://"
    if request.param == "valkey":
        server: Server = request.getfixturevalue("server")
        url = server.url
    sealed = SealedStore(open_store(settings_for(url)), CODEC)
    yield sealed
    sealed.close()


@pytest.fixture
def behind(store: SealedStore, request: pytest.FixtureRequest) -> Behind:
    if request.node.callspec.params["store"] == "memory":
        return SealedBehind(store)
    return SealedBehind(store, request.getfixturevalue("server").client)
