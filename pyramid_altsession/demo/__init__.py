"""The shop that ``pserve development.ini`` serves: what an application looks like with this
package, and on every page what the request asked of its session."""

from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.router import Router

from .guards import SESSIONS, Policy, signed_in


def main(global_config: dict[str, str], **settings: Any) -> Router:
    """The WSGI application."""
    settings.setdefault("altsession.admin_permission", SESSIONS)
    if "here" in global_config:  # the folder of development.ini, in a checkout beside docs/
        settings.setdefault("demo.docs", str(Path(global_config["here"], "docs")))
    with Configurator(settings=settings) as config:
        config.include("pyramid_jinja2")
        config.include("pyramid_altsession")
        config.include(".recorder")
        config.include(".outage")
        config.set_security_policy(Policy())
        config.set_default_csrf_options(require_csrf=True, callback=signed_in)
        config.add_static_view("static", "static", cache_max_age=60)
        config.include(add_routes)
        config.include("pyramid_altsession.admin", route_prefix="/sessions")
        config.scan(".views")
        config.scan(".account")
        config.scan(".guards")
        config.scan(".why")
        config.scan(".outage")
        return config.make_wsgi_app()


def add_routes(config: Configurator) -> None:
    config.add_route("catalogue", "/")
    config.add_route("product", "/product/{product}")
    config.add_route("cart", "/cart")
    config.add_route("add", "/cart/{product}/add")
    config.add_route("remove", "/cart/{product}/remove")
    config.add_route("counter", "/counter")
    config.add_route("language", "/language")
    config.add_route("sign_in", "/sign-in")
    config.add_route("sign_out", "/sign-out")
    config.add_route("account", "/account")
    config.add_route("address", "/account/address")
    config.add_route("end", "/account/sessions/{id}/end")
    config.add_route("end_others", "/account/sessions/end-others")
    config.add_route("end_all", "/account/sessions/end-all")
    config.add_route("why", "/why")
    config.add_route("about", "/about")
    config.add_route("outage", "/outage")
    config.add_route("stop", "/outage/stop")
    config.add_route("start", "/outage/start")
    config.add_route("document", "/docs/{name}")
