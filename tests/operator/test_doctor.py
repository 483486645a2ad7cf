"""``altsession CONFIG_URI doctor``: each finding, on a server that deserves it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from apps import settings_for
from operator_cli import Command, Ran, run_main
from redis.exceptions import NoPermissionError
from servers import Server, valkey
from topologies import Cluster, Sentinels, until

from pyramid_altsession.cli import configuration
from pyramid_altsession.cli.doctor import clock, latency, of_store, settings_of
from pyramid_altsession.cli.findings import ERROR, OK, WARNING, Finding
from pyramid_altsession.cli.of_server import of_server
from pyramid_altsession.cli.of_settings import of_settings
from pyramid_altsession.cli.rights import ARGUMENTS, CONFIRMING, LISTING, OTHERS, rights
from pyramid_altsession.cli.tables import Tables
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import Settings
from pyramid_altsession.stores import open_store
from pyramid_altsession.stores.redis.connections import connections
from pyramid_altsession.stores.redis.node import ServerNode
from pyramid_altsession.stores.redis.pool import ConnectionPool
from pyramid_altsession.stores.redis.store import RedisStore

FIT = (
    *("--appendonly", "yes", "--maxmemory", "1gb", "--maxmemory-policy", "noeviction"),
    *("--hash-max-listpack-value", "512"),
)
"""Options of a server that is fit for sessions."""
COOKIE = {"session": {"cookie_name": "__Host-sid"}}
RIGHTS = sorted({*ARGUMENTS, *OTHERS, LISTING, CONFIRMING})


@pytest.fixture(scope="module")
def fit_server() -> Iterator[Server]:
    server = valkey(*FIT)
    yield server
    server.stop()


@pytest.fixture
def fit(fit_server: Server) -> Iterator[Server]:
    """A server that is fit for sessions; what a test sets is set back."""
    yield fit_server
    client = fit_server.client
    client.replicaof("NO", "ONE")  # type: ignore[no-untyped-call]
    client.config_set("maxmemory", "1gb")
    client.config_set("maxmemory-policy", "noeviction")
    client.acl_deluser("app")
    client.flushall()


def found(ran: Ran) -> dict[str, tuple[str, str, str]]:
    """Level, words and advice of each check."""
    return {row["check"]: (row["level"], row["found"], row["advice"]) for row in ran.objects}


def levels(ran: Ran) -> dict[str, str]:
    """Those that are not well."""
    return {check: level for check, (level, _, _) in found(ran).items() if level != OK}


def examined(command: Command, server: Server) -> Ran:
    return command(server.url, "doctor", "--json", **COOKIE)


# -- servers


def test_good_server(fit: Server, command: Command) -> None:
    """Nothing is wrong: exit code 0. The examination leaves nothing behind."""
    ran = examined(command, fit)
    assert levels(ran) == {}
    assert ran.code == 0
    assert list(found(ran)) == [
        *("cookie", "times", "transport", "reachable", "version", "persistence", "eviction"),
        *("memory", "replication", "hash-max-listpack-value", "timeout", "clock", "rights"),
        *("requests", "latency"),
    ]
    assert fit.client.keys("*doctor*") == []


def test_for_people(fit: Server, command: Command) -> None:
    """A line for each finding, with its advice below."""
    fit.client.config_set("maxmemory-policy", "allkeys-lru")
    ran = command(fit.url, "doctor", **COOKIE)
    assert ran.code == 1
    lines = ran.out.splitlines()
    at = lines.index("error    eviction: allkeys-lru")
    assert lines[at + 1].strip().startswith("a full server ends sessions")
    assert "ok       cookie: __Host-sid; Secure; SameSite=Lax" in lines


def test_what_a_server_wrote_is_no_command_for_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its words are printed, and not obeyed."""
    row = Finding("requests", ERROR, "an \x1b[8merror", "see \x9b2J", "a\nb")._asdict()
    Tables().finding(row)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        r"error    requests (a\nb): an \x1b[8merror",
        r"see \x9b2J",
    ]


