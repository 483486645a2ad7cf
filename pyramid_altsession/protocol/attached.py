"""A session that code of the application's own uses by its id, whatever its cookie is. No I/O."""

from msgspec.structs import replace

from .fields import State, Timing
from .lifecycle import Life, Login, Renew
from .messages import Read, Write
from .state import SessionState
from .token import ID_LENGTH, Claim, Token
from .verbs import Verb


class AttachedState(SessionState):
    """What such a holder knows of the session of ``user`` (None: of nobody).

    It never uses the session's own proof: the first use of a renewed cookie's has to be the
    browser's, and a replaced one may end the session.
    """

    def __init__(self, id: str, user: str | None, timing: Timing) -> None:
        tokens = [Token(id, "")] if len(id) == ID_LENGTH else []
        super().__init__(tokens, timing._replace(reuse_ends=False), detached=True)
        self._whose = user or ""

    def read(
        self, names: tuple[str, ...] | None, *, touch: bool = True, fresh: bool = False
    ) -> Read | None:
        """It prolongs nothing."""
        found = super().read(names, touch=False, fresh=fresh)
        return None if found is None else replace(found, whose=self._whose)

    def _guarded(
        self, token: Token, verbs: tuple[Verb, ...], life: Life | None, optional: bool = False
    ) -> Write:
        if isinstance(life, Renew | Login):
            raise RuntimeError(
                "a session that was attached by its id has no cookie: renew and login belong"
                " into a request"
            )
        write = super()._guarded(token, verbs, life, optional)
        return replace(write, whose=self._whose, user=self._whose or None)

    def _note_rejection(self, claim: Claim, state: State) -> None:
        """Nobody came with a wrong cookie."""
