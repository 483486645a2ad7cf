"""Several awaited calls in one round trip."""

from types import TracebackType
from typing import TYPE_CHECKING

from ..batch import BatchBase

if TYPE_CHECKING:
    from .session import AsyncAltSession


class AsyncBatch(BatchBase):
    """The calls of ``async with session.batch() as b:``, the same as those of
    :class:`pyramid_altsession.Batch`. You do not await them; the end of the block does.
    """

    def __init__(self, session: "AsyncAltSession") -> None:
        super().__init__(session.commands)
        self._session = session

    async def __aenter__(self) -> "AsyncBatch":
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        verbs = self._end(error)
        if error is None and self._handles:
            with self._sending():
                self._deliver(await self._session.together(verbs))