def test_eviction(fit: Server, command: Command) -> None:
    """A server that evicts ends sessions that are in use."""
    fit.client.config_set("maxmemory-policy", "allkeys-lru")
    ran = examined(command, fit)
    assert levels(ran) == {"eviction": ERROR}
    assert "noeviction" in found(ran)["eviction"][2]
    assert ran.code == 1


def test_no_persistence(server: Server, command: Command) -> None:
    """A restart ends every session; nothing limits its memory; long values cost double."""
    ran = examined(command, server)
    assert levels(ran) == {
        "persistence": WARNING,
        "memory": WARNING,
        "hash-max-listpack-value": WARNING,
    }
    assert "a restart ends every session" in found(ran)["persistence"][2]
    assert ran.code == 0


def test_idle_connections_are_closed(server: Server, command: Command) -> None:
    """timeout other than 0 makes calls connect anew."""
    server.client.config_set("timeout", "100")
    try:
        assert levels(examined(command, server))["timeout"] == WARNING
    finally:
        server.client.config_set("timeout", "0")


def as_user(
    command: Command, server: Server, *rights: str, notify: str = "none", database: int = 0
) -> Ran:
    """The doctor, as a user with these rights."""
    server.client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">word", *rights)
    file_settings = {"session": {**COOKIE["session"], "notify": notify}}
    url = f"redis://app:word@127.0.0.1:{server.port}/{database}"
    return command(url, "doctor", "--json", **file_settings)


LOOKING = ("~sess:*", "+info", "+config|get", "+ping")


def commands(*without: str) -> list[str]:
    return [f"+{name}" for name in RIGHTS if name not in without]


def test_documented_rights(fit: Server, command: Command) -> None:
    """The rights that docs/operations.rst names are enough; what the server may not tell is
    said."""
    page = (Path(__file__).parents[2] / "docs/operations.rst").read_text()
    documented = re.findall(r" \+(\w+)", page.partition("ACL SETUSER")[2].partition("\n\n")[0])
    assert sorted([*documented, LISTING, CONFIRMING]) == RIGHTS
    assert f"``+{CONFIRMING}``" in page
    ran = as_user(command, fit, "~sess:*", *(f"+{name}" for name in documented))
    assert levels(ran) == {"CONFIG GET": WARNING, "INFO": WARNING, "rights": WARNING}
    assert [list(row.values())[1:4] for row in ran.objects if row["check"] == "rights"] == [
        [
            WARNING,
            "user app may not run scan",
            "ACL SETUSER app +scan, for list, stats, load and end-all",
        ],
        [
            WARNING,
            "user app may not run wait",
            "ACL SETUSER app +wait, for calls with durable=True",
        ],
    ]
    assert ran.code == 0


def test_all_rights(fit: Server, command: Command) -> None:
    """A user who may do all of it is fit."""
    assert levels(as_user(command, fit, *LOOKING, *commands())) == {}


def test_rights_to_publish(fit: Server, command: Command) -> None:
    """Where writes tell those who watch, the command and the channels are needed, and else not."""
    most = (*LOOKING, *commands(), "resetchannels")
    assert levels(as_user(command, fit, *most)) == {}
    ran = as_user(command, fit, *most, notify="life")
    assert [list(row.values())[1:4] for row in ran.objects if row["check"] == "rights"] == [
        [ERROR, "user app may not run spublish", "ACL SETUSER app +spublish"],
        [WARNING, "user app may not run publish", "ACL SETUSER app +publish, for watch"],
    ]
    both = ("+spublish", "+publish")
    assert found(as_user(command, fit, *most, *both, notify="life"))["rights"] == (
        ERROR,
        "user app may not publish to channels that begin with sess:",
        "ACL SETUSER app &sess:*",
    )
    assert levels(as_user(command, fit, *most, *both, "&sess:*", notify="keys")) == {}


