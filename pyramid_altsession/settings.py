"""Reading settings without Pyramid's configurator."""

from .config.sources import from_ini, read_settings
from .config.table import Settings

__all__ = ["Settings", "from_ini", "read_settings"]
