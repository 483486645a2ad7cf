"""TLS: who is trusted, who is let in; and passwords that change while the application runs."""

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from servers import Server, redis_binary
from tls_front import tls_front
from topologies import Sentinels, TLSServer
from workers import eventually, token_of

from pyramid_altsession.aio import AsyncSessionAPI
from pyramid_altsession.api import SessionAPI
from pyramid_altsession.errors import StoreUnavailable

TIMES = {"redis.timeout": 30, "redis.connect_timeout": 30}


def at(url: str, tls: dict[str, str] | None = None, **more: object) -> SessionAPI:
    named = {f"redis.{name}": value for name, value in {**(tls or {}), **more}.items()}
    return SessionAPI.from_settings({"redis.url": url, **TIMES, **named})


def refusal(api: SessionAPI) -> str:
    """What the operator reads."""
    with pytest.raises(StoreUnavailable) as caught:
        api.create({"a": 1})
    api.close()
    return str(caught.value)


def test_only_the_named_authority_is_trusted(
    redis7tls_server: TLSServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssl_ca_certs replaces the system's authorities, it does not join them."""
    own = redis7tls_server.tls
    other = Authority(tmp_path / "other").file
    monkeypatch.setenv("SSL_CERT_FILE", own["ssl_ca_certs"])  # the system's
    assert "certificate verify failed" in refusal(
        at(redis7tls_server.url, {**own, "ssl_ca_certs": other})
    )
    trusting = {name: value for name, value in own.items() if name != "ssl_ca_certs"}
    api = at(redis7tls_server.url, trusting)
    assert api.create({"a": 1}).get("a") == 1
    api.close()


def test_a_client_without_a_certificate_is_not_let_in(redis7tls_server: TLSServer) -> None:
    """The server wants one."""
    own = redis7tls_server.tls
    assert "does not serve" in refusal(
        at(redis7tls_server.url, {"ssl_ca_certs": own["ssl_ca_certs"]})
    )


def test_a_front_that_wants_a_certificate(server: Server, tmp_path: Path) -> None:
    """Over TLS in front of Valkey: let in with the certificate, plain and awaited, and not without;
    a file that is not there is named by its settings."""
    with tls_front(server, tmp_path / "own") as (url, tls):
        api = at(url, tls)
        token = str(api.create({"a": 1}).token)
        assert asyncio.run(awaited(url, tls, token)) == 1
        api.close()
        assert "does not serve" in refusal(at(url, {"ssl_ca_certs": tls["ssl_ca_certs"]}))
        broken = {**tls, "ssl_certfile": str(tmp_path / "nowhere.pem")}
        named = "altsession.redis.ssl_ca_certs, ssl_certfile or ssl_keyfile cannot be used"
        assert named in refusal(at(url, broken))
        with pytest.raises(StoreUnavailable, match=named):
            asyncio.run(awaited(url, broken, token))


async def awaited(url: str, tls: dict[str, str], token: str) -> Any:
    """What the session's key holds, read by way of asyncio."""
    async with AsyncSessionAPI.from_settings({"redis": {"url": url, **tls}}) as api:
        return await api.open(token).get("a")


def test_the_certificate_has_to_name_the_host(redis7tls_server: TLSServer) -> None:
    """Unless redis.ssl_check_hostname is false."""
    url = redis7tls_server.url.replace("127.0.0.1", "localhost")
    assert "localhost" in refusal(at(url, redis7tls_server.tls))
    api = at(url, redis7tls_server.tls, ssl_check_hostname=False)
    assert api.create({"a": 1}).get("a") == 1
    api.close()


@pytest.mark.parametrize(("version", "spoken"), [("1.2", "TLSv1.2"), ("1.3", None)])
def test_the_lowest_version(tmp_path: Path, version: str, spoken: str | None) -> None:
    """A server that speaks no later one than 1.2 is turned down where 1.3 is asked for."""
    binary = redis_binary()
    if binary is None:
        assert not os.environ.get("CI"), "CI has to have a redis-server"
        pytest.skip("no redis-server on PATH")
    server = TLSServer(binary, Authority(tmp_path / "own"), "--tls-protocols", "TLSv1.2")
    api = at(server.url, server.tls, ssl_min_version=version)
    if spoken is None:
        assert "does not serve" in refusal(api)
    else:
        api.create({"a": 1})
        api.close()
    server.stop()


def test_one_context_serves_all_connections(
    redis7tls_server: TLSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make one takes longer than to connect."""
    made = []
    build = ssl.create_default_context

    def counted(*arguments: Any, **named: Any) -> ssl.SSLContext:
        made.append(arguments)
        return build(*arguments, **named)

    monkeypatch.setattr(ssl, "create_default_context", counted)
    api = at(redis7tls_server.url, redis7tls_server.tls)
    for _ in range(3):
        api.create({"a": 1})
        api.close()
    assert len(made) == 1


def test_files_that_cannot_be_used(redis7tls_server: TLSServer, tmp_path: Path) -> None:
    """The message names the settings."""
    broken = {**redis7tls_server.tls, "ssl_certfile": str(tmp_path / "nowhere.pem")}
    assert "altsession.redis.ssl_ca_certs, ssl_certfile or ssl_keyfile" in refusal(
        at(redis7tls_server.url, broken)
    )


@pytest.fixture
def guarded(own_server: Server) -> Server:
    """A server whose users have passwords."""
    own_server.client.config_set("requirepass", "first")
    own_server.client.execute_command("ACL", "SETUSER", "app", "on", ">first", "~*", "&*", "+@all")
    return own_server


@pytest.mark.parametrize("user", [None, "app"])
def test_a_password_that_changes(guarded: Server, tmp_path: Path, user: str | None) -> None:
    """The file is read for every connection: no restart."""
    file = tmp_path / "password"
    file.write_text("first\n")
    named = {} if user is None else {"username": user}
    api = SessionAPI.from_settings(
        {
            "redis.host": "127.0.0.1",
            "redis.port": guarded.port,
            **{f"redis.{name}": value for name, value in named.items()},
            "redis.password_file": str(file),
            **TIMES,
        }
    )
    token = token_of(api.create({"a": 1}))
    ask = guarded.client.execute_command
    ask("ACL", "SETUSER", user or "default", "resetpass", ">second")
    api.close()
    with pytest.raises(StoreUnavailable, match=r"WRONGPASS|invalid username-password"):
        api.open(token).get("a")
    file.write_text("second\n")

    def served() -> bool:
        try:
            return bool(api.open(token).get("a") == 1)
        except StoreUnavailable:
            return False  # a moment after a failure to connect

    assert eventually(served)
    api.close()


def test_a_password_file_that_cannot_be_read(server: Server, tmp_path: Path) -> None:
    """The message names the setting and the file."""
    file = tmp_path / "nowhere"
    api = at(server.tcp_url, password_file=str(file))
    assert f"altsession.redis.password_file: {file} cannot be read (FileNotFoundError)" in (
        refusal(api)
    )


@pytest.mark.slow
def test_sentinels_have_users_of_their_own() -> None:
    """Their password is not the server's, and one right is enough there."""
    servers = Sentinels(down_after=30_000)
    rules = ("reset", "on", ">watchers", "+sentinel|get-master-addr-by-name")
    for sentinel in servers.sentinels:
        sentinel.client.execute_command("ACL", "SETUSER", "app", *rules)
    servers.primary.client.config_set("requirepass", "theirs")
    url = servers.url.replace("://", "://:theirs@")
    api = at(url, sentinel_username="app", sentinel_password="watchers")
    assert api.create({"a": 1}).get("a") == 1
    api.close()
    wrong = at(url, sentinel_username="app", sentinel_password="theirs")
    assert "no sentinel names the primary" in refusal(wrong)
    servers.stop()
