"""``config.add_altsession_health_view``: what load balancers and operators are told."""

from collections.abc import Iterator

import pytest
from apps import site
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from servers import Server, valkey
from topologies import link_is_up, until

from pyramid_altsession.stores.redis.node import Health, health_of

SEALED = {
    "altsession.session.codec": "pyramid_altsession.codecs.encrypted",
    "altsession.session.codec_secret": "a codec secret of enough length".replace(" ", "-"),
}


def add_view(config: Configurator) -> None:
    config.add_altsession_health_view("/health")


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    server = valkey("--maxmemory", "64mb", "--repl-diskless-sync-delay", "0")
    yield server
    server.stop()


@pytest.mark.parametrize("settings", [{}, SEALED])
def test_a_server_that_serves(primary: Server, settings: dict[str, object]) -> None:
    """200, by no cache kept; no session begins."""
    shop = site(primary.url, {}, settings=settings, configure=add_view)
    answer = shop.get("/health")
    told = answer.json
    assert (told["status"], told["role"], told["latency_ms"] > 0) == ("ok", "master", True)
    assert 0 < told["memory_free"] < 1
    assert "no-store" in answer.headers["Cache-Control"]
    assert "Set-Cookie" not in answer.headers
    shop.post("/health", status=404)


def test_a_full_server(primary: Server) -> None:
    """503, and no more memory than there is."""
    shop = site(primary.url, {}, configure=add_view)
    primary.client.config_set("maxmemory", "1")
    try:
        told = shop.get("/health", status=503).json
    finally:
        primary.client.config_set("maxmemory", "64mb")
    assert (told["status"], told["memory_free"]) == ("unavailable", 0.0)


@pytest.mark.slow
def test_a_replica(primary: Server) -> None:
    """503, and its role; without a maxmemory nothing is said of memory."""
    replica = valkey("--replicaof", f"127.0.0.1 {primary.port}")
    until(lambda: link_is_up(replica))
    shop = site(replica.url, {}, configure=add_view)
    told = shop.get("/health", status=503).json
    assert (told["status"], told["role"], told["memory_free"]) == ("unavailable", "slave", None)
    replica.stop()


def test_a_server_that_is_away() -> None:
    """503, and neither host nor key."""
    answer = site("redis://127.0.0.1:1", {}, configure=add_view).get("/health", status=503)
    nothing = {"latency_ms": None, "role": None, "memory_free": None}
    assert answer.json == {"status": "unavailable", **nothing}


def test_a_server_that_does_not_tell(primary: Server) -> None:
    """Without the right to INFO, roles and memory are not known; sessions can be used."""
    primary.client.acl_setuser(
        "web", enabled=True, nopass=True, keys="*", commands=["+@all", "-info"]
    )
    url = f"redis://web@127.0.0.1:{primary.port}"
    told = site(url, {}, configure=add_view).get("/health").json
    assert (told["status"], told["role"], told["memory_free"]) == ("ok", None, None)
    assert told["latency_ms"] > 0


def test_in_memory() -> None:
    """There is no server to tell of."""
    told = site("memory://", {}, configure=add_view).get("/health").json
    assert (told["status"], told["latency_ms"]) == ("ok", None)


def test_a_permission() -> None:
    """Options of the view are the application's."""

    class Nobody:
        def permits(self, request: object, context: object, permission: str) -> bool:
            return False

        def authenticated_userid(self, request: object) -> None:
            return None

        identity = authenticated_userid

    def guarded(config: Configurator) -> None:
        config.set_security_policy(Nobody())
        config.set_default_permission("view")
        config.add_altsession_health_view("/open")
        config.commit()

    def closed(config: Configurator) -> None:
        config.set_security_policy(Nobody())
        config.add_altsession_health_view("/closed", permission="monitor")

    site("memory://", {}, configure=guarded).get("/open")
    site("memory://", {}, configure=closed).get("/closed", status=403)


def test_options_of_the_view() -> None:
    """They replace those that the directive sets by itself."""

    def probed(config: Configurator) -> None:
        config.add_altsession_health_view(
            "/health", http_cache=5, request_method="POST", renderer="string"
        )

    shop = site("memory://", {}, configure=probed)
    answer = shop.post("/health")
    assert answer.headers["Cache-Control"] == "max-age=5"
    assert answer.text.startswith("{'status': 'ok'")
    shop.get("/health", status=404)


@pytest.mark.parametrize("name", ["view", "route_name"])
def test_options_that_are_the_directives_own(name: str) -> None:
    """An error that names the option, when the application starts."""

    def renamed(config: Configurator) -> None:
        config.add_altsession_health_view("/health", **{name: "page"})

    with pytest.raises(ConfigurationError, match=f"^add_altsession_health_view: remove {name};"):
        site("memory://", {}, configure=renamed)


class Told:
    """A server that says this of itself."""

    def __init__(self, text: str) -> None:
        self.text = text

    def ask(self, *command: str) -> bytes:
        return self.text.encode()


def test_of_several_servers_the_worst_is_told() -> None:
    """The fullest one, and the role that is not a primary's."""
    nodes = [
        Told("# Memory\r\nused_memory:30\r\nmaxmemory:100\r\nrole:master\r\n"),
        Told("used_memory:90\r\nmaxmemory:100\r\nrole:slave\r\n"),
        Told("used_memory:90\r\nmaxmemory:0\r\nrole:master\r\n"),
    ]
    found = health_of(nodes)  # type: ignore[arg-type]
    assert found == Health(found.latency, "slave", pytest.approx(0.1))
