"""A shop as its makers would build it: SQLAlchemy and pyramid_tm, pyramid_retry, CSRF tokens in
every form, flash messages, passwords, devices. ``test_shop.py`` serves it and shops."""

from typing import Any

from pyramid.config import Configurator
from pyramid.router import Router

from .security import SecurityPolicy


def main(global_config: Any = None, **settings: Any) -> Router:
    with Configurator(settings=settings) as config:
        config.include("pyramid_jinja2")
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.include("pyramid_altsession")
        config.include(".models")
        config.include(".views")
        config.set_security_policy(SecurityPolicy())
        config.set_default_csrf_options(require_csrf=True)
        return config.make_wsgi_app()
