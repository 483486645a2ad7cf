"""The small tween, always installed: it notes when a request began, sees to its answer, and
renders our errors that were raised above the exception views."""

import time
from collections.abc import Callable

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPException
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW, INGRESS

from .api import BEGAN, RECORD
from .errors import AltSessionError
from .interfaces import ISessionAPI

NAME = "pyramid_altsession.tween.altsession_tween_factory"

Handler = Callable[[Request], Response]


def altsession_tween_factory(handler: Handler, registry: Registry) -> Handler:
    api = registry.getUtility(ISessionAPI)
    api.has_tween = True
    answer = api.answer
    monotonic = time.monotonic

    def altsession_tween(request: Request) -> Response:
        environ = request.environ
        if BEGAN in environ:  # another attempt of pyramid_retry's, with what the last one made
            if RECORD in environ:
                api.session(request)
        else:
            environ[BEGAN] = monotonic()
        request.add_response_callback(answer)
        try:
            response = handler(request)
            api.write_back(request, response)
            return response
        except AltSessionError:
            return render(request)
        except TypeError:
            # A value that JSON cannot carry, found at the write-back; others have been through
            # EXCVIEW, where an exception view could have taken them.
            return request.invoke_exception_view(reraise=True)

    return altsession_tween


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
        over=("pyramid_tm.tm_tween_factory", EXCVIEW),
    )
