"""What the pages say, in every language of the shop."""

from .de import DE
from .en import EN

TEXTS: dict[str, dict[str, str]] = {"en": EN, "de": DE}
