"""View options and the configuration of ``request.session``."""

import logging
from typing import Any

from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.viewderivers import INGRESS, VIEW

from ..config.table import Settings
from ..errors import InvalidKey
from ..interfaces import ISessionAPI
from ..protocol.commands import field_name
from ..protocol.keys import SessionKey
from .request_session import SyncSession, session_factory

log = logging.getLogger("pyramid_altsession")


def fetch_keys(view: Any, info: Any) -> Any:
    """View option ``altsession=("cart", "user")``: keys that are requested before the view begins,
    and before all that Pyramid does just before it.
    """
    option = info.options.get("altsession")
    if option is None:
        return view
    try:
        keys = (option,) if isinstance(option, str | bytes | SessionKey) else tuple(option)
        for key in keys:
            field_name(key)
    except InvalidKey as error:
        raise ConfigurationError(f"altsession: {error}") from None
    except TypeError:
        raise ConfigurationError(f"altsession: must be a key or several, not {option!r}") from None

    def fetching(context: Any, request: Request) -> Any:
        request.altsession.prefetch(*keys)
        return view(context, request)

    return fetching


fetch_keys.options = ("altsession",)  # type: ignore[attr-defined]


def do_without(view: Any, info: Any) -> Any:
    """View option ``altsession_optional=True``: while the server is away, reads of the session
    find nothing, so that the page renders; writes raise StoreUnavailable all the same."""
    option = info.options.get("altsession_optional")
    if option not in (None, True, False):
        raise ConfigurationError(f"altsession_optional: must be True or False, not {option!r}")
    if not option:
        return view

    def lenient(context: Any, request: Request) -> Any:
        state = request.altsession.driver.state
        before, state.optional = state.optional, True
        try:
            return view(context, request)
        finally:
            state.optional = before

    return lenient


do_without.options = ("altsession_optional",)  # type: ignore[attr-defined]


def not_enabled(request: Request) -> SyncSession:
    """Replaces Pyramid's own message, to say how this package can provide ``request.session``."""
    raise AttributeError(
        "request.session is not served: set altsession.sync.enabled = true, or register a session"
        " factory; request.altsession needs neither"
    )


def add_sync_layer(config: Configurator) -> None:
    """Serve ``request.session``, if the settings say so and the application does not."""

    def register() -> None:
        settings: Settings = config.registry.getUtility(ISessionAPI).settings
        theirs = config.registry.queryUtility(ISessionFactory)
        if theirs is None:
            factory = session_factory if settings.sync.enabled else not_enabled
            config.registry.registerUtility(factory, ISessionFactory)
        elif settings.sync.enabled and theirs not in (session_factory, not_enabled):
            log.warning(
                "sessions: altsession.sync.enabled does nothing, because the application has a"
                " session factory of its own (set_session_factory, or an include that sets one),"
                " and request.session comes from there; remove the one or the other"
            )

    config.action("altsession sync", register, order=PHASE3_CONFIG + 10)
    for option in (fetch_keys, do_without):
        config.add_view_deriver(option, under=INGRESS, over=("csrf_view", "secured_view", VIEW))
