"""``altsession CONFIG_URI watch``: what happens to sessions, as it happens, on real servers."""

import fcntl
import json
import os
import pty
import re
import subprocess
import sys
import termios
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from apps import Browser, settings_for
from operator_cli import Command, tool
from proxy import Proxy
from servers import Server

from pyramid_altsession import SessionAPI, StoreUnavailable
from pyramid_altsession.cli import configuration
from pyramid_altsession.cli.watch import Heard, session_events
from pyramid_altsession.protocol.token import ID_LENGTH
from pyramid_altsession.stores.redis import node
from pyramid_altsession.stores.redis.connections import connections
from pyramid_altsession.stores.redis.node import ServerNode
from pyramid_altsession.stores.redis.pool import ConnectionPool

module = sys.modules[session_events.__module__]

LIFE = {"notify": "life"}
CONNECTED, DISCONNECTED = ("connected", None, None), ("disconnected", None, None)


class Watch:
    """What is heard. Each item is waited for, however long it takes."""

    def __init__(self, folder: Path, url: str, **redis: object) -> None:
        file = folder / "watched.yaml"
        given = {"url": url, "timeout": 30, "connect_timeout": 30, **redis}
        file.write_text(yaml.safe_dump({"redis": given, "session": LIFE}))
        self.configured = configuration.read(str(file))
        self.api = SessionAPI(self.configured.settings)
        store = self.configured.store()
        assert isinstance(store, Heard)
        self.store, self._rows = store, session_events(store, self.configured)

    def next(self) -> tuple[Any, ...]:
        row = next(self._rows)
        return row["event"], row["id"], row["user"]

    def close(self) -> None:
        self._rows.close()  # type: ignore[attr-defined]
        self.store.close()
        self.api.close()


@pytest.fixture(params=["valkey", "redis7", "sentinel", "cluster"])
def watch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watch]:
    """Of one server, of the primary that sentinels name, of a cluster."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    server.empty()
    found = Watch(tmp_path, server.url)
    yield found
    found.close()


# -- what is told


def test_what_is_told(watch: Watch) -> None:
    """Sign-ins, logouts and ends of all sessions, by whatever call, those of one session in order.
    What else is written tells nothing."""
    assert watch.next() == CONNECTED
    api, wanted = watch.api, dict[str, list[tuple[str, str | None]]]()

    browser = Browser(api)
    browser.does(lambda session: session.set("a", 1))
    browser.does(lambda session: session.login("ann"))
    browser.does(lambda session: session.renew())
    id = str(browser.jar)[:ID_LENGTH]
    browser.does(lambda session: session.logout())
    wanted[id] = [("sign-in", "ann"), ("logout", "ann")]
    browser.does(lambda session: session.login("ändré"))  # it makes the session
    id = str(browser.jar)[:ID_LENGTH]
    browser.does(lambda session: session.login("bob"))
    wanted[id] = [("sign-in", "ändré"), ("ended", "ändré")]
    id = str(browser.jar)[:ID_LENGTH]
    assert api.invalidate_user("bob") == 1
    wanted[id] = [("sign-in", "bob"), ("ended", "bob")]
    visitor = api.create({"a": 1})
    visitor.set("a", 2)
    wanted[str(visitor.id)] = [("ended", None)]
    visitor.invalidate()

    told = defaultdict[str, list[tuple[str, str | None]]](list)
    for _ in range(sum(map(len, wanted.values()))):
        kind, at, user = watch.next()
        told[at].append((kind, user))
    assert told == wanted


def test_a_check_is_no_session(watch: Watch) -> None:
    """What ``check()`` does to try the server is told to nobody: it is no sign-in of a user."""
    assert watch.next() == CONNECTED
    watch.api.check()
    made = watch.api.create()
    made.login("ann")
    id = made.id
    assert watch.next() == ("sign-in", id, "ann")
    watch.api.check()
    made.invalidate()
    assert watch.next() == ("ended", id, "ann")


FOREIGN = (b"", b"hello", b"s", b"success", b"s\xff", b"x" + b"y" * 22, b"e" + b"y" * 21 + b"\n")
"""Messages of others on the channel of all sessions."""


def test_what_others_publish(server: Server, tmp_path: Path) -> None:
    """It is no event of a session, and does not end the watch. Any user id is one."""
    watch = Watch(tmp_path, server.url)
    assert watch.next() == CONNECTED
    for said in FOREIGN:
        server.client.publish("sess:", said)
    made = watch.api.create()
    made.login("a\nb")
    assert watch.next() == ("sign-in", made.id, "a\nb")
    watch.close()


def test_nothing_is_published_without_the_setting(any_server: Server) -> None:
    """``notify = none`` publishes nothing; else it is once for a sign-in and once for an end."""
    for notify, published in (("none", 0), ("life", 2), ("keys", 2)):
        any_server.client.config_resetstat()
        api = SessionAPI.from_settings({"redis.url": any_server.url, "session.notify": notify})
        session = api.create({"a": 1})
        session.login("ann")
        session.set("a", 2)
        session.renew()
        session.logout()
        api.close()
        stats = any_server.client.info("commandstats")
        assert stats.get("cmdstat_publish", {"calls": 0})["calls"] == published


def test_writes_without_the_right_to_publish(server: Server) -> None:
    """They work, and tell nothing."""
    server.client.execute_command(
        *("ACL", "SETUSER", "app", "reset", "on", ">word", "~*", "&*", "+@all", "-publish")
    )
    url = f"redis://app:word@127.0.0.1:{server.port}"
    api = SessionAPI.from_settings({"redis.url": url, "session.notify": "life"})
    session = api.create()
    session.login("ann")
    assert session.logout()
    api.close()
    server.client.acl_deluser("app")


# -- servers that go away


def test_connection_that_breaks(server: Server, tmp_path: Path) -> None:
    """It says that something may have been missed, and goes on."""
    watch = Watch(tmp_path, server.url)
    assert watch.next() == CONNECTED
    server.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    assert [watch.next(), watch.next()] == [DISCONNECTED, CONNECTED]
    session = watch.api.create()
    session.login("ann")
    assert watch.next() == ("sign-in", session.id, "ann")
    watch.close()


def test_server_that_comes_back(own_server: Server, tmp_path: Path) -> None:
    """It is heard again, if it is not away for too long."""
    watch = Watch(tmp_path, own_server.url)
    assert watch.next() == CONNECTED
    own_server.kill()
    assert watch.next() == DISCONNECTED
    own_server.spawn()
    own_server.wait()
    assert watch.next() == CONNECTED
    watch.close()


def test_server_that_stays_away(
    own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch ends with the error that names it."""
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    watch = Watch(tmp_path, own_server.url)
    assert watch.next() == CONNECTED
    own_server.kill()
    assert watch.next() == DISCONNECTED
    with pytest.raises(StoreUnavailable, match="does not serve"):
        watch.next()
    watch.close()


