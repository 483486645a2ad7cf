"""``altsession CONFIG_URI COMMAND``: what each command says and does, on a real server."""

import gc
import json
import os
import pty
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import plaster
import pytest
from apps import Watched, settings_for
from operator_cli import Command, run_main, tool
from servers import Server

from pyramid_altsession import SessionAPI
from pyramid_altsession.cli import configuration, main, output, tables
from pyramid_altsession.cli.parser import EXAMPLES, parse
from pyramid_altsession.cli.stats import Distribution
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.messages import Operation, Scan
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.redis import wire

SECRET = "do-not-show-this-secret"


@pytest.fixture
def api(server: Server) -> Iterator[SessionAPI]:
    found = SessionAPI(settings_for(server.url))
    yield found
    found.close()


def session(api: SessionAPI, user: str | None = None, **values: object) -> str:
    """The id of a new session."""
    made = api.create(values)
    if user is not None:
        made.login(user, info={"agent": "Firefox"})
    assert made.id is not None
    return made.id


# -- list


def test_list(server: Server, api: SessionAPI, command: Command) -> None:
    """A line for each session, with its times, whoever has it."""
    ids = {session(api, "ann", cart=1): "ann", session(api, cart=1): None}
    ran = command(server.url, "list", "--json")
    assert ran.code == 0
    assert {row["id"]: row["user"] for row in ran.objects} == ids
    for row in ran.objects:
        assert datetime.fromisoformat(row["expires"]) > datetime.fromisoformat(row["created"])


def test_list_of_a_user(server: Server, api: SessionAPI, command: Command) -> None:
    """--user lists that user's, with what the login noted."""
    session(api, cart=1)
    id = session(api, "ann")
    (row,) = command(server.url, "list", "--user", "ann", "--json").objects
    assert (row["id"], row["info"]) == (id, {"agent": "Firefox"})


