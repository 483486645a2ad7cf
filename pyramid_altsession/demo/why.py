"""Two arguments for a session that is kept key by key, carried out whenever their page is shown:
the same two overlapping requests on a session that is one value, and on one of this package."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pyramid.request import Request
from pyramid.view import view_config

from ..api import OpenSession, SessionAPI
from ..errors import SessionGone
from .account import sessions_api
from .views import Page, shop

Values = dict[str, Any]

START: Values = {"user": "Ann", "cart": ["tea"]}
"""What the session holds before the two requests."""


class OneValue:
    """A visitor's session as many libraries keep it: a request loads all of it when it begins, and
    saves all of it when it ends."""

    def __init__(self) -> None:
        self._server = {"visitor": json.dumps(START)}

    def begin(self) -> "Copy":
        return Copy(self, json.loads(self._server["visitor"]))

    def end(self, copy: "Copy") -> None:
        if copy.changed:
            self._server["visitor"] = json.dumps(copy.values)

    def delete(self) -> None:
        del self._server["visitor"]

    def held(self) -> Values | None:
        """What the server holds now."""
        return json.loads(self._server["visitor"]) if self._server else None


@dataclass
class Copy:
    """What one request works on."""

    session: OneValue
    values: Values
    changed: bool = False

    def get(self, key: str, /) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any, /) -> None:
        self.values[key] = value
        self.changed = True

    def invalidate(self) -> None:
        self.session.delete()


class KeyByKey:
    """A visitor's session of this package."""

    def __init__(self, api: SessionAPI) -> None:
        session = api.create(START)
        cookie, id = session.token, session.id
        assert cookie is not None  # as they are after a session's end
        assert id is not None
        self._api, self._cookie, self._id = api, cookie, id

    def begin(self) -> OpenSession:
        return self._api.open(self._cookie)

    def end(self, session: OpenSession) -> None:
        """There is nothing to save: each call has written its key."""

    def held(self) -> Values | None:
        """What the server holds now."""
        return self._api.values_of(self._id)


class Session(Protocol):
    """What the two requests ask of either."""

    def get(self, key: str, /) -> Any: ...
    def set(self, key: str, value: Any, /) -> object: ...
    def invalidate(self) -> object: ...


class Sessions(Protocol):
    """Either kind, for the two requests."""

    def begin(self) -> Any: ...
    def end(self, session: Any, /) -> None: ...
    def held(self) -> Values | None: ...


@dataclass
class Step:
    """What was done, the error it met if any, and what the server held after it."""

    name: str
    held: Values | None
    error: str | None = None


def lost_update(sessions: Sessions) -> Iterator[Step]:
    """The slow request begins first and ends last; each changes a key of its own."""
    yield Step("why_start", sessions.held())
    slow: Session = sessions.begin()
    cart = slow.get("cart")
    yield Step("why_slow_reads", sessions.held())
    fast: Session = sessions.begin()
    fast.set("theme", "dark")
    sessions.end(fast)
    yield Step("why_fast_sets", sessions.held())
    slow.set("cart", [*cart, "honey"])
    sessions.end(slow)
    yield Step("why_slow_adds", sessions.held())


def undone_logout(sessions: Sessions) -> Iterator[Step]:
    """The visitor signs out while the slow request is under way."""
    slow: Session = sessions.begin()
    cart = slow.get("cart")
    yield Step("why_slow_reads", sessions.held())
    fast: Session = sessions.begin()
    fast.invalidate()
    sessions.end(fast)
    yield Step("why_fast_signs_out", sessions.held())
    error = None
    try:
        slow.set("cart", [*cart, "cup"])
        sessions.end(slow)
    except SessionGone as gone:
        error = type(gone).__name__
    yield Step("why_slow_adds_cup", sessions.held(), error)


@view_config(route_name="why", request_method="GET", renderer="templates/why.jinja2")
def why(request: Request) -> Page:
    """Nothing on it is kept: the visitor whom it makes up is signed out at the end."""
    page = shop(request)
    kinds: tuple[Sessions, Sessions] = (OneValue(), KeyByKey(sessions_api(request)))
    updates = [list(lost_update(sessions)) for sessions in kinds]
    logouts = [list(undone_logout(sessions)) for sessions in kinds]
    return page | {
        "arguments": [
            {
                "name": "why_update",
                "steps": list(zip(*updates, strict=True)),
                "outcomes": [
                    "why_kept" if "theme" in (steps[-1].held or {}) else "why_lost"
                    for steps in updates
                ],
            },
            {
                "name": "why_logout",
                "steps": list(zip(*logouts, strict=True)),
                "outcomes": [
                    "why_over" if steps[-1].held is None else "why_undone" for steps in logouts
                ],
            },
        ]
    }
