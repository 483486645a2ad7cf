"""Sphinx: ``make docs`` builds with every warning an error."""

import sys
from pathlib import Path

from pyramid_altsession._version import VERSION

sys.path.append(str(Path(__file__).parent))

project = "pyramid_altsession"
author = "the authors of pyramid_altsession"
release = version = VERSION
extensions = ["sphinx.ext.autodoc", "settings_table"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pyramid_\u200baltsession {VERSION}"  # may break in the narrow side bar
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "exclude-members": "__init__, __new__"}