def test_list_for_people(server: Server, api: SessionAPI, command: Command) -> None:
    """The table has one head, however many pages are laid out."""
    ids = [session(api, cart=1) for _ in range(tables.PAGE + 1)]
    out = command(server.url, "list").out
    assert [id for id in ids if id not in out] == []
    assert out.count("last seen") == 1
    assert "in 21 min" in out or "in 20 min" in out


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--json"], []])
def test_list_streams(
    arguments: list[str],
    server: Server,
    api: SessionAPI,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What one step of the cursor found is printed before the next step: memory stays flat."""
    for _ in range(1200):
        session(api, k=1)
    printed: list[str] = []

    def watched(settings: object) -> Store:
        store = Watched(open_store(settings))  # type: ignore[arg-type]
        store.before = before
        return store

    def before(operation: Operation) -> None:
        if isinstance(operation, Scan):
            printed.append(capsys.readouterr().out)

    monkeypatch.setattr(configuration, "open_store", watched)
    assert command(server.url, "list", *arguments).code == 0
    assert len(printed) > 2
    assert all(printed[1:])


# -- show


def test_show(server: Server, api: SessionAPI, command: Command) -> None:
    """Keys and sizes, no value."""
    id = session(api, "ann", cart=["tea"])
    ran = command(server.url, "show", id, "--json")
    (row,) = ran.objects
    assert (row["id"], row["user"], row["keys"], row["bytes"]) == (id, "ann", {"cart": 7}, 11)
    assert "tea" not in ran.out


def test_show_values(server: Server, api: SessionAPI, command: Command) -> None:
    """--values shows them."""
    id = session(api, cart=["tea"])
    (row,) = command(server.url, "show", id, "--values", "--json").objects
    assert row["values"] == {"cart": ["tea"]}


def test_show_value_that_cannot_be_read(server: Server, api: SessionAPI, command: Command) -> None:
    """It says so, and shows the others."""
    id = session(api, cart=["tea"], name="ann")
    server.client.hset(f"sess:{id}", "name", "no JSON")
    (row,) = command(server.url, "show", id, "--values", "--json").objects
    assert row["values"] == {"cart": ["tea"], "name": "(cannot be read)"}


def test_show_for_people(server: Server, api: SessionAPI, command: Command) -> None:
    """One fact to a line."""
    id = session(api, cart=["tea"])
    lines = command(server.url, "show", id).out.splitlines()
    assert f"id  {id}" in lines
    assert "keys  cart: 7" in lines
    assert "user  –" in lines


HOSTILE = "\x1b]0;a\x07\x9b2J\x7f\u202e\r\nFirefox ö☃"
"""Sets a terminal's title, clears it, turns the line round, and feigns a line of its own."""
PRINTED = r"\x1b]0;a\x07\x9b2J\x7f\u202e\r\nFirefox ö☃"


def test_what_visitors_wrote_is_no_command_for_the_terminal(
    server: Server, api: SessionAPI, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control characters in a user id, a key, a value or what a login noted are printed as the
    escapes that Python has for them."""
    monkeypatch.setenv("COLUMNS", "300")
    made = api.create({HOSTILE: HOSTILE})
    made.login(HOSTILE, info={HOSTILE: HOSTILE})
    out = command(server.url, "show", str(made.id), "--values").out
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert lines["user"] == PRINTED
    assert lines["info"] == lines["values"] == f"{PRINTED}: {PRINTED}"
    assert lines["keys"].startswith(f"{PRINTED}: ")
    for arguments in (["list"], ["list", "--user", HOSTILE]):
        out = command(server.url, *arguments).out
        assert r"\x1b]0;a" in out
        assert set(re.findall(r"[^ -~ö☃]", out)) == {"\n"}
    error = command(server.url, "show", HOSTILE.replace("\r\n", "")).error
    told = PRINTED.replace(r"\r\n", "")
    assert error == f"altsession: {told}: no live session has this id\n"


# -- end


def test_end(server: Server, api: SessionAPI, command: Command) -> None:
    """The session is over; a second time there is none."""
    id = session(api, cart=1)
    assert command(server.url, "end", id, "--json").objects == [{"ended": 1}]
    assert api.describe(id) is None
    again = command(server.url, "end", id)
    assert (again.code, again.error) == (1, f"altsession: {id}: no live session has this id\n")


def test_end_user(server: Server, api: SessionAPI, command: Command) -> None:
    """All sessions of one user are over, and no other."""
    session(api, "ann")
    session(api, "ann")
    other = session(api, "bob")
    assert command(server.url, "end-user", "ann", "--json").objects == [{"ended": 2}]
    assert [known.id for known in api.scan()] == [other]


def test_end_all(server: Server, api: SessionAPI, command: Command) -> None:
    """--yes ends all without a question."""
    session(api, "ann")
    session(api, cart=1)
    assert command(server.url, "end-all", "--yes", "--json").objects == [{"ended": 2}]
    assert list(api.scan()) == []


def test_end_all_without_anybody(server: Server, api: SessionAPI, command: Command) -> None:
    """Where nobody can be asked, nothing is ended."""
    session(api, cart=1)
    ran = command(server.url, "end-all")
    assert (ran.code, "--yes" in ran.error) == (1, True)
    assert len(list(api.scan())) == 1


class Terminal:
    """Somebody who types one line."""

    def __init__(self, line: str) -> None:
        self.line = line

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.line


@pytest.mark.parametrize(("typed", "left"), [("yes\n", 0), ("no\n", 1), ("", 1)])
def test_end_all_asks(
    typed: str,
    left: int,
    server: Server,
    api: SessionAPI,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a yes ends them; the question names the server and the prefix."""
    session(api, cart=1)
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    ran = command(server.url, "end-all", "--json")
    assert len(list(api.scan())) == left
    assert f"{server.socket} whose key begins sess:?" in ran.error
    assert ran.code == left


def test_id_that_looks_like_an_option(server: Server, command: Command) -> None:
    """A session id may begin with a hyphen."""
    id = "-" + "x" * 21
    for arguments in (["show", id], ["show", "--json", id], ["end", id]):
        ran = command(server.url, *arguments)
        assert ran.error == f"altsession: {id}: no live session has this id\n"


@pytest.mark.parametrize("user", ["-q2x7wRzJrUuFfQmZ0c5Hg", "--2x7wRzJrUuFfQmZ0c5Hg"])
def test_user_id_that_looks_like_an_option(
    user: str, server: Server, api: SessionAPI, command: Command
) -> None:
    """So may a user id, and each command means this user and no other."""
    other = session(api, f" {user}")
    for arguments in (["--user", user], [f"--user={user}"]):
        id = session(api, user)
        (row,) = command(server.url, "list", "--json", *arguments).objects
        assert (row["id"], row["user"]) == (id, user)
        for separator in ([], ["--"]):
            assert parse(["a.ini", "watch", *arguments]).user == user
            session(api, user)
            (ended,) = command(server.url, "end-user", "--json", *separator, user).objects
            assert ended["ended"] > 0
            assert [info.id for info in api.scan()] == [other]


def test_other_arguments_that_look_like_ids(server: Server, command: Command) -> None:
    """They are shown as they were typed."""
    word = "-" + "x" * 21
    assert command(server.url, "stats", word).error == (
        f"altsession: '{word}': settings are given as key=value\n"
    )
    assert parse([word, "stats"]).config_uri == word


@pytest.mark.parametrize(
    "arguments", [["show", "ID", "--values"], ["end", "ID", "--json"], ["load", "5", "--json"]]
)
def test_settings_after_an_option(arguments: list[str]) -> None:
    """Settings may stand anywhere behind the command's own arguments."""
    settings = ["altsession.redis.timeout=5", "port=1"]
    found = parse(["a.ini", *arguments, *settings])
    assert found.overrides == settings
    assert found == parse(["a.ini", *arguments[:-1], *settings, arguments[-1]])


@pytest.mark.parametrize("rest", [["--nothing"], ["port=1", "--nothing"], ["--nothing", "port=1"]])
def test_unknown_option(rest: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        parse(["a.ini", "show", "ID", "--json", *rest])
    assert info.value.code == 2
    assert "unrecognized arguments: --nothing\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["redis.timeout", " session.tti", "sync.enabled"])
def test_setting_without_the_prefix(name: str, server: Server, command: Command) -> None:
    """It would be a variable of the file, which nothing reads."""
    ran = command(server.url, "stats", f"{name}=5")
    name = name.strip()
    assert (ran.code, ran.error) == (
        1,
        f"altsession: {name}: write altsession.{name}=… to set it\n",
    )


# -- stats and load


def test_stats(server: Server, api: SessionAPI, command: Command) -> None:
    """Count, bytes and distributions of all sessions."""
    session(api, "ann", cart=1)
    session(api, text="x" * 2000)
    (row,) = command(server.url, "stats", "--json").objects
    assert (row["sessions"], row["signed_in"]) == (2, 1)
    assert (row["bytes"], row["largest"]) == (5 + 2006, 2006)
    assert {part["range"]: part["sessions"] for part in row["size"]} == {
        "< 256 B": 1,
        "< 1 KiB": 0,
        "< 4 KiB": 1,
        "< 16 KiB": 0,
        "< 64 KiB": 0,
        "more": 0,
    }
    assert [part["sessions"] for part in row["remaining"]] == [0, 0, 2, 0, 0, 0]


def test_stats_for_people(server: Server, api: SessionAPI, command: Command) -> None:
    """Histograms have a bar for each range."""
    session(api, cart=1)
    out = command(server.url, "stats").out
    assert "sessions  1" in out
    assert f"< 256 B         1  {'█' * tables.BAR}" in out


def test_ranges() -> None:
    """A number on the border belongs to the upper range."""
    found = Distribution({10: "< 10", 20: "< 20"})
    for number in (0, 9.9, 10, 20, 1000):
        found.add(number)
    assert [part["sessions"] for part in found.parts()] == [2, 1, 2]


def test_load(server: Server, api: SessionAPI, command: Command) -> None:
    """Sessions of visitors and users; a second load adds to them."""
    assert command(server.url, "load", "600", "--json").objects == [{"made": 600}]
    assert command(server.url, "load", "1", "--json").objects == [{"made": 1}]
    (row,) = command(server.url, "stats", "--json").objects
    assert row["sessions"] == 601
    assert 150 < row["signed_in"] < 350


def test_load_refuses(server: Server, api: SessionAPI, command: Command) -> None:
    """A server that holds a session of anybody else's is left alone."""
    session(api, cart=1)
    ran = command(server.url, "load", "5")
    assert (ran.code, "holds sessions of others" in ran.error) == (1, True)
    assert len(list(api.scan())) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "shown", "result"),
    [
        (["load", "20"], "sessions made: ", "made  20\n"),
        (["stats"], "sessions counted: ", "sessions  1\n"),
        (["end-all", "--yes"], "sessions ended: ", "ended  1\n"),
    ],
)
def test_progress_on_a_terminal(
    arguments: list[str],
    shown: str,
    result: str,
    server: Server,
    command: Command,
    tmp_path: Path,
) -> None:
    """On a terminal a long command shows how far it is; standard output has the result only."""
    if arguments[0] != "load":
        command(server.url, "load", "1")
    (tmp_path / "a.yaml").write_text(f"redis: {{url: 'unix://{server.socket}'}}\n")
    control, terminal = pty.openpty()
    ran = subprocess.run(
        tool(tmp_path / "a.yaml", *arguments),
        stdout=subprocess.PIPE,
        stderr=terminal,
        check=True,
        text=True,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(terminal)
    told = os.read(control, 65536)
    os.close(control)
    assert shown.encode() in told
    assert ran.stdout.startswith(result)


# -- many sessions, on every kind of server


@pytest.fixture(params=["valkey", "redis7", "sentinel", "cluster"])
def everywhere(request: pytest.FixtureRequest) -> str:
    """One server, the primary that sentinels name, and a cluster."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    found.empty()
    return found.url


def test_everywhere(everywhere: str, command: Command) -> None:
    """Each command says the same, whatever holds the sessions."""

    def said(*arguments: str) -> list[dict[str, Any]]:
        ran = command(everywhere, *arguments, "--json")
        assert (ran.code, ran.error) == (0, "")
        return ran.objects

    assert said("load", "80") == [{"made": 80}]
    rows = {row["id"]: row for row in said("list")}
    assert len(rows) == 80
    (stats,) = said("stats")
    assert (stats["sessions"], sum(part["sessions"] for part in stats["size"])) == (80, 80)
    assert stats["signed_in"] == len([row for row in rows.values() if row["user"]])
    users = sorted({row["user"] for row in rows.values() if row["user"]})
    (one,) = said("list", "--user", users[0])
    assert one | {"expires": None} == rows[one["id"]] | {"expires": None}  # told to a millisecond
    (shown,) = said("show", one["id"], "--values")
    assert shown["values"]["altsession_load"] == 1
    assert said("end", one["id"]) == [{"ended": 1}]
    assert said("end-user", users[1]) == [{"ended": 1}]
    assert said("end-all", "--yes") == [{"ended": 78}]
    assert said("list") == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey", "cluster"])
def test_memory_stays_flat(
    kind: str,
    request: pytest.FixtureRequest,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A walk over five times as many sessions takes no more memory than the shorter one; 200 bytes
    for each session more would show. benchmarks/commands.py has figures of 100,000."""
    server: Server = request.getfixturevalue(f"{kind}_server")
    server.empty()
    monkeypatch.setattr(wire, "SCANNED", 20)
    monkeypatch.setattr(output, "print", lambda *text, **how: None, raising=False)
    api = SessionAPI(settings_for(server.url))
    most: dict[str, list[int]] = {"stats": [], "list": []}
    for more in (100, 400):
        for _ in range(more):
            session(api, cart=["tea"])
        for name, found in most.items():
            command(server.url, name, "--json")  # what is kept once is there
            gc.collect()
            tracemalloc.start()
            assert command(server.url, name, "--json").code == 0
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    api.close()
    assert {name for name, (few, many) in most.items() if many > few + 400 * 200} == set()


# -- secret and settings


def test_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """A new one each time, good enough for the setting; no file is needed."""
    found = [run_main(capsys, "none.ini", "secret").out.strip() for _ in range(2)]
    assert found[0] != found[1]
    assert min(map(len, found)) >= 43
    (row,) = run_main(capsys, "none.ini", "secret", "--json").objects
    assert len(row["secret"]) >= 43


def rows_of(ran_out: str) -> dict[str, tuple[object, str]]:
    rows = [json.loads(line) for line in ran_out.splitlines()]
    return {
        row["setting"].removeprefix("altsession."): (row["value"], row["source"]) for row in rows
    }


def test_settings_of_an_ini_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each setting with its value and where it comes from; what is secret is masked."""
    own = tmp_path / "own.yaml"
    own.write_text(f"session:\n  tti: 300\n  secret: {SECRET}\nsync:\n  enabled: true\n")
    ini = tmp_path / "app.ini"
    ini.write_text(
        "[app:main]\nuse = egg:pyramid_altsession#demo\naltsession.config = %(here)s/own.yaml\n"
        f"altsession.redis.url = redis://ann:{SECRET}@example.com:%(port)s/0\n"
        "altsession.session.codec = pyramid_altsession.codecs.encrypted\n"
        f"altsession.session.codec_secret = {SECRET}\n"
        "altsession.session.prefetch = a b\n"
    )
    override = ["altsession.sync.enabled=false", "port=6380"]
    ran = run_main(capsys, str(ini), "settings", "--json", *override)
    assert SECRET not in ran.out
    rows = rows_of(ran.out)
    assert rows["redis.url"] == ("********", str(ini))
    assert rows["redis.host"] == ("example.com", "redis.url")
    assert rows["redis.port"] == (6380, "redis.url")
    assert rows["redis.password"] == ("********", "redis.url")
    assert rows["redis.socket"] == (None, "default")
    assert rows["session.tti"] == (300, f"{own}:2")
    assert rows["session.secret"] == ("********", f"{own}:3")
    assert rows["session.codec"] == ("pyramid_altsession.codecs.encrypted", str(ini))
    assert rows["sync.enabled"] == (False, "command line")
    assert rows["session.lifetime"] == (86400, "default")
    shown = run_main(capsys, str(ini), "settings", "port=1").out
    assert SECRET not in shown
    assert "altsession.session.prefetch" in shown


def test_settings_of_an_application_in_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A .yaml file of a whole application is read by plaster, as pserve does."""
    file = tmp_path / "app.yaml"
    file.write_text(
        "app:\n  use: egg:pyramid_altsession#demo\n  altsession: {session: {tti: 300}}\n"
    )
    ran = run_main(capsys, str(file), "settings", "--json")
    assert rows_of(ran.out)["session.tti"] == (300, str(file))


def test_settings_of_a_codec_without_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its type is shown, and nothing of what it holds."""
    module = "import functools\nfrom pyramid_altsession.codecs import rich\n"
    (tmp_path / "nameless.py").write_text(f"{module}made = functools.partial(rich, '{SECRET}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text("session: {codec: nameless.made}\n")
    ran = run_main(capsys, str(file), "settings", "--json")
    assert SECRET not in ran.out
    assert rows_of(ran.out)["session.codec"] == ("functools.partial", f"{file}:1")


# -- one clear line


BROKEN = {
    "no section": (f"{SECRET}\n", "neither a section"),
    "no setting": (f"[app:main]\n{SECRET}\n", "line 2"),
    "lone percent": (f"[app:main]\nuse = x\na = {SECRET}%2\n", "[app:main] a: a %"),
    "no application": ("[server:main]\nuse = x\n", "needs a section [app:main]"),
    "no module": ("[app:main]\nuse = call:nowhere:main\n", "No module named 'nowhere'); if pserve"),
    "no function": ("[app:main]\nuse = call:json:nowhere\n", "cannot be imported (module 'json'"),
    "not installed": ("[app:main]\nuse = egg:nowhere\n", "cannot be imported (No package"),
    "wrong setting": (
        f"[app:main]\nuse = egg:pyramid_altsession#demo\naltsession.redis.url = x:{SECRET}\n",
        "altsession.redis.url: must be",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with a file is told in one line, without what stands there."""
    text, wanted = BROKEN[name]
    file = tmp_path / "broken.ini"
    file.write_text(text)
    ran = run_main(capsys, str(file), "list")
    assert (ran.code, wanted in ran.error) == (1, True), ran.error
    assert SECRET not in ran.error


def test_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is wrong is named."""
    ran = run_main(capsys, "nowhere.ini", "list")
    assert (ran.code, ran.error) == (1, "altsession: nowhere.ini: there is no such file\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", [["list"], ["end-all", "--yes"], ["doctor"], ["watch"]])
def test_no_server_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server at the default address may hold the sessions of others, so it is not assumed."""
    file = tmp_path / "app.ini"
    file.write_text("[app:main]\nuse = egg:pyramid_altsession#demo\naltsesion.redis.url = x\n")
    ran = run_main(capsys, str(file), *command, "altsession.session.notify=life")
    assert (ran.code, "altsession: the settings name no server" in ran.error) == (1, True)
    assert run_main(capsys, str(file), "settings").code == 0
    port = "altsession.redis.port=1"
    assert "localhost:1 does not serve" in run_main(capsys, str(file), "list", port).error


def test_unknown_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody reads such a URI."""
    ran = run_main(capsys, "gopher://x", "list")
    assert (ran.code, "nothing here can read it" in ran.error) == (1, True)


def test_application_in_yaml_without_its_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the package that reads such a file, for pserve as well."""

    def not_found(uri: str, options: dict[str, str]) -> None:
        raise plaster.LoaderNotFound("file+yaml")

    monkeypatch.setattr(configuration, "get_appsettings", not_found)
    file = tmp_path / "app.yaml"
    file.write_text("app: {use: 'egg:shop'}\n")
    ran = run_main(capsys, f"{file}#main", "list")
    assert (ran.code, "pip install plaster-yaml" in ran.error) == (1, True)


def test_words_that_are_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """An override without a = is named, but not what may be a password in it."""
    for word in ("tti", f"redis://ann:{SECRET}"):
        ran = run_main(capsys, "x.ini", "list", f"{word}@host" if ":" in word else word)
        assert (ran.code, "key=value" in ran.error) == (1, True)


def test_server_away(tmp_path: Path, command: Command) -> None:
    """One line names the server."""
    ran = command(f"unix://{tmp_path}/s", "list")
    assert (ran.code, f"{tmp_path}/s does not serve" in ran.error) == (1, True)


COMMANDS = [
    *(["list"], ["list", "--user", "ann"], ["show", "x" * 22], ["end", "x" * 22]),
    *(["end-user", "ann"], ["end-all", "--yes"], ["stats"], ["load", "5"], ["watch"]),
]
NOTIFY = {"session": {"notify": "life"}}


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_any_command_with_the_server_away(
    arguments: list[str], as_json: list[str], tmp_path: Path, command: Command
) -> None:
    """One line on standard error, and nothing on standard output; the password is not in it."""
    ran = command(f"unix://ann:{SECRET}@{tmp_path}/s", *arguments, *as_json, **NOTIFY)
    assert (ran.code, ran.out, ran.error.count("\n")) == (1, "", 1)
    assert f"{tmp_path}/s does not serve" in ran.error
    assert SECRET not in ran.error


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_any_command_without_permission(
    arguments: list[str], server: Server, command: Command
) -> None:
    """One line says what the server refused."""
    rights = ("reset", "on", f">{SECRET}", "+info", "resetchannels")
    server.client.execute_command("ACL", "SETUSER", "poor", *rights)
    url = server.tcp_url.replace("redis://", f"redis://poor:{SECRET}@")
    ran = command(url, *arguments, "--json", **NOTIFY)
    assert (ran.code, ran.out, ran.error.count("\n")) == (1, "", 1)
    assert "permission" in ran.error
    assert SECRET not in ran.error
    server.client.acl_deluser("poor")


@pytest.mark.parametrize("arguments", [["show"], ["show", "--values"], ["end"]])
@pytest.mark.parametrize("id", ["x" * 22, "nobody", "", "user:x", "ä b"])
def test_unknown_id(id: str, arguments: list[str], server: Server, command: Command) -> None:
    """It is named, whatever it looks like."""
    ran = command(server.url, *arguments, id, "--json")
    assert (ran.code, ran.out) == (1, "")
    assert ran.error == f"altsession: {id}: no live session has this id\n"


def test_wrong_password(server: Server, command: Command) -> None:
    """It is not shown."""
    url = server.tcp_url.replace("redis://", f"redis://ann:{SECRET}@")
    ran = command(url, "list")
    assert (ran.code, SECRET in ran.error) == (1, False)


def test_memory_store(command: Command) -> None:
    """Sessions within another process cannot be seen."""
    ran = command("memory://", "list")
    assert (ran.code, "memory:// keeps sessions within the application" in ran.error) == (1, True)


def test_without_rich(
    server: Server, api: SessionAPI, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables say what to install; --json works."""
    monkeypatch.delitem(sys.modules, "pyramid_altsession.cli.tables")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    ran = command(server.url, "list")
    assert (ran.code, 'pip install "pyramid_altsession[cli]"' in ran.error) == (1, True)
    assert command(server.url, "list", "--json").code == 0


@pytest.mark.parametrize("arguments", [["load", "0"], ["load", "x"], ["unheard-of"], []])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """argparse's usage, and exit code 2."""
    with pytest.raises(SystemExit) as caught:
        run_main(capsys, "x.ini", *arguments)
    assert caught.value.code == 2


@pytest.mark.process
def test_completion(tmp_path: Path) -> None:
    """The script that shtab makes, as docs/operator.rst tells, completes commands in bash."""
    page = (Path(__file__).parents[2] / "docs/operator.rst").read_text()
    made = re.findall(r"\$ (shtab .*) > \S+/(altsession)$", page, re.MULTILINE)
    ((line, name),) = made
    tool = Path(sys.executable).with_name("shtab")
    script = subprocess.run(
        [tool, *line.split()[1:]], check=True, capture_output=True, text=True
    ).stdout
    (tmp_path / name).write_text(script)
    asked = (
        f"source {tmp_path / name}; COMP_WORDS=(altsession app.ini st); COMP_CWORD=2;"
        " $(complete -p altsession | sed 's/.*-F \\(\\S*\\).*/\\1/') altsession st app.ini;"
        ' echo "${COMPREPLY[@]}"'
    )
    bash = ["bash", "--norc", "-c", asked]
    assert subprocess.run(bash, check=True, capture_output=True, text=True).stdout == "stats\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """--help has examples, and every command says what it does."""
    with pytest.raises(SystemExit) as caught:
        run_main(capsys, "--help")
    assert caught.value.code == 0
    assert EXAMPLES in capsys.readouterr().out


def test_interrupted(server: Server, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command without a traceback."""

    def interrupt(*ignored: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output.Lines, "rows", interrupt)
    assert command(server.url, "list", "--json").code == 130


@pytest.mark.slow
def test_reader_that_has_seen_enough(server: Server, api: SessionAPI, tmp_path: Path) -> None:
    """`altsession … | head` ends without a traceback."""
    session(api, k=1)
    (tmp_path / "a.yaml").write_text(f"redis: {{url: 'unix://{server.socket}'}}\n")
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        tool(tmp_path / "a.yaml", "list", "--json"),
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_broken_pipe(
    server: Server, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not written yet is dropped: the end of the process must not stumble over it."""

    def nobody_reads(*ignored: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(output.Lines, "rows", nobody_reads)
    with open(tmp_path / "out", "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert command(server.url, "list", "--json").code == 1
        print("more", file=out, flush=True)
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["secret"], ["secret", "--json"], ["settings"], ["settings", "--json"], ["list"]]
)
def test_full_disk(arguments: list[str], server: Server, api: SessionAPI, tmp_path: Path) -> None:
    """What cannot be written is told in one line; the end of the process adds nothing to it."""
    session(api, k=1)
    (tmp_path / "a.yaml").write_text(f"redis: {{url: 'unix://{server.socket}'}}\n")
    buffered = [part for part in tool(tmp_path / "a.yaml", *arguments) if part != "-u"]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(buffered, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (ran.returncode, ran.stderr) == (
        1,
        b"altsession: standard output: No space left on device\n",
    )


def test_file_that_cannot_be_opened(
    server: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other file is named."""

    def refuse(*ignored: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/log/app.log")

    monkeypatch.setattr(output.Lines, "rows", refuse)
    ran = command(server.url, "list", "--json")
    assert (ran.code, ran.error) == (1, "altsession: /var/log/app.log: Permission denied\n")


def test_closed_output(
    server: Server,
    api: SessionAPI,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`altsession … >&-`: nothing is done, because nobody would be told."""
    id = session(api, "ann")
    (tmp_path / "a.yaml").write_text(f"redis: {{url: 'unix://{server.socket}'}}\n")
    monkeypatch.setattr(sys, "stdout", None)
    assert main([str(tmp_path / "a.yaml"), "end", id]) == 1
    assert capsys.readouterr().err == "altsession: standard output is closed\n"
    assert api.describe(id) is not None


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("arguments", [["list"], ["stats"], ["settings"], ["list", "--help"]])
def test_output_in_an_encoding_that_lacks_characters(
    arguments: list[str], encoding: str, server: Server, api: SessionAPI, tmp_path: Path
) -> None:
    """They are printed as escapes."""
    session(api, "Łucja")
    session(api, k=1)
    file = tmp_path / "a.yaml"
    file.write_text(f"redis: {{url: 'unix://{server.socket}'}}\n")
    ran = subprocess.run(
        tool(file, *arguments),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"\\u" in ran.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "5 s ago"),
        (119.5, "in 119 s"),
        (-121, "2 min ago"),
        (7300, "in 2 h"),
        (-200_000, "2 d ago"),
    ],
)
def test_span(seconds: float, text: str) -> None:
    """A time is told in one unit."""
    assert tables.span(seconds) == text


# -- what is ended is logged


@pytest.mark.slow
def test_audit(
    server: Server, api: SessionAPI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With log_events the end of a session goes where the application's log goes."""
    id = session(api, "ann")
    log = tmp_path / "audit.log"
    file = tmp_path / "app.ini"
    file.write_text(
        "[app:main]\nuse = egg:pyramid_altsession#demo\naltsession.log_events = json\n"
        f"altsession.redis.url = unix://{server.socket}\n"
        "[loggers]\nkeys = root\n[handlers]\nkeys = file\n[formatters]\nkeys = line\n"
        "[logger_root]\nlevel = INFO\nhandlers = file\n"
        "[handler_file]\nclass = FileHandler\nargs = ('%(logs)s/audit.log',)\nformatter = line\n"
        "[formatter_line]\nformat = %(message)s\n"
    )
    subprocess.run(tool(file, "end", id, "--json", f"logs={tmp_path}"), check=True)
    line = json.loads(log.read_text())
    assert (line["event"], line["session"], line["by"]) == ("invalidated", id, "administration")


@pytest.mark.parametrize(
    ("failure", "name"),
    [(KeyError("formatters"), "KeyError"), (ConnectionRefusedError(), "ConnectionRefusedError")],
)
def test_logging_that_cannot_be_set_up(
    failure: Exception,
    name: str,
    server: Server,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line says so, and nothing is done: what is ended could not be logged."""

    def fail(*ignored: object) -> None:
        raise failure

    monkeypatch.setattr(plaster, "setup_logging", fail)
    ran = command(server.url, "end-all", "--yes", log_events=True)
    assert ran.code == 1
    assert f"logging cannot be set up as its sections say ({name})" in ran.error


@pytest.mark.parametrize(("events", "asked"), [(True, 1), ("json", 1), (False, 0)])
def test_logging_is_set_up_for_events(
    events: bool | str,
    asked: int,
    server: Server,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only where events are logged; a file that says nothing of logging is no fault."""
    uris: list[str] = []

    def set_up(uri: str, defaults: object) -> None:
        uris.append(uri)
        raise plaster.PlasterError

    monkeypatch.setattr(plaster, "setup_logging", set_up)
    assert command(server.url, "list", "--json", log_events=events).code == 0
    assert len(uris) == asked
