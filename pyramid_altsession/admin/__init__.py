"""A page that shows and ends sessions, for users to whom the application gives a permission.

``config.include("pyramid_altsession.admin", route_prefix="/admin/sessions")``, and
``altsession.admin_permission`` in the settings.
"""

from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.csrf import LegacySessionCSRFStoragePolicy
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ICSRFStoragePolicy, ISecurityPolicy, ISessionFactory
from pyramid.security import NO_PERMISSION_REQUIRED

from ..config.sources import from_ini, read_settings
from ..web.view_options import not_enabled
from .views import end, search, session, to_search


def includeme(config: Configurator) -> None:
    """Add routes and views. The application does not start if anybody could use them."""
    permission = read_settings(from_ini(config.registry.settings or {})).admin_permission
    if not permission or permission == NO_PERMISSION_REQUIRED:
        raise ConfigurationError(
            "altsession.admin_permission: name the permission that the admin page needs, before"
            " pyramid_altsession.admin is included"
        )
    if not config.route_prefix:
        raise ConfigurationError(
            "pyramid_altsession.admin: include it with route_prefix, for example"
            ' config.include("pyramid_altsession.admin", route_prefix="/admin/sessions")'
        )
    config.include("pyramid_altsession")
    config.add_static_view("static", "pyramid_altsession.admin:static", cache_max_age=3600)
    for name, pattern, method, view in (
        ("altsession_admin", "/", "GET", search),
        ("altsession_admin_session", "/session/{id}", "GET", session),
        ("altsession_admin_end", "/end", "POST", end),
    ):
        config.add_route(name, pattern)
        config.add_view(
            view,
            route_name=name,
            request_method=method,
            permission=permission,
            require_csrf=False,  # the view checks it itself, whatever the application's options are
            http_cache=0,
        )
    config.add_route("altsession_admin_prefix", "", inherit_slash=True)  # as people type it
    config.add_view(
        to_search,
        route_name="altsession_admin_prefix",
        request_method="GET",
        permission=permission,
    )
    config.action("pyramid_altsession.admin", _check, (config,), order=PHASE3_CONFIG + 11)


def _check(config: Configurator) -> None:
    """Check the whole configuration: without a security policy or CSRF tokens, everybody could end
    sessions.
    """
    registry = config.registry
    if registry.queryUtility(ISecurityPolicy) is None:
        raise ConfigurationError(
            "pyramid_altsession.admin: the application has no security policy, so everybody would"
            " be permitted to end sessions"
        )
    storage = registry.queryUtility(ICSRFStoragePolicy)
    in_session = isinstance(storage, LegacySessionCSRFStoragePolicy)
    if in_session and registry.queryUtility(ISessionFactory) is not_enabled:
        raise ConfigurationError(
            "pyramid_altsession.admin: its forms need CSRF tokens; set altsession.sync.enabled ="
            " true, or a CSRF storage policy"
        )
