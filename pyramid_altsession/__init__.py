"""Sessions in Redis or Valkey, key by key, for Pyramid.

``config.include("pyramid_altsession")`` gives every request ``request.altsession``.
"""

from functools import partial

from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.config.actions import action_method
from pyramid.request import Request

from ._version import VERSION as __version__
from .api import SessionAPI, SessionInfo
from .batch import Batch, Handle
from .config.sessions import attribute_of, read_sessions
from .config.table import Settings
from .errors import (
    AltSessionError,
    CorruptValue,
    FreshLoginRequired,
    InvalidKey,
    NotDurable,
    SessionFull,
    SessionGone,
    StoreFull,
    StoreUnavailable,
    TooManySessions,
    ValueTooLarge,
)
from .interfaces import IAltSession, ISessionAPI
from .protocol.keys import SessionKey
from .session import AltSession
from .stores import warn_of_no_server
from .stores.observed import Observation
from .stores.redis.node import Health
from .stores.redis.pool import PoolUsage
from .web.security import add_view_options
from .web.server_timing import add_server_timing
from .web.tween import add_tween
from .web.typed import AltSessionRequest
from .web.view_options import add_sync_layer
from .web.visits import innermost

__all__ = [
    "AltSession",
    "AltSessionError",
    "AltSessionRequest",
    "Batch",
    "CorruptValue",
    "FreshLoginRequired",
    "Handle",
    "Health",
    "IAltSession",
    "ISessionAPI",
    "InvalidKey",
    "NotDurable",
    "Observation",
    "PoolUsage",
    "SessionAPI",
    "SessionFull",
    "SessionGone",
    "SessionInfo",
    "SessionKey",
    "Settings",
    "StoreFull",
    "StoreUnavailable",
    "TooManySessions",
    "ValueTooLarge",
    "__version__",
    "includeme",
]


def altsession(request: Request) -> AltSession:
    """The session of this request; see :class:`AltSession`."""
    visit = innermost()
    if visit is not None and visit.request is request:
        return visit.sessions.attach_to(visit, request)
    api: SessionAPI = request.registry.getUtility(ISessionAPI)
    return api.requests.attach(request)


def _further(request: Request, *, name: str) -> AltSession:
    api: SessionAPI = request.registry.getUtility(ISessionAPI, name)
    return api.requests.attach(request)


def includeme(config: Configurator) -> None:
    """Register the ISessionAPI utility, ``request.altsession`` and the tween. No network I/O."""
    _include(config, _backframes=2)  # errors name the line that includes us


@action_method
def _include(config: Configurator) -> None:
    registry = config.registry

    def register() -> None:
        for name, settings in read_sessions(registry.settings or {}).items():
            if registry.queryUtility(ISessionAPI, name) is None:  # else config.testing_altsession's
                api = SessionAPI.from_registry(settings, registry, name)
                registry.registerUtility(api, ISessionAPI, name)
                if not config.autocommit:  # unit tests commit at once, and need no server
                    warn_of_no_server(settings)
            if name:
                further = partial(_further, name=name)
                config.add_request_method(further, attribute_of(name), reify=True)

    introspectable = config.introspectable(
        "altsession", "altsession", "sessions in Redis or Valkey", "altsession"
    )
    config.action("altsession", register, introspectables=(introspectable,), order=PHASE1_CONFIG)
    config.add_request_method(altsession, "altsession", reify=True)
    config.add_directive("testing_altsession", "pyramid_altsession.testing.testing_altsession")
    config.add_directive(
        "add_altsession_health_view", "pyramid_altsession.web.health.add_altsession_health_view"
    )
    add_view_options(config)
    add_sync_layer(config)
    add_tween(config)
    add_server_timing(config)
