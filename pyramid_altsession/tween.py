"""The small tween, always installed: it notes when a request began, sees to its answer, and
renders our errors that were raised above the exception views."""

import logging
import time
from collections.abc import Callable
from contextvars import Token

from pyramid.config import PHASE1_CONFIG, PHASE3_CONFIG, Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPException
from pyramid.interfaces import ITweens
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW, INGRESS, MAIN

from .api import SessionAPI
from .errors import AltSessionError
from .interfaces import ISessionAPI
from .state import Layer
from .visits import Visit, serving

log = logging.getLogger("pyramid_altsession")

NAME = "pyramid_altsession.tween.altsession_tween_factory"
TRANSACTION = "pyramid_altsession.tween.transaction_tween_factory"
TM = "pyramid_tm.tm_tween_factory"

NONE = (Token.MISSING, None)
"""What a context variable held before, where this context serves no other request."""

Handler = Callable[[Request], Response]


def altsession_tween_factory(handler: Handler, registry: Registry) -> Handler:
    api = registry.getUtility(ISessionAPI)
    key, answer = api.key, api.answer
    begin, end, monotonic = serving.set, serving.reset, time.monotonic

    def altsession_tween(request: Request) -> Response:
        # Most requests leave their session alone: what is done for each of them stands here.
        visit = Visit()
        visit.api = api
        visit.began = monotonic()
        visit.request = request
        began = begin(visit)
        token: Token[Visit | None] | None = began
        if key in request.environ or began.old_value not in NONE:  # it may be a part of another
            end(began)
            visit = api.visit(request)
            token = visit.open(request) if visit.request is None else None
        else:
            request.environ[key] = visit
        try:
            if visit.state is not None:  # another attempt of pyramid_retry's
                api.session(request)
            response = handler(request)
            state = visit.state
            if state is not None and (state.layer is not None or request.exception is not None):
                response = finish(request, response)
            return response
        except AltSessionError:
            response = render(request)
            api.report(request)
            return response
        except BaseException:
            api.abandon(request)
            raise
        finally:
            # The session may be used yet, by a tween above or another callback.
            request.response_callbacks += (answer,)
            if token is not None:
                end(token)
                visit.request = visit.outer = None

    def finish(request: Request, response: Response) -> Response:
        try:
            api.write_back(request, response)
        except TypeError:  # a value that JSON cannot carry
            response = render(request)
        api.report(request)
        return response

    return altsession_tween


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


def render(request: Request) -> Response:
    """The application's exception view for an error raised above EXCVIEW (by pyramid_tm, which
    reads the userid there, or by the write-back), or the error itself where that view needs the
    session as well."""
    try:
        return request.invoke_exception_view(reraise=True)
    except AltSessionError as raised:
        if isinstance(raised, HTTPException):
            return raised
        raise


def add_tween(config: Configurator) -> None:
    """The one placement that holds for every order of includes."""
    config.add_tween(
        NAME,
        under=("pyramid_debugtoolbar.toolbar_tween_factory", INGRESS),
        over=(TM, EXCVIEW, MAIN),
    )
    registry = config.registry

    def add_transaction() -> None:
        if registry.getUtility(ISessionAPI).settings.transactional:
            config.add_tween(TRANSACTION, under=(TM, NAME), over=(EXCVIEW, MAIN))

    config.action("altsession transaction", add_transaction, order=PHASE1_CONFIG + 1)
    config.action("altsession tweens", lambda: check(registry), order=PHASE3_CONFIG + 10)


def check(registry: Registry) -> None:
    """An explicit ``pyramid.tweens`` drops what includes add, without a word."""
    tweens = registry.queryUtility(ITweens)
    present = {name for name, _ in tweens.explicit or tweens.implicit()}
    settings = registry.getUtility(ISessionAPI).settings
    if settings.transactional:
        if not settings.sync.enabled:
            raise ConfigurationError(
                "altsession.transactional: concerns only request.session, which needs"
                " altsession.sync.enabled = true"
            )
        missing = [name for name in (NAME, TM, TRANSACTION) if name not in present]
        if missing:
            raise ConfigurationError(
                "altsession.transactional: needs pyramid_tm (config.include), and where"
                f" pyramid.tweens is given, all of its tweens and ours; missing: {missing}"
            )
    elif NAME not in present:
        log.warning(
            "pyramid.tweens does not list %s: what changes in request.session is written after"
            " everything else, errors above the exception views are not rendered, subrequests have"
            " sessions of their own, and SessionInfo.current is never true",
            NAME,
        )
