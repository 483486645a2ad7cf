"""Which node of a cluster is asked, and what follows when one sends on or fails: steps, without a
network."""

import math
import time
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError

from pyramid_altsession.protocol.messages import Scan
from pyramid_altsession.protocol.steps import run
from pyramid_altsession.stores.redis import slots as slots_module
from pyramid_altsession.stores.redis.cluster import ClusterSteps
from pyramid_altsession.stores.redis.exchanges import Address, Exchange, Steps
from pyramid_altsession.stores.redis.failures import NotConnected, Trouble
from pyramid_altsession.stores.redis.slots import HOPS, REFRESH, SlotMap
from pyramid_altsession.stores.redis.waiting import Call, Node
from pyramid_altsession.stores.redis.wire import pack_command

A, B, C, SEED = ("a", 1), ("b", 2), ("c", 3), ("seed", 9)
KEY = b"sess:x"
SLOT = key_slot(KEY)
GET = pack_command((b"GET", KEY))
Outcome = list[Any] | Exception


def ranges(*owners: Address | None, name: Callable[[str], object] = str.encode) -> list[Any]:
    """CLUSTER SLOTS: equal parts for each; None is nobody's."""
    part = math.ceil(16384 / len(owners))
    return [
        [place * part, min((place + 1) * part, 16384) - 1, [name(each[0]), each[1], b"id"]]
        for place, each in enumerate(owners)
        if each is not None
    ]


def commands(packet: bytes) -> list[list[bytes]]:
    reader = hiredis.Reader()
    reader.feed(packet)
    found = []
    while command := reader.gets():
        found.append(command)
    return found


class Nodes:
    """Answers what is asked by what the test says, and notes it: (address, first word)."""

    def __init__(self, **answers: Outcome | list[Outcome]) -> None:
        self.answers = answers
        self.map: dict[str, Outcome] = {}
        self.asked: list[tuple[str, str]] = []

    def carry_out(self, exchange: Exchange) -> list[Any]:
        assert exchange.address is not None
        host, word = exchange.address[0], commands(exchange.packet)[0][0].decode()
        self.asked.append((host, word))
        if exchange.lookup:
            outcome = self.map.get(host, NotConnected(f"{host} is away"))
        else:
            outcome = self.answers[host]
            if isinstance(outcome, list) and outcome and isinstance(outcome[0], tuple):
                outcome = outcome.pop(0)[0]  # one after the other
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run(self, steps: Steps[Any]) -> Any:
        return run(self.carry_out, steps)

    def send(self, known: SlotMap, *, repeatable: bool = True) -> Any:
        return self.run(known.send(KEY, GET, 1, repeatable))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> SlotMap:
    """A map whose one node is A, looked at a while ago."""
    found, now = SlotMap([SEED]), time.monotonic
    nodes = Nodes()
    nodes.map = {"seed": [ranges(A)]}
    with monkeypatch.context() as earlier:
        earlier.setattr(time, "monotonic", lambda: now() - 2 * REFRESH)
        nodes.run(found.address(0))
    return found


def test_the_map_is_asked_for_when_it_is_needed() -> None:
    """Of the seeds; it serves all calls that follow."""
    found, nodes = SlotMap([SEED, A]), Nodes(a=[1])
    nodes.map = {"a": [ranges(A)]}
    assert [nodes.send(found), nodes.send(found)] == [[1], [1]]
    assert nodes.asked == [("seed", "CLUSTER"), ("a", "CLUSTER"), ("a", "GET"), ("a", "GET")]
    assert found.primaries == (A,)


def test_primaries_are_in_the_order_of_their_slots() -> None:
    """Each once, and in whatever order a server names them: a walk over all sessions goes by it. A
    key's server is that of its slot."""
    found, nodes = SlotMap([SEED]), Nodes(a=[1], b=[1], c=[1])
    nodes.map["seed"] = [ranges(A, B, C, A)[::-1]]
    nodes.run(found.address(0))
    assert found.primaries == (A, B, C)
    assert [nodes.run(found.address(slot)) for slot in (4095, 4096, 8192, 16383)] == [A, B, C, A]


def test_two_that_come_first_both_ask_for_the_map() -> None:
    """Neither waits for the other, and neither fails because the other has just asked."""
    found, nodes = SlotMap([SEED]), Nodes(a=[1])
    nodes.map = {"seed": [ranges(A)]}
    next(found.send(KEY, GET, 1, True))
    assert nodes.send(found) == [1]


def test_no_node_knows_the_cluster() -> None:
    """NotConnected tells what each seed said."""
    nodes = Nodes()
    nodes.map = {"a": [redis.ResponseError("cluster support disabled")]}
    with pytest.raises(NotConnected, match=r"knows the cluster: seed is away; .*support disabled"):
        nodes.send(SlotMap([SEED, A]))


