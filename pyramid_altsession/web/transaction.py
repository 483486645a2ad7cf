"""The changes of ``request.session`` as a part of pyramid_tm's transaction."""

from collections.abc import Callable

from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from ..api import SessionAPI
from ..interfaces import ISessionAPI
from ..protocol.state import Layer

TRANSACTION = "pyramid_altsession.tween.transaction_tween_factory"


TM = "pyramid_tm.tm_tween_factory"


Handler = Callable[[Request], Response]


class WriteBack:
    """The changes of ``request.session`` as a part of pyramid_tm's transaction (a data manager).

    They are written in the vote, after those of the databases, which may still fail there and
    be tried again. What is called on ``request.altsession`` is written at once all the same.
    """

    def __init__(self, api: SessionAPI, request: Request) -> None:
        self.api = api
        self.request = request
        self.response: Response | None = None
        self.transaction_manager = request.tm

    def sortKey(self) -> str:
        return "~~altsession"

    @property
    def layer(self) -> Layer | None:
        state = self.api.state_of(self.request)
        return None if state is None else state.layer

    def tpc_vote(self, transaction: object) -> None:
        if self.response is not None:
            self.api.write_back(self.request, self.response)

    def abort(self, transaction: object) -> None:
        if self.layer is not None:
            self.layer.forget()

    tpc_abort = abort

    def tpc_begin(self, transaction: object) -> None:
        pass

    commit = tpc_finish = tpc_begin

    def savepoint(self) -> "Savepoint":
        return Savepoint(self)


class Savepoint:
    """The changes up to here."""

    def __init__(self, write_back: WriteBack) -> None:
        self.write_back = write_back
        self.changes = None if write_back.layer is None else write_back.layer.changes()

    def rollback(self) -> None:
        layer = self.write_back.layer
        if layer is None:
            return
        if self.changes is None:
            layer.forget()
        else:
            layer.restart(self.changes)


def transaction_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """With ``altsession.transactional``: next below pyramid_tm's tween."""
    api = registry.getUtility(ISessionAPI)
    if not api.settings.transactional:
        return handler  # it is in an explicit pyramid.tweens

    def transaction_tween(request: Request) -> Response:
        if "tm.active" not in request.environ:
            return handler(request)
        part = WriteBack(api, request)
        request.tm.get().join(part)
        part.response = handler(request)
        return part.response

    return transaction_tween