def test_no_scripts(fit: Server, command: Command) -> None:
    """Without scripts nothing can be written."""
    ran = as_user(command, fit, *LOOKING, *commands("eval", "evalsha"))
    assert levels(ran) == {"rights": ERROR, "requests": ERROR}
    assert found(ran)["rights"] == (
        ERROR,
        "user app may not run eval, evalsha",
        "ACL SETUSER app +eval +evalsha; a server that runs no scripts cannot hold sessions: each"
        " write is one",
    )
    assert ran.code == 1


def test_no_pexpireat(fit: Server, command: Command) -> None:
    """A command that only scripts use is missed too."""
    ran = as_user(command, fit, *LOOKING, *commands("pexpireat"))
    assert levels(ran) == {"rights": ERROR, "requests": ERROR}
    assert found(ran)["rights"][1] == "user app may not run pexpireat"
    assert "pexpireat" in found(ran)["requests"][1].lower()


@pytest.mark.parametrize("name", RIGHTS)
def test_each_right_is_tried(name: str, server: Server, command: Command) -> None:
    """Whatever command is missing is named."""
    ran = as_user(command, server, *LOOKING, *commands(name))
    assert found(ran)["rights"][1] == f"user app may not run {name}"
    server.client.acl_deluser("app")


@pytest.mark.parametrize(("url", "missed"), [("redis://db", True), ("embedded://", False)])
def test_right_to_wait(url: str, missed: bool, fit: Server, tmp_path: Path) -> None:
    """An embedded server has no replicas, so no call waits for one, and the right is not missed."""
    as_app = f"redis://app:word@127.0.0.1:{fit.port}"
    fit.client.execute_command(
        "ACL", "SETUSER", "app", "reset", "on", ">word", *LOOKING, *commands(CONFIRMING)
    )
    file = tmp_path / "a.yaml"
    file.write_text(f"redis: {{url: '{url}'}}\n")
    store = open_store(settings_for(as_app))
    findings = [each for each in of_store(configuration.read(str(file)), store) if each.level != OK]
    store.close()
    told = [each.found.partition(" may not ")[2] for each in findings]
    assert told == (["run wait"] if missed else [])


def test_other_keys(fit: Server, command: Command) -> None:
    """A user who may use other keys only."""
    ran = as_user(command, fit, "~other:*", *LOOKING[1:], *commands())
    assert found(ran)["rights"] == (
        ERROR,
        "user app may not use keys that begin with sess:",
        "ACL SETUSER app ~sess:*",
    )


@pytest.mark.parametrize(
    ("database", "check", "words"),
    [
        (0, "rights", "user app may not use database 0"),
        (1, "reachable", "does not serve: No permissions to access database"),
    ],
)
def test_other_databases(
    database: int, check: str, words: str, fit: Server, command: Command
) -> None:
    """A user who may use other databases only, as Valkey 9.1 can have it. Any other database than 0
    is chosen when the connection is made."""
    everything = ("~*", "&*", "+@all", "db=2,3")
    ran = as_user(command, fit, *everything, database=database)
    level, told, advice = found(ran)[check]
    assert (level, words in told) == (ERROR, True)
    assert advice == f"ACL SETUSER app db={database} and the user's other databases, or alldbs"
    assert (ran.code, ran.error) == (1, "")


def test_refusal_of_another_kind() -> None:
    """Whatever a server refuses is told under the command's name."""

    def ask(*command: str) -> None:
        if command[0] == "hget":
            raise NoPermissionError("No")

    assert [*rights(ask, "sess", None)] == [
        Finding("rights", ERROR, "user default may not run hget", "ACL SETUSER default +hget")
    ]


def test_no_time(fit: Server, command: Command) -> None:
    """A clock that may not be asked is not judged."""
    ran = as_user(command, fit, *LOOKING, *commands("time"))
    assert "clock" not in found(ran)
    assert found(ran)["rights"][1] == "user app may not run time"


