"""The doctor's findings about the settings: the cookie, the transport, other packages."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pyramid.settings import asbool

from ..config.table import RedisSettings, SessionSettings, Settings
from .findings import ERROR, OK, WARNING, Finding

HOUR, DAY = 3600, 86400
LONGEST_WAIT = 30
"""Seconds: as long as servers in front commonly wait for an answer."""
GUIDE = "NIST SP 800-63B-4, AAL2, advises at most an hour without use and 24 hours in all"


def of_settings(
    settings: Settings, application: Mapping[str, Any], server: Mapping[str, Any]
) -> Iterator[Finding]:
    """``server``: what the config URI says of the WSGI server."""
    yield cookie(settings.session)
    yield from scheme(settings.session, server)
    yield times(settings.session)
    yield transport(settings.redis)
    yield from waits(settings.redis)
    yield from transaction(settings, application)


def empty_secrets(titles: Iterable[str]) -> Iterator[Finding]:
    """Secrets that are given and empty: without a secret, say, cookies are not signed."""
    for title in titles:
        advice = "it counts as not given: fill in the environment's variable, or remove the line"
        yield Finding("secret", WARNING, f"{title} is empty", advice)


def cookie(session: SessionSettings) -> Finding:
    """The attributes that ASVS 5.0 asks for in 3.3.1 to 3.3.4. HttpOnly is always there."""
    found = f"{session.cookie_name}; {'Secure; ' * session.secure}SameSite={session.same_site}"
    if not session.secure:
        advice = "set altsession.session.secure = true and serve over https (ASVS 3.3.1)"
        return Finding("cookie", ERROR, found, advice)
    if session.same_site == "None":
        advice = "other sites' pages send it along; set altsession.session.same_site = Lax"
        return Finding("cookie", WARNING, found, f"{advice} unless they have to (ASVS 3.3.2)")
    if session.domain is not None:
        advice = f"every host below {session.domain} gets it; leave altsession.session.domain out"
        return Finding("cookie", WARNING, found, advice)
    if not session.cookie_name.lower().startswith("__host-"):
        advice = "another host of the domain could set it; altsession.session.cookie_name ="
        return Finding("cookie", WARNING, found, f"{advice} __Host-{session.cookie_name}")
    return Finding("cookie", OK, found)


def scheme(session: SessionSettings, server: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the application knows that it is served over https. Only settings of waitress are
    known here.
    """
    if not session.secure or "waitress" not in server.get("use", ""):
        return
    told = "x-forwarded-proto" in server.get("trusted_proxy_headers", "").lower()
    if server.get("url_scheme") == "https" or ("trusted_proxy" in server and told):
        yield Finding("scheme", OK, "https")
        return
    advice = "browsers keep a Secure cookie only over https: [server:main] needs url_scheme ="
    advice += " https, or trusted_proxy and trusted_proxy_headers = x-forwarded-proto"
    yield Finding("scheme", WARNING, "waitress serves plain http", advice)


def times(session: SessionSettings) -> Finding:
    lifetime = f"{session.lifetime:g} s in all" if session.lifetime else "no end"
    found = f"{session.tti:g} s without use, {lifetime}"
    if session.tti > HOUR or not 0 < session.lifetime <= DAY:
        return Finding("times", WARNING, found, GUIDE)
    return Finding("times", OK, found)


def waits(redis: RedisSettings) -> Iterator[Finding]:
    """How long a visitor waits while the server hangs. Some packages count in milliseconds."""
    for name in ("timeout", "connect_timeout"):
        seconds = getattr(redis, name)
        if seconds > LONGEST_WAIT:
            advice = f"a request waits as long for a server that hangs; altsession.redis.{name} is"
            yield Finding("waits", WARNING, f"{name} {seconds:g} s", f"{advice} in seconds")


def transport(redis: RedisSettings) -> Finding:
    """Whether stored values cross a network unencrypted."""
    if redis.socket is not None or redis.scheme == "embedded":
        return Finding("transport", OK, "a unix socket")
    if redis.ssl:
        if redis.ssl_check_hostname:
            return Finding("transport", OK, "TLS")
        advice = "set altsession.redis.ssl_check_hostname = true"
        return Finding("transport", WARNING, "TLS, without a look at the host's name", advice)
    addresses = redis.sentinels or redis.cluster or ((redis.host, redis.port),)
    if all(_is_here(host) for host, _ in addresses):
        return Finding("transport", OK, "this host")
    advice = "the password and all sessions can be read on the way; use rediss://"
    return Finding("transport", WARNING, f"plain text to {redis.place}", advice)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def transaction(settings: Settings, application: Mapping[str, Any]) -> Iterator[Finding]:
    """pyramid_tm asks who is signed in, for a note in the transaction, before each request."""
    includes = str(application.get("pyramid.includes", ""))
    named = any(name.startswith("tm.") for name in application)
    if not (named or settings.transactional or "pyramid_tm" in includes):
        return
    if asbool(application.get("tm.annotate_user", "true")):
        advice = "set tm.annotate_user = false if the security policy asks the session, or each"
        advice += " request reads it, and none is served without the server"
        yield Finding("pyramid_tm", WARNING, "tm.annotate_user = true", advice)
    else:
        yield Finding("pyramid_tm", OK, "tm.annotate_user = false")
