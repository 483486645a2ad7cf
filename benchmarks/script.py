"""What a write costs the server, beside the least that it could and the script as it was.

    make bench            all of it
    python benchmarks/script.py --rounds 5 --before e72c008

Microseconds of one EVALSHA by the server's own count (INFO commandstats), in interleaved rounds;
figures are medians. The floor is floor.lua. ``--before``: the commit whose write.lua is compared
with, one from before a step of the session's life had a place of its own among the arguments.
"""

import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path

import hiredis
import redis
from common import options, server
from msgspec.structs import replace

from pyramid_altsession.config.table import SessionSettings
from pyramid_altsession.protocol.fields import Timing
from pyramid_altsession.protocol.lifecycle import Touch
from pyramid_altsession.protocol.messages import Write
from pyramid_altsession.protocol.token import Token
from pyramid_altsession.protocol.verbs import Get, Increment, Set
from pyramid_altsession.stores.redis.scripts import SCRIPT
from pyramid_altsession.stores.redis.wire import pack_write

HERE = Path(__file__).parent
BEFORE = "e72c008"
OF_BEFORE = 0.65
"""What setting one field may cost, in times of the script before."""
OF_FLOOR = 1.5
"""The same, in times of the floor."""

TIMING = Timing.of(SessionSettings())
CLAIM = Token.new().claim
PREFIX = b"sess:"
KEY = PREFIX + CLAIM.id.encode()

ONE = Set("key1", b'"value"')
FIVE = tuple([Set(f"key{number}", b'"value"') for number in range(1, 6)])
WRITES = {
    "set": Write(CLAIM, (ONE,), TIMING),
    "touch": Write(CLAIM, (), TIMING, life=Touch()),
    "increment": Write(CLAIM, (Increment("number", 1),), TIMING),
    "five sets": Write(CLAIM, FIVE, TIMING),
    "get and set": Write(CLAIM, (Get("key2"), ONE), TIMING),
}


def as_before(write: Write, sha: bytes) -> bytes:
    """The call of the script before, which found a step of life as the first of the verbs."""
    timing, life = write.timing, () if write.life is None else (write.life,)
    times = (timing.tti, timing.interval, timing.lifetime, timing.window, write.window)
    arguments = [
        *(b"EVALSHA", sha, b"1", KEY, CLAIM.proof, b"0"),
        *(b"%d" % time for time in (*times, timing.grace)),
        b"1" if timing.reuse_ends else b"0",
        *(part for verb in (*life, *write.verbs) for part in verb.wire()),
    ]
    return hiredis.pack_command(tuple(arguments))


def at_least(sha: bytes) -> bytes:
    """The call of the floor, for ``ONE``."""
    arguments = (CLAIM.proof, b"%d" % TIMING.tti, ONE.name.encode(), ONE.value)
    return hiredis.pack_command((b"EVALSHA", sha, b"1", KEY, *arguments))


def main() -> None:
    given = options(__doc__, before=BEFORE)
    path = f"{given.before}:pyramid_altsession/stores/write.lua"
    before = subprocess.check_output(["git", "show", path], cwd=HERE)
    with server() as socket, redis.Redis(unix_socket_path=socket) as client:
        floor = client.script_load((HERE / "floor.lua").read_bytes()).encode()
        sha = client.script_load(before).encode()
        client.script_load(SCRIPT)
        calls = {"floor": at_least(floor)}
        for name, write in WRITES.items():
            calls[f"{name} before"] = as_before(write, sha)
            calls[name] = pack_write(write, PREFIX)
        made = pack_write(replace(WRITES["five sets"], create=True), PREFIX)
        report(medians(client, made, calls, given.rounds, given.times))


def medians(
    client: redis.Redis, made: bytes, calls: Mapping[str, bytes], rounds: int, times: int
) -> dict[str, float]:
    """Microseconds of one call of each, after the session was ``made``."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    connection = client.connection_pool.get_connection()

    def call(packet: bytes) -> None:
        connection.send_packed_command([packet])
        answer = connection.read_response()
        assert answer[0] == b"LIVE", answer

    call(made)
    for round_ in range(rounds + 1):
        for name, packet in calls.items():
            client.config_resetstat()
            for _ in range(times):
                call(packet)
            spent = client.info("commandstats")["cmdstat_evalsha"]
            assert spent["calls"] == times, spent
            if round_:  # the first round warms up
                taken[name].append(spent["usec_per_call"])
    client.connection_pool.release(connection)
    return {name: statistics.median(values) for name, values in taken.items()}


def report(median: Mapping[str, float]) -> None:
    floor = median["floor"]
    print(f"{'':12} {'before, µs':>12} {'now, µs':>10} {'x before':>10} {'x floor':>10}")
    print(f"{'floor':12} {'':12} {floor:10.1f} {'':10} {1:10.2f}")
    for name in WRITES:
        before, now = median[f"{name} before"], median[name]
        print(f"{name:12} {before:12.1f} {now:10.1f} {now / before:10.2f} {now / floor:10.2f}")
    of_before, of_floor = median["set"] / median["set before"], median["set"] / floor
    for ratio, bar, what in ((of_before, OF_BEFORE, "before"), (of_floor, OF_FLOOR, "the floor")):
        held = "held" if ratio <= bar else "missed"
        print(f"set: {ratio:.3f} x {what}, and {bar} is allowed: {held}")


if __name__ == "__main__":
    main()