def test_command_that_is_not_there(command: Command) -> None:
    """A command that the server does not have, as hosts take some away, is a missing right."""
    server = valkey(*FIT, "--rename-command", "ZRANDMEMBER", "")
    try:
        assert found(examined(command, server))["rights"][1] == (
            "user default may not run zrandmember"
        )
    finally:
        server.stop()


def test_full_server(fit: Server, command: Command) -> None:
    """A full server lets no session begin."""
    fit.client.config_set("maxmemory", "1mb")
    ran = examined(command, fit)
    assert levels(ran) == {"memory": ERROR, "requests": ERROR}
    assert found(ran)["memory"][1].endswith("of 1.0 MiB: full")
    assert "is full" in found(ran)["requests"][1]


def test_replica(fit: Server, command: Command) -> None:
    """A read-only replica serves no writes."""
    fit.client.replicaof("127.0.0.1", "1")  # type: ignore[no-untyped-call]
    ran = examined(command, fit)
    assert levels(ran) == {"replication": ERROR, "requests": ERROR}
    assert found(ran)["replication"][1] == "a read-only replica"


@pytest.mark.slow
def test_plain_text_where_tls_is_configured(server: Server, command: Command) -> None:
    """The advice says so, and no password was sent."""
    url = f"rediss://ann:word@127.0.0.1:{server.port}"
    wait = "altsession.redis.connect_timeout=1"  # it waits for the end of what it takes for a line
    ran = command(url, "doctor", "--json", wait, **COOKIE)
    level, _, advice = found(ran)["reachable"]
    assert (level, "speaks plain text" in advice) == (ERROR, True)
    assert list(found(ran)) == ["cookie", "times", "transport", "reachable"]
    assert ran.code == 1


def test_nobody_listens(tmp_path: Path, command: Command) -> None:
    """No server: with and without TLS."""
    for url in (f"unix://{tmp_path}/s", "rediss://127.0.0.1:1"):
        level, _, advice = found(command(url, "doctor", "--json", **COOKIE))["reachable"]
        assert (level, advice) == (ERROR, "see altsession.redis.url, and whether the server runs")


URL, USERNAME = "altsession.redis.url", "altsession.redis.username"
FILE, NO_FILE = "a file", "no file"


@pytest.mark.parametrize(
    ("user", "given", "found_there", "advice"),
    [
        ("", {}, "Authentication required", URL),
        (":wrong@", {}, "invalid username-password", URL),
        ("bob:word@", {}, "invalid username-password", URL),
        ("app@", {"password_file": FILE}, "username-password", f"{URL} and {{}}password_file"),
        ("app@", {"password_file": NO_FILE}, "password_file: {} cannot be read", None),
        (None, {"password": "wrong"}, "username-password", f"{USERNAME} and {{}}password"),
        (None, {"password_file": FILE}, "username-password", f"{USERNAME} and {{}}password_file"),
    ],
)
def test_wrong_password(
    user: str | None,
    given: dict[str, str],
    found_there: str,
    advice: str | None,
    own_server: Server,
    command: Command,
    tmp_path: Path,
) -> None:
    """The advice names the settings that hold user and password; a file that cannot be read is
    named without one."""
    own_server.client.config_set("requirepass", "word")
    (tmp_path / FILE).write_text("wrong\n")
    more = {name: str(tmp_path / v) if v in (FILE, NO_FILE) else v for name, v in given.items()}
    place: dict[str, Any] = {"host": "127.0.0.1", "port": own_server.port}
    if user is not None:
        place = {"url": f"redis://{user}127.0.0.1:{own_server.port}"}
    ran = command("", "doctor", "--json", **COOKIE, redis={**place, **more})
    level, words, told = found(ran)["reachable"]
    assert (level, found_there.format(tmp_path / NO_FILE) in words) == (ERROR, True)
    wanted = f"check user and password: {advice}" if advice else ""
    assert told == wanted.format("altsession.redis.")


