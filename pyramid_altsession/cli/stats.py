"""How many sessions there are, how large and how old: one walk over all of them, in constant
memory.
"""

from argparse import Namespace
from datetime import UTC, datetime

from ..api import SessionInfo
from .configuration import Configured
from .output import Output

SIZES = {256: "< 256 B", 1024: "< 1 KiB", 4096: "< 4 KiB", 16384: "< 16 KiB", 65536: "< 64 KiB"}
TIMES = {60: "< 1 min", 300: "< 5 min", 3600: "< 1 h", 21600: "< 6 h", 86400: "< 1 d"}
EVERY = 500
"""Progress is shown after each so many sessions."""


class Distribution:
    """Numbers, counted by the range that they fall into."""

    def __init__(self, ranges: dict[int, str]) -> None:
        self._ranges = [*ranges.items()]
        self._counts = [0] * (len(ranges) + 1)

    def add(self, number: float) -> None:
        place = next((at for at, (end, _) in enumerate(self._ranges) if number < end), -1)
        self._counts[place] += 1

    def parts(self) -> list[dict[str, object]]:
        names = [name for _, name in self._ranges] + ["more"]
        pairs = zip(names, self._counts, strict=True)
        return [{"range": name, "sessions": count} for name, count in pairs]


class Statistics:
    """The figures of all sessions that were added."""

    def __init__(self) -> None:
        self.sessions = self.signed_in = self.bytes = self.largest = 0
        self.sizes, self.ages, self.remaining = (Distribution(r) for r in (SIZES, TIMES, TIMES))

    def add(self, info: SessionInfo, now: datetime) -> None:
        size = info.size
        self.sessions += 1
        self.signed_in += info.userid is not None
        self.bytes += size
        self.largest = max(self.largest, size)
        self.sizes.add(size)
        self.ages.add((now - info.created).total_seconds())
        self.remaining.add((info.expires - now).total_seconds())


def stats(arguments: Namespace, configured: Configured, output: Output) -> int:
    """Count, size, age and remaining time of all sessions."""
    found = Statistics()
    with configured.api() as api, output.progress("sessions counted") as show:
        for info in api.scan(keys=True):
            found.add(info, datetime.now(UTC))
            if found.sessions % EVERY == 0:
                show(found.sessions)
    output.one(
        {
            "sessions": found.sessions,
            "signed_in": found.signed_in,
            "bytes": found.bytes,
            "largest": found.largest,
            "size": found.sizes.parts(),
            "age": found.ages.parts(),
            "remaining": found.remaining.parts(),
        }
    )
    return 0
