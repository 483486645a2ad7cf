"""Requests at the same time, in every order in which their operations on sessions can happen."""

import threading
from collections.abc import Callable
from string import ascii_uppercase
from typing import Any, Generic, TypeVar

from ..protocol.messages import Operation
from ..stores.trace import Step
from .steering import turn

S = TypeVar("S")
PATIENCE = 60.0
"""Seconds that a request may take from one operation to the next."""


class RaceFound(AssertionError):
    """An interleaving that breaks what a test asserts; ``schedule`` names it."""

    def __init__(self, schedule: str, steps: list[str], problem: BaseException) -> None:
        super().__init__(schedule, steps, problem)
        self.schedule = schedule
        self.steps = steps
        self._problem = problem

    def __str__(self) -> str:
        listed = "\n".join(f"  {step}" for step in self.steps)
        return (
            f"{type(self._problem).__name__}: {self._problem}\nin this order:\n{listed}\n"
            f'(again: race(…, schedule="{self.schedule}"))'
        )


class _Abandoned(BaseException):
    """Ends a request whose run is over."""


class _Racer(Generic[S]):
    """One request, in a thread of its own that runs only when it is its turn."""

    def __init__(self, letter: str, request: Callable[[S], object], state: S) -> None:
        self.letter = letter
        self.answer: object = None
        self.error: BaseException | None = None
        self.next: Step | None = None
        self.over = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, args=(request, state), daemon=True)

    def begin(self) -> None:
        """Run the request up to its first operation."""
        self._thread.start()
        self._wait()

    def step(self) -> None:
        """Do the next operation, and go on up to the one after it, or to the end."""
        self._go.release()
        self._wait()

    def abandon(self) -> None:
        self._abandoned = True
        self._go.release()
        self._thread.join(PATIENCE)

    def _run(self, request: Callable[[S], object], state: S) -> None:
        turn.set(self._turn)
        try:
            self.answer = request(state)
        except BaseException as error:
            self.error = error
        self.over = True
        self._stopped.release()

    def _turn(self, operation: Operation) -> None:
        """In the request's thread: wait until the operation may be done."""
        if not self._abandoned:
            self.next = Step.of(operation)
            self._stopped.release()
            self._go.acquire()
        if self._abandoned:
            raise _Abandoned

    def _wait(self) -> None:
        if not self._stopped.acquire(timeout=PATIENCE):
            raise RuntimeError(
                f"race: request {self.letter} came to no operation on its session within"
                f" {PATIENCE:g} seconds, after {self.next or 'its beginning'}; does it wait for"
                " something that another request holds, such as a row of a database?"
            )


class _Run(Generic[S]):
    """One interleaving, from a fresh state. ``given``: the schedule that the caller wants."""

    def __init__(
        self, requests: tuple[Callable[[S], object], ...], state: S, given: str | None
    ) -> None:
        self.state = state
        self.given = given
        pairs = zip(ascii_uppercase, requests, strict=False)
        self.racers = {letter: _Racer(letter, request, state) for letter, request in pairs}
        self.schedule = ""
        self.steps: list[str] = []
        self.shapes: list[str] = []
        """The same steps, to be compared with those of other runs."""
        self.others: list[tuple[str, list[str]]] = []
        """How other interleavings begin that differ from this one at some point: the schedule, and
        the shapes before its last letter.
        """

    def play(self, beginning: str, shapes: list[str]) -> None:
        begun = []
        try:
            for racer in self.racers.values():
                begun.append(racer)
                racer.begin()
                if racer.over and racer.error is None:
                    raise RuntimeError(
                        f"race: request {racer.letter} asked nothing of a session, or its"
                        " application is unknown here: call steer(app), or make_browser(app)"
                    )
            while alive := [letter for letter, racer in self.racers.items() if not racer.over]:
                if len(self.schedule) < len(beginning):
                    letter = beginning[len(self.schedule)]
                    if letter not in alive:
                        raise self._unfit(letter, f"request {letter} was over")
                    self._step(letter)
                else:
                    self.others += [(self.schedule + o, self.shapes.copy()) for o in alive[1:]]
                    self._step(alive[0])
                if self.shapes[: len(shapes)] != shapes[: len(self.shapes)]:
                    raise self._differs(self.steps[-1])
            left = beginning[len(self.schedule) :]
            if left:
                raise self._unfit(left, "all requests were over")
        finally:
            for racer in begun:
                racer.abandon()

    def _step(self, letter: str) -> None:
        racer = self.racers[letter]
        assert racer.next is not None
        self.schedule += letter
        self.steps.append(f"{letter}: {racer.next}")
        self.shapes.append(f"{letter}: {racer.next.shape}")
        racer.step()

    def _unfit(self, left: str, over: str) -> RuntimeError:
        """The error for letters of the schedule that nothing was left for."""
        if self.given is None:  # then a run before this one made the schedule
            return self._differs(f"no operation of {left}")
        return RuntimeError(
            f"race: schedule={self.given!r} names more operations than there were: {over} after"
            f" {self.schedule!r}"
        )

    def _differs(self, found: str) -> RuntimeError:
        return RuntimeError(
            f"race: {found} in {self.schedule!r}, and another one before: let setup() make the same"
            " state for each run, and the requests ask the same"
        )

    def judge(self, check: Callable[..., object]) -> None:
        try:
            for racer in self.racers.values():
                if racer.error is not None:
                    raise racer.error
            check(self.state, *[racer.answer for racer in self.racers.values()])
        except Exception as problem:
            raise RaceFound(self.schedule, self.steps, problem) from problem


def race(
    *requests: Callable[[S], object],
    setup: Callable[[], S],
    check: Callable[..., Any],
    schedule: str | None = None,
    limit: int = 2000,
) -> list[str]:
    """Run requests at the same time, once for every order in which their operations on sessions can
    happen, and return these orders.

    Each run begins with ``setup()``, and its result, the state, is passed to every request. All
    requests are sent before any is served. In the end ``check(state, answer, answer, …)`` asserts
    what must hold. RaceFound, an AssertionError, reports the first order in which ``check`` or a
    request raises an error. It lists each operation, and the ``schedule`` that runs only this order
    again. In a schedule ``"ABBA"`` each letter is one operation of the first request (A), the
    second (B), …

    The requests' applications must have been passed to ``make_browser`` or ``steer`` before.
    Requests run in threads of their own, one at a time. RuntimeError if there are more than
    ``limit`` orders, or fewer operations than the schedule names; ValueError if it has a letter
    that stands for no request.
    """
    if not 2 <= len(requests) <= len(ascii_uppercase):
        raise TypeError(f"race: wanted 2 to 26 requests, got {len(requests)}")
    letters = ascii_uppercase[: len(requests)]
    if schedule is not None and schedule.strip(letters):
        raise ValueError(
            f"race: schedule={schedule!r} must have one letter of {letters} for each operation"
        )
    todo: list[tuple[str, list[str]]] = [("" if schedule is None else schedule, [])]
    tried: list[str] = []
    while todo:
        if len(tried) == limit:
            raise RuntimeError(
                f"race: more than {limit} orders: let the requests do less, or raise the limit"
            )
        run = _Run(requests, setup(), schedule)
        run.play(*todo.pop())
        tried.append(run.schedule)
        run.judge(check)
        if schedule is None:
            todo += run.others
    return tried
