"""A view that tells load balancers whether sessions can be used."""

from contextlib import suppress
from typing import Any

from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from pyramid.security import NO_PERMISSION_REQUIRED

from ..errors import StoreUnavailable
from ..interfaces import ISessionAPI
from ..stores.redis.node import Health

ROUTE = "altsession_health"


def add_altsession_health_view(config: Configurator, path: str, **options: Any) -> None:
    """``config.add_altsession_health_view("/health")``: 200 while sessions can be used, else 503.

    The body is JSON: ``status`` (``ok`` or ``unavailable``), ``latency_ms``, ``role`` and
    ``memory_free``, as :class:`pyramid_altsession.Health` has them. ``options``: of
    ``config.add_view``, and they take precedence; without a ``permission`` everybody may ask.
    ConfigurationError for ``view`` and ``route_name``, which are the directive's own.
    """
    for own in ("view", "route_name"):
        if own in options:
            raise ConfigurationError(
                f"add_altsession_health_view: remove {own}; the directive has its own"
            )
    config.add_route(ROUTE, path)
    defaults: dict[str, Any] = {
        "permission": NO_PERMISSION_REQUIRED,
        "request_method": "GET",
        "renderer": "json",
        "http_cache": 0,
    }
    config.add_view(_health, route_name=ROUTE, **(defaults | options))


def _health(request: Request) -> dict[str, object]:
    api, found, status = request.registry.getUtility(ISessionAPI), Health(), "ok"
    try:
        api.check()
    except StoreUnavailable:
        request.response.status = 503
        status = "unavailable"
    with suppress(StoreUnavailable):
        found = api.health()
    latency = None if found.latency is None else round(found.latency * 1000, 1)
    free = None if found.memory_free is None else round(found.memory_free, 2)
    return {"status": status, "latency_ms": latency, "role": found.role, "memory_free": free}