def test_password_that_no_server_wants(server: Server, command: Command) -> None:
    """It is refused as a wrong one is."""
    ran = command(f"redis://:word@127.0.0.1:{server.port}", "doctor", "--json", **COOKIE)
    level, words, advice = found(ran)["reachable"]
    assert (level, "without any password configured" in words) == (ERROR, True)
    assert advice == "check user and password: altsession.redis.url"


def test_wrong_password_of_sentinels(sentinel_server: Sentinels, command: Command) -> None:
    """They have a user and a password of their own."""
    given = {"url": sentinel_server.url, "sentinel_password": "wrong"}
    level, words, advice = found(command("", "doctor", "--json", redis=given))["reachable"]
    assert (level, "no sentinel names the primary" in words) == (ERROR, True)
    names = "altsession.redis.sentinel_username and altsession.redis.sentinel_password"
    assert advice == f"check user and password: {names}"


def test_no_password_for_a_primary(sentinel_server: Sentinels, command: Command) -> None:
    """The words are those of another command than PING."""
    primary = sentinel_server.current
    primary.client.config_set("requirepass", "word")
    try:
        ran = command(sentinel_server.url, "doctor", "--json")
    finally:
        primary.client.config_set("requirepass", "")
    assert found(ran)["reachable"][2] == "check user and password: altsession.redis.url"


def test_no_memory_store(command: Command) -> None:
    """There is no server to examine; what the settings say is judged before."""
    ran = command("memory://", "doctor", "--json")
    assert (ran.code, "memory://" in ran.error) == (1, True)


class Nodes:
    """Two servers that hold one application's sessions, the second of which is down."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.execute, self.send, self.close = store.execute, store.send, store.close

    def nodes(self) -> list[ServerNode]:
        (node,) = self.store.nodes()
        node.name = "first"
        away = ConnectionPool(connections(settings_for("unix:///nowhere").redis), limit=1, wait=1)
        return [node, ServerNode("second", away)]


def test_several_nodes(fit: Server, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several servers each is examined under its name; one that is down hides no other."""

    def open_both(settings: Settings) -> Nodes:
        return Nodes(RedisStore.from_settings(settings.redis, "sess"))

    monkeypatch.setattr(configuration, "open_store", open_both)
    ran = examined(command, fit)
    reachable = [row for row in ran.objects if row["check"] == "reachable"]
    assert [(row["node"], row["level"]) for row in reachable] == [("first", OK), ("second", ERROR)]
    assert {row["node"] for row in ran.objects if row["check"] == "memory"} == {"first"}
    assert found(ran)["requests"][0] == OK
    out = command(fit.url, "doctor").out
    assert "error    reachable (second): second does not serve" in out


def test_sentinels(sentinel_server: Sentinels, command: Command) -> None:
    """The primary that sentinels name is examined, and its replica seen."""
    ran = command(sentinel_server.url, "doctor", "--json", **COOKIE)
    assert found(ran)["requests"][0] == OK
    assert found(ran)["replication"] == (OK, "1 replica", "")
    assert found(ran)["persistence"][0] == ERROR  # it would come back empty
    assert found(ran)["min-replicas-to-write"][0] == WARNING
    assert ran.code == 1


def test_cluster(cluster_server: Cluster, command: Command) -> None:
    """Each primary of a cluster is examined under its name."""
    ran = command(cluster_server.url, "doctor", "--json", **COOKIE)
    reachable = [row["node"] for row in ran.objects if row["check"] == "reachable"]
    assert len(set(reachable)) == 3
    assert found(ran)["requests"][0] == OK
    assert found(ran)["rights"][0] == OK


def state_of(node: Server) -> str:
    return str(node.client.execute_command("CLUSTER", "INFO"))


