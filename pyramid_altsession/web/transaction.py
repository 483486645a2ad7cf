"""The changes of ``request.session`` as a part of pyramid_tm's transaction."""

from collections.abc import Callable

from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from ..interfaces import ISessionAPI
from ..protocol.changes import PendingChanges
from .ending import Moment
from .requests import RequestSessions

TRANSACTION = "pyramid_altsession.tween.transaction_tween_factory"
TM = "pyramid_tm.tm_tween_factory"
Handler = Callable[[Request], Response]


class WriteBack:
    """The changes of ``request.session`` as a part of pyramid_tm's transaction (a data manager).

    They are written in the vote, after those of the databases, which may still fail there and
    be tried again. Calls on ``request.altsession`` are written at once all the same.
    """

    def __init__(self, sessions: RequestSessions, request: Request) -> None:
        self.sessions = sessions
        self.request = request
        self.response: Response | None = None
        self.transaction_manager = request.tm
        self.before = Savepoint(self)  # a subrequest joins with changes of the outer request

    def sortKey(self) -> str:
        return "~~altsession"

    @property
    def changes(self) -> PendingChanges | None:
        state = self.sessions.state_of(self.request)
        return None if state is None else state.changes

    def tpc_vote(self, transaction: object) -> None:
        if self.response is not None:
            state = self.sessions.state_of(self.request)
            self.sessions.ending.at(Moment.VOTE, self.request, state, self.response)

    def abort(self, transaction: object) -> None:
        self.before.rollback()

    tpc_abort = abort

    def tpc_begin(self, transaction: object) -> None:
        pass

    commit = tpc_finish = tpc_begin

    def savepoint(self) -> "Savepoint":
        return Savepoint(self)


class Savepoint:
    """The unwritten changes at the time of the savepoint."""

    def __init__(self, write_back: WriteBack) -> None:
        self.write_back = write_back
        self.snapshot = None if write_back.changes is None else write_back.changes.snapshot()

    def rollback(self) -> None:
        changes = self.write_back.changes
        if changes is None:
            return
        if self.snapshot is None:
            changes.forget()
        else:
            changes.restart(self.snapshot)


def transaction_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """With ``altsession.transactional``: next below pyramid_tm's tween."""
    api = registry.getUtility(ISessionAPI)
    if not api.settings.transactional:
        return handler  # it is in an explicit pyramid.tweens

    def transaction_tween(request: Request) -> Response:
        if "tm.active" not in request.environ:
            return handler(request)
        transaction, visit = request.tm.get(), api.requests.visit(request)
        try:
            transaction.data(visit)
        except KeyError:
            transaction.set_data(visit, True)
        else:
            # A copy of a request that has joined. If it joined as well, an abort would end at what
            # there was when the copy came.
            return handler(request)
        part = WriteBack(api.requests, request)
        transaction.join(part)
        part.response = handler(request)
        return part.response

    return transaction_tween