class Clock:
    """Of who waits for what is published. ``over``: how often its time is over at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.over = self.asked = 0
        monkeypatch.setattr(node, "time", self)

    def monotonic(self) -> float:
        self.asked += 1
        self.over -= 1
        return time.monotonic() - (60 if self.over >= 0 else 0)


def test_server_that_falls_silent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says nothing is asked whether it is there; one that does not answer is away."""
    clock, proxy = Clock(monkeypatch), Proxy(server)
    watch = Watch(tmp_path, proxy.url)
    assert watch.next() == CONNECTED
    proxy.swallow, clock.over = True, 2
    assert watch.next() == DISCONNECTED
    proxy.swallow = False
    assert watch.next() == CONNECTED
    watch.close()
    proxy.close()


@pytest.mark.parametrize("right", ["+ping", "-ping"])
def test_quiet_server(
    right: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has nothing to tell is not away, whether or not its user may ask it."""
    rights = ("resetchannels", "&sess:*", "+subscribe", right)
    server.client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">word", *rights)
    clock = Clock(monkeypatch)
    watch = Watch(tmp_path, f"redis://app:word@127.0.0.1:{server.port}")
    assert watch.next() == CONNECTED
    clock.over, clock.asked = 1, 0
    api = SessionAPI.from_settings({"redis.url": server.url, "session.notify": "life"})

    class Late:
        """Signs in when the server has answered."""

        def monotonic(self) -> float:
            if clock.asked == 2:
                api.create().login("ann")
            return clock.monotonic()

    monkeypatch.setattr(node, "time", Late())
    assert watch.next()[::2] == ("sign-in", "ann")
    watch.close()
    api.close()
    server.client.acl_deluser("app")


def test_cluster_with_a_node_down(own_server: Server, tmp_path: Path) -> None:
    """Any node that answers tells of all."""
    watch = Watch(tmp_path, own_server.url)
    (known,) = watch.store.nodes()
    away = ConnectionPool(connections(settings_for("unix:///nowhere").redis), limit=1, wait=1)
    nodes = [ServerNode("second", away), known]
    rows = session_events(SimpleNamespace(nodes=lambda: nodes, close=None), watch.configured)
    assert next(rows)["event"] == "connected"
    watch.close()


# -- the command


def test_setting_that_is_off(server: Server, command: Command) -> None:
    """One line names the setting."""
    ran = command(server.url, "watch")
    assert (ran.code, ran.out, ran.error) == (
        1,
        "",
        "altsession: watch wanted altsession.session.notify = life or keys wherever sessions are"
        " written, found none\n",
    )


def test_server_away(tmp_path: Path, command: Command) -> None:
    """Who has never heard it does not wait for it."""
    ran = command(f"unix://{tmp_path}/s", "watch", session=LIFE)
    assert (ran.code, ran.error.count("does not serve")) == (1, 1)


@pytest.mark.parametrize("rights", [("&sess:*",), ("resetchannels", "+subscribe")])
def test_no_permission(rights: tuple[str, ...], server: Server, command: Command) -> None:
    """One line says what to permit."""
    server.client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">word", *rights)
    ran = command(f"redis://app:word@127.0.0.1:{server.port}", "watch", session=LIFE)
    assert ran.code == 1
    assert ran.error.startswith("altsession: watch: ")
    assert ran.error.endswith("; ACL SETUSER app +subscribe &sess:*\n")
    assert "word" not in ran.error
    server.client.acl_deluser("app")


def test_for_people_and_of_one_user(
    server: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table grows by a line for each event, at the time of this host. ``--user`` leaves out
    others, but not what is said of the connection."""
    at = datetime(2026, 5, 4, 12, 30, 1).astimezone()
    rows = [
        {"time": at, "event": event, "id": id, "user": user}
        for event, id, user in [
            CONNECTED,
            ("sign-in", "x" * 22, "ann"),
            ("ended", "y" * 22, "\x1b[8mbob"),
        ]
    ]
    monkeypatch.setattr(module, "session_events", lambda *given: iter(rows))
    ran = command(server.url, "watch", "--user", "ann", session=LIFE)
    assert [line.split() for line in ran.out.splitlines()] == [
        ["time", "event", "id", "user"],
        ["12:30:01", "connected", "–", "–"],
        ["12:30:01", "sign-in", "x" * 22, "ann"],
    ]
    out = command(server.url, "watch", session=LIFE).out
    assert out.splitlines()[-1].split() == ["12:30:01", "ended", "y" * 22, r"\x1b[8mbob"]
    assert len(command(server.url, "watch", "--json", session=LIFE).objects) == 3


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--json"], []])
def test_in_a_terminal(arguments: list[str], server: Server, tmp_path: Path) -> None:
    """Each line is there as soon as it happens. Ctrl-C ends the watch: exit code 0, no word."""
    file = tmp_path / "a.yaml"
    file.write_text(
        f"redis: {{url: 'unix://{server.socket}', timeout: 30}}\nsession: {{notify: life}}\n"
    )
    control, terminal = pty.openpty()
    api = SessionAPI.from_settings({"redis.url": server.url, "session.notify": "life"})
    ran = subprocess.Popen(
        tool(file, "watch", *arguments),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(terminal)
    shown = b""

    def until(event: bytes) -> None:
        nonlocal shown
        while not re.search(event + b".*\n", shown):
            shown += os.read(control, 65536)

    until(b"connected")
    session = api.create()
    session.login("ann")
    id = str(session.id)
    until(b"sign-in")
    session.logout()
    until(b"ended")
    os.write(control, b"\x03")
    assert ran.wait() == 0
    with suppress(OSError):  # the terminal is gone
        while more := os.read(control, 65536):
            shown += more
    os.close(control)
    api.close()
    lines = shown.decode().replace("^C", "").splitlines()
    assert len([line for line in lines if line.strip()]) == 3 + (not arguments)
    assert sum(id in line for line in lines) == 2
    if arguments:
        told = [json.loads(line) for line in lines if line]
        assert [(row["event"], row["user"]) for row in told[1:]] == [
            ("sign-in", "ann"),
            ("ended", "ann"),
        ]
