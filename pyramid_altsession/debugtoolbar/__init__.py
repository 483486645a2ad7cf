"""A panel of pyramid_debugtoolbar: what a request asked of its sessions, and what that cost.

``debugtoolbar.includes = pyramid_altsession.debugtoolbar`` adds it.
"""

from collections.abc import Sequence
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid_debugtoolbar.panels import DebugPanel

from ..interfaces import ISessionAPI
from ..stores.trace import Step, Trace
from ..web.recording import record

MANY = 3
"""From so many reads of one key each, the panel advises to read them together."""
QUEUE = "_f_"
"""The prefix of the key of a flash queue."""


class AltSessionPanel(DebugPanel):
    """Keys, and values only with ``altsession.debugtoolbar_values = true``; never a cookie's value.

    It is rendered by the toolbar's own request, so it also has the steps that come after the
    response.
    """

    name = "altsession"
    title = nav_title = "altsession"
    template = "pyramid_altsession.debugtoolbar:panel.dbtmako"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.trace = Trace()
        api = request.registry.queryUtility(ISessionAPI)
        self.has_content = api is not None
        if api is not None:
            self.trace = record(request, values=api.settings.debugtoolbar_values)

    @property
    def nav_subtitle(self) -> str:
        number = self.trace.round_trips
        return f"{number} round trip{'' if number == 1 else 's'}" if self.trace.steps else ""

    def render_vars(self, request: Request) -> dict[str, Any]:
        return {"trace": self.trace, "advice": advice(self.trace.steps)}


def advice(steps: Sequence[Step]) -> list[str]:
    """Advice on how to get the same in fewer round trips, for each session."""
    sessions = dict.fromkeys([step.session for step in steps])
    return [line for name in sessions for line in advice_for(name, steps)]


def advice_for(session: str, steps: Sequence[Step]) -> list[str]:
    found = []
    asked = [step.keys[0] for step in steps if step.session == session and is_single(step)]
    single = dict.fromkeys(asked)
    queues = [key for key in single if key.startswith(QUEUE)]
    keys = [key for key in single if not key.startswith(QUEUE)]
    if len(keys) >= MANY:
        listed = ", ".join(map(repr, keys))
        found.append(
            f"{len(keys)} keys were read one by one; one round trip fetches them all:"
            f" request.{session}.mget([{listed}])"
        )
    if len(queues) > 1:
        found.append(
            f"{len(queues)} flash queues were read one by one; the first read of a request brings"
            f" them all with the setting: altsession.session.prefetch = {' '.join(queues)}"
        )
    return found


def is_single(step: Step) -> bool:
    return step.kind == "read" and len(step.keys) == 1


def includeme(config: Configurator) -> None:
    """Called by pyramid_debugtoolbar, with the configurator of the toolbar's own application."""
    config.add_debugtoolbar_panel(AltSessionPanel)