@pytest.mark.slow
def test_cluster_with_a_node_down(command: Command) -> None:
    """The node is named, the others are examined, and what requests meet is told."""
    cluster = Cluster()
    try:
        down, replica = cluster.nodes[2::3]
        for node in (replica, down):
            node.kill()
        until(lambda: all("cluster_state:fail" in state_of(node) for node in cluster.alive))
        ran = command(cluster.url, "doctor", "--json", **COOKIE)
    finally:
        cluster.stop()
    reachable = {row["node"]: row["level"] for row in ran.objects if row["check"] == "reachable"}
    name = f"127.0.0.1:{down.port}"
    assert (reachable.pop(name), set(reachable.values()), len(reachable)) == (ERROR, {OK}, 2)
    assert {row["node"] for row in ran.objects if row["check"] == "eviction"} == set(reachable)
    assert found(ran)["rights"][0] == OK
    for check in ("requests", "latency"):
        level, words, _ = found(ran)[check]
        assert (level, "does not serve" in words) == (ERROR, True)
    assert (ran.code, ran.error) == (1, "")


def test_cluster_that_is_down(command: Command) -> None:
    """The nodes that the settings name are told."""
    ran = command("redis+cluster://127.0.0.1:1,127.0.0.1:2", "doctor", "--json", **COOKIE)
    reachable = [row for row in ran.objects if row["check"] == "reachable"]
    assert [(row["node"], row["level"]) for row in reachable] == [
        ("127.0.0.1:1", ERROR),
        ("127.0.0.1:2", ERROR),
    ]


# -- what a server says of itself

INFO = {
    "redis_version": "7.4.1",
    "aof_enabled": "1",
    "maxmemory_policy": "noeviction",
    "maxmemory": "1000",
    "used_memory": "100",
    "role": "master",
}
CONFIG = {
    "save": "",
    "timeout": "0",
    "hash-max-listpack-value": "512",
    "min-replicas-to-write": "1",
}


def judged(config: dict[str, str] | None = CONFIG, **info: str) -> dict[str, Finding]:
    """By check, what is not well."""
    findings = list(of_server(INFO | info, config))
    return {each.check: each for each in findings if each.level != OK}


def test_old_versions() -> None:
    """Redis before 7.0 and Valkey before 7.2 lack what is needed."""
    assert judged() == {}
    assert judged(redis_version="6.2.14")["version"].found == "redis 6.2.14"
    assert judged(server_name="valkey", valkey_version="7.2.0") == {}
    assert judged(server_name="other", redis_version="7.0.0") == {}


def test_persistence_that_fails() -> None:
    """A snapshot or file that could not be written."""
    assert judged(rdb_last_bgsave_status="err")["persistence"].level == ERROR
    assert judged(aof_last_write_status="err")["persistence"].level == ERROR


def test_snapshots() -> None:
    """They are enough, and lose more than the file does."""
    assert judged(CONFIG | {"save": "900 1"}, aof_enabled="0") == {}


def test_persistence_that_is_not_told() -> None:
    """Without CONFIG GET nobody knows of snapshots."""
    assert judged(None, aof_enabled="0")["persistence"].level == WARNING


REPLICA = "ip=10.0.0.2,port=6379,state=online,offset=7,lag=1"


@pytest.mark.parametrize(
    "name", ["save", "timeout", "hash-max-listpack-value", "min-replicas-to-write"]
)
def test_a_part_of_the_configuration_that_is_not_told(name: str) -> None:
    """A hosted server may leave out any of it: what depends on it is not judged."""
    info = INFO | {"aof_enabled": "0", "slave0": REPLICA}
    told = {other: value for other, value in CONFIG.items() if other != name}
    checks = {finding.check for finding in of_server(info, told)}
    assert {"version", "persistence", "eviction", "memory", "replication"} <= checks
    assert name not in checks


def test_primary_that_restarts_empty() -> None:
    """Its replicas would drop all they have."""
    bad = judged(aof_enabled="0", connected_slaves="1", slave0=REPLICA)["persistence"]
    assert (bad.level, "comes back empty" in bad.advice) == (ERROR, True)


