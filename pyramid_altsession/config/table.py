"""The settings: a dataclass for each group, and a field for each setting."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from .converters import (
    TOKEN_CHARACTERS,
    Address,
    Converter,
    as_above_zero,
    as_callable,
    as_choice,
    as_enums,
    as_events,
    as_flag,
    as_host,
    as_matching,
    as_names,
    as_nodes,
    as_path,
    as_port,
    as_prefix,
    as_seconds,
    as_secrets,
    as_sentinels,
    as_text,
    as_texts,
    as_whole,
    shown,
)


def setting(default: Any, convert: Converter, doc: str, *, secret: bool = False) -> Any:
    """One line of the table: default, converter, and the comment for people."""
    return field(
        default=default,
        metadata={"convert": convert, "doc": doc, "secret": secret},
        repr=not secret,
    )


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """Where the server is. ``url`` and the single names exclude each other."""

    url: str | None = setting(
        None,
        as_text,
        "redis://, rediss://, valkey://, valkeys://, unix://, redis+sentinel://, redis+cluster://,"
        " embedded:// or memory://",
        secret=True,
    )
    host: str = setting("localhost", as_host, "host name or address")
    port: int = setting(6379, as_port, "TCP port")
    socket: str | None = setting(None, as_path, "path of a unix socket, instead of host and port")
    sentinels: tuple[Address, ...] = setting(
        (), as_sentinels, "host:port of each sentinel, instead of host and port"
    )
    master: str | None = setting(None, as_text, "what the sentinels call the primary")
    sentinel_username: str | None = setting(None, as_text, "user of the sentinels' access list")
    sentinel_password: str | None = setting(None, as_text, "password of the sentinels", secret=True)
    cluster: tuple[Address, ...] = setting(
        (), as_nodes, "host:port of some nodes of a cluster, instead of host and port"
    )
    username: str | None = setting(None, as_text, "user of the server's access list")
    password: str | None = setting(None, as_text, "password of the server", secret=True)
    password_file: str | None = setting(
        None, as_path, "file that holds the password; read whenever a connection is opened"
    )
    db: int = setting(0, as_whole(0, 10**6), "number of the database")
    ssl: bool = setting(False, as_flag, "speak TLS")
    ssl_ca_certs: str | None = setting(
        None, as_text, "file of the authorities to trust, instead of the system's"
    )
    ssl_certfile: str | None = setting(None, as_text, "file of the client's certificate")
    ssl_keyfile: str | None = setting(None, as_text, "file of the client's key")
    ssl_check_hostname: bool = setting(True, as_flag, "the certificate must name the host")
    ssl_min_version: str = setting("1.2", as_choice("1.2", "1.3"), "lowest version of TLS to speak")
    timeout: float = setting(1.0, as_above_zero, "seconds: bound on one round trip")
    connect_timeout: float = setting(1.0, as_above_zero, "seconds: bound on connecting")
    max_connections: int = setting(
        64, as_whole(1, 10**5), "connections of one process to one server at most"
    )

    def of_sentinels(self) -> "RedisSettings":
        """The same for connections to sentinels, which have users of their own and no databases."""
        return replace(
            self,
            username=self.sentinel_username,
            password=self.sentinel_password,
            password_file=None,
            db=0,
        )

    @property
    def scheme(self) -> str:
        """The url's scheme; empty without a url."""
        return urlsplit(self.url or "").scheme

    @property
    def place(self) -> str:
        """Where the server is, for messages: without user and password."""
        if self.scheme in ("embedded", "memory"):
            return self.url or ""
        if self.sentinels:
            return f"{self.master} (sentinels {shown(self.sentinels)})"
        if self.cluster:
            return f"the cluster {shown(self.cluster)}"
        return self.socket or f"{self.host}:{self.port}"

    configured: bool = field(default=True, repr=False, compare=False)
    """Whether a setting says where the server is; otherwise it is assumed to be on this host."""


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """What a session is: its times, its names, its cookie."""

    tti: float = setting(1200.0, as_above_zero, "seconds without use until a session is forgotten")
    touch_interval: float | None = setting(
        None, as_seconds, "seconds between two restarts of the tti by reads; default tti / 10"
    )
    lifetime: float = setting(86400.0, as_seconds, "seconds until the absolute end; 0 = none")
    gone_window: float = setting(
        10.0, as_seconds, "seconds in which a cookie that was just replaced starts no new session"
    )
    renew_after: float = setting(
        0.0, as_seconds, "seconds until a signed-in session gets a new cookie; 0 = never"
    )
    renew_grace: float = setting(
        10.0, as_seconds, "seconds that the old cookie stays good after the new one's first use"
    )
    on_reuse: str = setting(
        "ignore",
        as_choice("ignore", "invalidate"),
        "what to do when a replaced cookie comes back after the grace",
    )
    first_tti: float | None = setting(
        None,
        as_above_zero,
        "seconds until a session ends whose cookie never came back; default tti",
    )
    max_sessions_per_user: int = setting(0, as_whole(0, 10**6), "sessions of one user; 0 = any")
    on_max_sessions: str = setting(
        "end_oldest",
        as_choice("end_oldest", "deny"),
        "what happens when the user signs in once more",
    )
    notify: str = setting(
        "none",
        as_choice("none", "life", "keys"),
        "what watch() is told of: nothing, ends and renewals, or changed keys too",
    )
    prefix: str = setting("sess", as_prefix, "prefix of the keys on the server")
    secret: tuple[str, ...] = setting(
        (), as_secrets, "signs the cookie; the first signs, all verify", secret=True
    )
    cookie_name: str = setting(
        "sid", as_matching(TOKEN_CHARACTERS, "a cookie name"), "name of the cookie"
    )
    domain: str | None = setting(
        None,
        as_matching(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", "a domain name"),
        "domain of the cookie; none = this host only",
    )
    path: str = setting(
        "/", as_matching(r"/[!-:<-~]*", "a path that begins with /"), "path of the cookie"
    )
    secure: bool = setting(True, as_flag, "the browser sends the cookie over https only")
    same_site: str = setting("Lax", as_choice("Lax", "Strict", "None"), "SameSite of the cookie")
    partitioned: bool = setting(False, as_flag, "one cookie for each top-level site (CHIPS)")
    max_age: int | None = setting(
        None,
        as_whole(1, 400 * 86400),
        "seconds the browser keeps the cookie, from the answer that set it; none = until closed",
    )
    prefetch: tuple[str, ...] = setting(
        (), as_texts, "keys fetched together with the first read of a request"
    )
    codec: Converter | None = setting(
        None, as_callable, "dotted name of the function that makes the codec; default JSON"
    )
    codec_secret: tuple[str, ...] = setting(
        (), as_secrets, "for a codec that seals; the first seals, all open", secret=True
    )
    codec_enums: tuple[type[Enum], ...] = setting(
        (), as_enums, "dotted names of the enumerations that codecs.rich carries"
    )
    max_value_bytes: int = setting(
        65536, as_whole(1, 512 * 1024 * 1024), "bytes of one encoded value at most"
    )
    max_keys: int = setting(0, as_whole(0, 10**6), "keys of one session at most; 0 = any")
    max_bytes: int = setting(
        0,
        as_whole(0, 512 * 1024 * 1024),
        "bytes of one session's keys and encoded values at most; 0 = any",
    )


@dataclass(frozen=True, kw_only=True)
class SyncSettings:
    """The synchronous layer: ``request.session``."""

    enabled: bool = setting(False, as_flag, "serve request.session from the same session")
    keys: tuple[str, ...] | None = setting(
        None, as_texts, "keys that request.session may touch; default all"
    )
    on_gone: str = setting(
        "error",
        as_choice("error", "drop"),
        "what to do when the session is gone at the write-back: answer 409, or drop the changes",
    )
    login_keys: tuple[str, ...] = setting(
        (), as_texts, "keys that hold the signed-in user, besides those that end in userid"
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, validated. Numbers are seconds."""

    redis: RedisSettings = RedisSettings()
    session: SessionSettings = SessionSettings()
    sync: SyncSettings = SyncSettings()
    sessions: tuple[str, ...] = setting(
        (), as_names, "names of further sessions; admin is request.altsession_admin"
    )
    transactional: bool = setting(
        False, as_flag, "changes of request.session are written when pyramid_tm commits"
    )
    log_events: bool | str = setting(
        False, as_events, "log every event: session id, user id, reason; json = as a JSON object"
    )
    admin_permission: str | None = setting(
        None, as_text, "permission that the admin page needs; it is not there without one"
    )
    server_timing: bool = setting(
        False,
        as_flag,
        "for development: the header Server-Timing shows the session's part of each request",
    )
    debugtoolbar_values: bool = setting(
        False, as_flag, "show what is stored in the panel of pyramid_debugtoolbar"
    )


def table() -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Every setting as (dotted name, dataclass field)."""
    for section in dataclasses.fields(Settings):
        if section.metadata:
            yield section.name, section
        else:
            for entry in dataclasses.fields(section.default):  # type: ignore[arg-type]
                if entry.metadata:
                    yield f"{section.name}.{entry.name}", entry
