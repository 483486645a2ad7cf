"""The state of a session that the application's own code uses by its id, whatever its cookie is. No
I/O.
"""

from msgspec.structs import replace

from .fields import State, Timing
from .lifecycle import Life, Login, Renew
from .messages import Read, Write
from .state import SessionState
from .token import ID_LENGTH, Claim, Token
from .verbs import Verb


class AttachedState(SessionState):
    """What the code that attached knows of the session of ``user`` (None: of nobody).

    It never uses the session's own proof: the browser has to be the first to use a renewed proof,
    and using a replaced one may end the session.
    """

    def __init__(self, id: str, user: str | None, timing: Timing) -> None:
        tokens = [Token(id, "")] if len(id) == ID_LENGTH else []
        super().__init__(tokens, timing._replace(reuse_ends=False), detached=True)
        self._whose = user or ""

    def read(
        self, names: tuple[str, ...] | None, *, touch: bool = True, fresh: bool = False
    ) -> Read | None:
        """A read without a touch."""
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
        """There is no cookie that could be wrong."""