def test_replicas() -> None:
    """One that lags or is not online is named; writes should wait for one."""
    assert judged(connected_slaves="1", slave0=REPLICA) == {}
    late = judged(slave0=REPLICA, slave1=REPLICA.replace("lag=1", "lag=60"))["replication"]
    assert late.found == "10.0.0.2:6379 is online, last heard of 60 s ago"
    away = judged(slave0=REPLICA.replace("online", "wait_bgsave"))["replication"]
    assert (away.level, "is wait_bgsave" in away.found) == (WARNING, True)
    alone = judged(CONFIG | {"min-replicas-to-write": "0"}, slave0=REPLICA)
    assert list(alone) == ["min-replicas-to-write"]
    assert judged(None, slave0=REPLICA) == {}


def test_memory_that_runs_out() -> None:
    """From four fifths on it is time."""
    assert judged(used_memory="799") == {}
    assert judged(used_memory="800")["memory"].level == WARNING


def test_clock() -> None:
    """Two clocks may differ by two seconds, and by what asking takes."""
    assert clock(100.0, 101.9, 100.1).level == OK
    assert clock(100.0, 97.0, 100.1).found == "3.0 s from this host's"
    assert clock(100.0, 110.0, 105.0).level == WARNING
    assert clock(100.0, 104.0, 105.0).level == OK


def test_latency() -> None:
    """A tenth of the time-out is much."""
    assert latency([0.001] * 199 + [0.5], 1.0) == Finding("latency", OK, "p50 1.00 ms, p99 1.00 ms")
    assert latency([0.001] * 190 + [0.2] * 10, 1.0).level == WARNING


# -- settings


def of(application: dict[str, object] | None = None, **given: object) -> dict[str, Finding]:
    settings = read_settings(dict({"session.cookie_name": "__Host-sid"}, **given))
    findings = list(of_settings(settings, application or {}, {}))
    return {each.check: each for each in findings if each.level != OK}


@pytest.mark.parametrize(
    ("given", "level", "advice"),
    [
        ({"session.secure": False}, ERROR, "secure = true"),
        ({"session.same_site": "None"}, WARNING, "same_site = Lax"),
        ({"session.domain": "example.com"}, WARNING, "every host below example.com"),
        ({}, WARNING, "cookie_name = __Host-sid"),
    ],
)
def test_cookie(given: dict[str, object], level: str, advice: str) -> None:
    """Each attribute that is not as ASVS asks."""
    bad = of(**(given | {"session.cookie_name": "sid"}))["cookie"]
    assert (bad.level, advice in bad.advice) == (level, True)
    assert "cookie" not in of()


