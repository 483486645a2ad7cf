"""What a request remembers of the fields that it has seen."""

from msgspec import Struct

from .fields import Raw, is_key


class FieldCache(Struct, eq=False):
    """The raw bytes of the fields that one request has seen."""

    fields: dict[str, Raw] = {}  # each has its own
    complete: bool = False

    def missing(self, names: tuple[str, ...]) -> tuple[str, ...]:
        if self.complete:
            return ()
        if not self.fields:
            return names
        return tuple([name for name in names if name not in self.fields])

    def present(self) -> dict[str, bytes]:
        """The application's fields. A field without a name, from another program, is no key."""
        return {n: raw for n, raw in self.fields.items() if raw is not None and is_key(n)}

    def forget(self, *names: str) -> None:
        for name in names:
            self.fields.pop(name, None)
        self.complete = False

    def clear(self) -> None:
        self.fields.clear()
        self.complete = False