def test_a_node_that_has_met_nobody_is_passed_over() -> None:
    """Its map is empty."""
    nodes = Nodes(a=[1])
    nodes.map = {"seed": [[]], "a": [ranges(A)]}
    assert nodes.send(SlotMap([SEED, A])) == [1]


def test_a_slot_that_nobody_serves() -> None:
    """NotConnected, after another look at the map."""
    owners: list[Address | None] = [A, A]
    owners[SLOT * 2 // 16384] = None
    nodes = Nodes()
    nodes.map = {"seed": [ranges(*owners)]}
    with pytest.raises(NotConnected, match=f"no node of the cluster serves slot {SLOT}$"):
        nodes.send(SlotMap([SEED]))


@pytest.mark.parametrize("name", [lambda _: None, lambda _: b"", lambda _: b"?"])
def test_a_node_without_a_name_is_where_it_was_asked(name: Callable[[str], object]) -> None:
    """As servers tell that do not know how they are reached."""
    nodes = Nodes(seed=[1])
    nodes.map = {"seed": [ranges(A, name=name)]}
    found = SlotMap([SEED])
    assert nodes.send(found) == [1]
    assert found.primaries == (("seed", 1),)


@pytest.mark.parametrize(("host", "there"), [("b:2", "b"), (":2", "a"), ("?:2", "a")])
def test_moved(known: SlotMap, host: str, there: str) -> None:
    """It is said again there, and the map is asked for. Without a known host, at the one asked."""
    answers: dict[str, Any] = {"a": [([MovedError(f"{SLOT} {host}")],)], "b": [([1],)]}
    answers[there].append(([1],))
    nodes = Nodes(**answers)
    assert nodes.send(known) == [1]
    assert nodes.asked[0] == ("a", "GET")
    assert nodes.asked[-1] == (there, "GET")
    assert nodes.run(known.address(SLOT)) == (there, 2)


def test_moved_while_others_have_looked(known: SlotMap) -> None:
    """A call that spoke to the old node after the map was told: nobody keeps connections there."""
    told: list[tuple[Address, ...]] = []
    nodes = Nodes(a=[MovedError(f"{SLOT} b:2")], b=[1])
    nodes.map = {"seed": [ranges(B)]}
    assert nodes.send(known) == [1]
    known.changed = lambda: told.append(known.primaries)
    assert nodes.run(known.send(KEY, GET, 1, True, A)) == [1]
    assert told == [(B,)]


def test_moved_to_a_node_that_the_map_does_not_tell_yet(known: SlotMap) -> None:
    """It counts as one that serves."""
    nodes = Nodes(a=[MovedError(f"{SLOT} b:2")], b=[1])
    assert nodes.send(known) == [1]
    assert known.primaries == (A, B)


def test_ask(known: SlotMap) -> None:
    """It is said again there, this once, with ASKING before each command."""
    both = GET + GET
    seen: list[Exchange] = []

    def carry_out(exchange: Exchange) -> list[Any]:
        seen.append(exchange)
        asked = [AskError(f"{SLOT} b:2"), 1]
        return asked if exchange.address == A else [b"OK", 1, b"OK", 2]

    assert run(carry_out, known.send(KEY, both, 2, True)) == [1, 2]
    assert (seen[1].address, seen[1].replies) == (B, 4)
    assert [command[0] for command in commands(seen[1].packet)] == [b"ASKING", b"GET"] * 2
    assert Nodes().run(known.address(SLOT)) == A


@pytest.mark.parametrize("host", ["", "?"])
def test_ask_without_a_known_host(known: SlotMap, host: str) -> None:
    """The host is that of the node that was asked, as it is for MOVED."""
    seen: list[Exchange] = []

    def carry_out(exchange: Exchange) -> list[Any]:
        seen.append(exchange)
        return [AskError(f"{SLOT} {host}:2")] if exchange.address == A else [b"OK", 1]

    assert run(carry_out, known.send(KEY, GET, 1, True)) == [1]
    assert [exchange.address for exchange in seen] == [A, ("a", 2)]


def test_a_lost_reply_is_asked_for_once_more(known: SlotMap) -> None:
    """An idle connection that the server had closed."""
    nodes = Nodes(a=[(redis.ConnectionError("closed"),), ([1],)])
    assert nodes.send(known) == [1]
    assert nodes.asked == [("a", "GET")] * 2


@pytest.mark.parametrize("lost", [redis.ConnectionError("closed"), NotConnected("refused")])
def test_a_node_that_went_away(known: SlotMap, lost: Exception) -> None:
    """The map is asked for: of others first. Who serves the slot now answers."""
    nodes = Nodes(a=lost, b=[1])
    nodes.map = {"seed": [ranges(B)]}
    assert nodes.send(known) == [1]
    assert nodes.asked[-2:] == [("seed", "CLUSTER"), ("b", "GET")]
    assert known.primaries == (B,)


def test_a_node_that_went_away_and_nobody_serves_for_it(known: SlotMap) -> None:
    """The failed one is asked for the map last; its failure is what the caller hears."""
    nodes = Nodes(a=NotConnected("refused"))
    nodes.map = {"seed": [ranges(A)]}
    with pytest.raises(NotConnected, match="refused"):
        nodes.send(known)
    assert nodes.asked == [("a", "GET"), ("seed", "CLUSTER")]
    with pytest.raises(NotConnected, match="refused"):
        nodes.send(known)
    assert nodes.asked[2:] == [("a", "GET")]  # looked a moment ago


def test_all_nodes_are_away(known: SlotMap) -> None:
    """The old map stays; the caller hears of its node."""
    nodes = Nodes(a=NotConnected("refused"))
    with pytest.raises(NotConnected, match="refused"):
        nodes.send(known)
    assert nodes.asked == [("a", "GET"), ("seed", "CLUSTER"), ("a", "CLUSTER")]
    assert known.primaries == (A,)


def test_what_may_not_be_repeated_is_not(known: SlotMap) -> None:
    """Nobody knows whether it was carried out. If it was never sent, it may be said elsewhere."""
    nodes = Nodes(a=redis.ConnectionError("closed"), b=[1])
    nodes.map = {"seed": [ranges(B)]}
    with pytest.raises(redis.ConnectionError, match="closed"):
        nodes.send(known, repeatable=False)
    assert ("b", "GET") not in nodes.asked
    assert nodes.send(known, repeatable=False) == [1]


def test_never_sent_may_be_said_elsewhere(known: SlotMap) -> None:
    """Whether it may be repeated or not."""
    nodes = Nodes(a=NotConnected("refused"), b=[1])
    nodes.map = {"seed": [ranges(B)]}
    assert nodes.send(known, repeatable=False) == [1]


def test_after_a_time_out_the_next_call_looks_first(known: SlotMap) -> None:
    """The call that waited has no time left for it."""
    nodes = Nodes(a=redis.TimeoutError("late"), b=[1])
    nodes.map = {"seed": [ranges(B)]}
    with pytest.raises(redis.TimeoutError):
        nodes.send(known)
    assert nodes.asked == [("a", "GET")]
    assert nodes.send(known) == [1]
    assert nodes.asked[1:] == [("seed", "CLUSTER"), ("b", "GET")]


def test_a_call_that_has_no_time_left_to_look(
    known: SlotMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting to a host that is gone takes all of it, each time. So the next call looks first,
    or the map would stay as it is."""
    nodes = Nodes(a=NotConnected("no connection in time"), b=[1])
    nodes.map = {"seed": redis.TimeoutError("late")}
    with pytest.raises(NotConnected, match="no connection in time"):
        nodes.send(known)
    monkeypatch.setattr(slots_module, "REFRESH", 0.0)
    nodes.asked.clear()
    nodes.map = {"seed": [ranges(B)]}
    assert nodes.send(known) == [1]
    assert nodes.asked == [("seed", "CLUSTER"), ("b", "GET")]


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_node_that_the_others_have_replaced(known: SlotMap, repeatable: bool) -> None:
    """It still answers, but is cut off from them, or was taken out of the cluster. It did nothing,
    so who serves the slot now does it; until then its error is the answer."""
    down = ClusterDownError("Hash slot not served")
    nodes = Nodes(a=[down], b=[1])
    nodes.map = {"seed": [ranges(B)]}
    assert nodes.send(known, repeatable=repeatable) == [1]
    assert nodes.asked == [("a", "GET"), ("seed", "CLUSTER"), ("b", "GET")]


def test_a_cluster_that_is_down(known: SlotMap) -> None:
    """No other node serves the slot: the error is what the caller gets."""
    nodes = Nodes(a=[ClusterDownError("The cluster is down")])
    nodes.map = {"seed": [ranges(A)]}
    (answer,) = nodes.send(known)
    assert isinstance(answer, ClusterDownError)
    assert nodes.asked == [("a", "GET"), ("seed", "CLUSTER")]


def test_nodes_that_send_each_other_on(known: SlotMap, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an end to it: the error is what the caller gets."""
    monkeypatch.setattr(slots_module, "REFRESH", math.inf)
    nodes = Nodes(a=[MovedError(f"{SLOT} b:2")], b=[MovedError(f"{SLOT} a:1")])
    (answer,) = nodes.send(known)
    assert isinstance(answer, MovedError)
    assert [host for host, _ in nodes.asked] == ["a", "b"] * (HOPS // 2)


# -- a walk over all nodes


class Pages:
    """Nodes with sessions on several pages, whose map changes while they are walked."""

    def __init__(self, *owners: Address) -> None:
        self.owners = owners
        self.pages: dict[Address, list[list[str]]] = {
            each: [[f"{each[0]}{page}"] for page in range(3)] for each in (A, B, C, D)
        }
        self.steps = ClusterSteps([SEED], b"sess:")

    def carry_out(self, exchange: Exchange) -> list[Any]:
        if exchange.lookup:
            return [ranges(*self.owners)]
        assert exchange.address is not None
        pages, page = self.pages[exchange.address], int(commands(exchange.packet)[0][1])
        keys = [f"sess:{id}".encode() for id in pages[page]]
        return [[b"%d" % ((page + 1) % len(pages)), keys]]

    def walk(self, **changes: tuple[Address, ...]) -> list[str]:
        """Ids in their order. After those that are named the map changes, and a call notices."""
        found, cursor = [], 0
        while not found or cursor:
            cursor, ids = run(self.carry_out, self.steps.execute(Scan(cursor))).values
            found += ids
            if found[-1] in changes:
                self.owners = changes[found[-1]]
                run(self.carry_out, self.steps.map.refresh())
        return found


D = ("d", 4)
ALL = [f"{name}{page}" for name in "abc" for page in range(3)]


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "REFRESH", 0.0)


@pytest.mark.usefixtures("always_looks")
@pytest.mark.parametrize(
    ("changes", "joined"),
    [
        ({}, []),
        ({"b0": (C, A, B)}, []),  # a slot moved, and with it the order
        ({"b0": (C, B, A)}, []),
        ({"b2": (B, C, A)}, []),
        ({"b0": (D, A, B, C)}, ["d0", "d1", "d2"]),  # a node joined
        ({"b0": (B, C)}, []),  # a node left that was through
        ({"b0": (D, B, C)}, ["d0", "d1", "d2"]),  # a node was replaced that was through
        ({"a2": (B, C), "b0": (A, B, C)}, []),
    ],
)
def test_a_walk_while_the_map_changes(changes: dict[str, Any], joined: list[str]) -> None:
    """Each session that stays where it is comes, and once: no node is left out or begun again,
    whatever the order of the nodes is, and whoever joins."""
    assert sorted(Pages(A, B, C).walk(**changes)) == ALL + joined


@pytest.mark.usefixtures("always_looks")
def test_a_walk_whose_last_node_leaves() -> None:
    """It is over."""
    assert Pages(A, B, C).walk(c1=(A, B)) == ALL[:-1]


@pytest.mark.usefixtures("always_looks")
def test_a_walk_while_a_node_is_replaced() -> None:
    """Its successor is walked from the beginning: a cursor is good for one server only."""
    pages = Pages(A, B, C)
    pages.pages[D] = pages.pages[B][::-1]
    found = pages.walk(b0=(A, D, C))
    assert set(found) == set(ALL)
    assert len(found) == len(ALL) + 1


def test_a_walk_begins_with_a_new_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that joined long ago may be new to this process."""
    pages = Pages(A)
    run(pages.carry_out, pages.steps.map.address(0))
    pages.owners = (B, A)
    monkeypatch.setattr(slots_module, "REFRESH", 0.0)
    assert sorted(pages.walk()) == ALL[:6]


def test_lookups_share_the_time() -> None:
    """A node that does not answer leaves time for the next one, and for the call itself."""
    shares = []

    def carry_out(exchange: Exchange) -> list[Any]:
        shares.append(exchange.share)
        raise redis.TimeoutError("late")

    with pytest.raises(NotConnected):
        run(carry_out, SlotMap([A, B, C]).address(0))
    assert shares == [4, 3, 2]


def test_a_lookup_needs_time(known: SlotMap, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with no time left asks nobody: a server that works would count as away, because it
    cannot answer in no time. The next call looks first.
    """
    monkeypatch.setattr(slots_module, "REFRESH", 0.0)
    asked: list[float] = []

    class Works:
        def exchange(self, packet: bytes, replies: int, end: float) -> Any:
            asked.append(end)
            return [ranges(A, B)]

        def close(self) -> None: ...

    node = Node(Works(), Trouble(""))
    servers = {A: node, B: node, SEED: node}
    late = Call(servers, node.trouble, 5, time.monotonic() - 1)
    run(late.carry_out, known.refresh(A))
    assert (asked, known.known(KEY)) == ([], None)
    in_time = Call(servers, node.trouble, 5)
    assert run(in_time.carry_out, known.address(SLOT)) in (A, B)
    assert len(asked) == 1