def test_empty_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is given and empty, as of a variable that is set to nothing, is told with its
    place, unless another source has it: an empty value counts as not given."""
    for name in ("NO_SECRET", "NO_PASSWORD"):
        monkeypatch.setenv(name, "")
    file = tmp_path / "a.yaml"
    file.write_text(
        "redis:\n  host: localhost\n  password: ${NO_PASSWORD}\n  username: ''\n"
        "session:\n  secret: ${NO_SECRET}\n  codec_secret:\n"
    )
    told = "it counts as not given: fill in the environment's variable, or remove the line"

    def of_file(*overrides: str) -> list[Finding]:
        configured = configuration.read(str(file), overrides)
        return [each for each in settings_of(configured) if each.check == "secret"]

    def finding(line: int, name: str) -> Finding:
        return Finding("secret", WARNING, f"{file}:{line}: altsession.{name} is empty", told)

    password, secret = finding(3, "redis.password"), finding(6, "session.secret")
    assert of_file() == [password, secret]
    assert of_file("altsession.session.secret=a-secret-of-sixteen") == [password]
    file.write_text("redis:\n  password: word\n")
    assert of_file("altsession.redis.password=") == []
    file.write_text("redis: {}\n")
    (found,) = of_file("altsession.redis.password=")
    assert found.found == "altsession.redis.password is empty"


@pytest.mark.parametrize(
    "given",
    [{"session.tti": 3601}, {"session.lifetime": 0}, {"session.lifetime": 86401}],
)
def test_times(given: dict[str, object]) -> None:
    """Longer than NIST advises."""
    assert of(**given)["times"].level == WARNING
    assert "times" not in of()


def test_waits() -> None:
    """Milliseconds in place of seconds, most likely."""
    assert "waits" not in of(**{"redis.timeout": 30})
    for name in ("timeout", "connect_timeout"):
        assert of(**{f"redis.{name}": 500})["waits"].found == f"{name} 500 s"


def test_transport() -> None:
    """Plain text is for this host."""
    assert "transport" not in of(**{"redis.url": "redis://127.0.0.1"})
    assert "transport" not in of(**{"redis.url": "redis://localhost"})
    assert "transport" not in of(**{"redis.url": "rediss://example.com"})
    assert "transport" not in of(**{"redis.url": "unix:///s"})
    assert "transport" not in of(**{"redis.url": "embedded://"})
    assert of(**{"redis.url": "redis://example.com"})["transport"].level == WARNING
    unchecked = {"redis.url": "rediss://example.com", "redis.ssl_check_hostname": False}
    assert of(**unchecked)["transport"].level == WARNING


PLAIN, HTTPS = "waitress serves plain http", "https"
PROXY = "trusted_proxy = 127.0.0.1\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "found_there"),
    [
        ("use = egg:waitress#main\n", PLAIN),
        ("use = egg:waitress#main\nurl_scheme = https\n", HTTPS),
        (f"use = egg:waitress#main\n{PROXY}", PLAIN),
        ("use = egg:waitress#main\ntrusted_proxy_headers = x-forwarded-proto\n", PLAIN),
        (
            f"use = egg:waitress\n{PROXY}trusted_proxy_headers = X-Forwarded-Proto\n",
            HTTPS,
        ),
        ("use = egg:gunicorn#main\n", None),
        ("use = egg:waitress#main\nlisten = %(unknown)s\n", None),
    ],
)
def test_scheme_of_an_ini_file(
    server: str,
    found_there: str | None,
    fit: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A Secure cookie needs an application that knows it is served over https."""
    ini = tmp_path / "app.ini"
    ini.write_text(
        "[app:main]\nuse = egg:pyramid_altsession#demo\naltsession.session.secure = true\n"
        f"altsession.redis.url = {fit.url}\n[server:main]\n{server}"
    )
    checks = found(run_main(capsys, str(ini), "doctor", "--json"))
    level, words, advice = checks.get("scheme", (None, None, ""))
    assert (level, words) == ({PLAIN: WARNING, HTTPS: OK}.get(str(found_there)), found_there)
    assert ("url_scheme = https" in advice) == (found_there == PLAIN)
    insecure = run_main(capsys, str(ini), "doctor", "--json", "altsession.session.secure=false")
    assert "scheme" not in found(insecure)


@pytest.mark.parametrize("application", [{"pyramid.includes": "pyramid_tm"}, {"tm.attempts": "3"}])
def test_pyramid_tm(application: dict[str, object]) -> None:
    """It asks who is signed in before every request."""
    assert "pyramid_tm" not in of()
    assert of(application)["pyramid_tm"].level == WARNING
    for off in ("false", "f", "no", "nonsense"):  # as Pyramid reads it
        assert "pyramid_tm" not in of(application | {"tm.annotate_user": off})


def test_pyramid_tm_of_an_ini_file(
    fit: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the application's file says of other packages is looked at."""
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"redis": {"url": fit.url}}))
    ini = tmp_path / "app.ini"
    ini.write_text(
        "[app:main]\nuse = egg:pyramid_altsession#demo\naltsession.config = %(here)s/own.yaml\n"
        "pyramid.includes = pyramid_tm\n"
    )
    ran = run_main(capsys, str(ini), "doctor", "--json", "altsession.session.cookie_name=__Host-a")
    assert levels(ran) == {"pyramid_tm": WARNING}
