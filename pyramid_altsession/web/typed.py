"""A request with a session, for type checkers."""

from pyramid.request import Request

from ..session import AltSession


class AltSessionRequest(Request):
    """Annotate views with it: to type checkers ``request.altsession`` is an :class:`AltSession`,
    and the rest is Pyramid's ``Request``.

    It adds nothing at run time: requests need not be of this class, and ``DummyRequest`` will do.
    Derive from it to declare more of your own.
    """

    altsession: AltSession
