"""``.. altsession-settings:: session`` renders one section of the table of settings; without a
name, what stands in no section."""

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pyramid_altsession.config.table import table


def shown(default: object) -> str:
    """A default as an .ini file would say it."""
    if default is None or default == ():
        return "–"
    if isinstance(default, bool):
        return f"``{str(default).lower()}``"
    return f"``{default:g}``" if isinstance(default, float) else f"``{default}``"


class SettingsTable(SphinxDirective):
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 32 14 54", ""]
        rows = [("Setting", "Default", "Meaning")]
        section = self.arguments[0] if self.arguments else ""
        for name, field in table():
            if name.rpartition(".")[0] == section:
                rows.append((f"``{name}``", shown(field.default), field.metadata["doc"]))
        for row in rows:
            lines += [f"   {'*' if cell is row[0] else ' '} - {cell}" for cell in row]
        parent = nodes.container()
        self.state.nested_parse(StringList(lines, source="settings.py"), 0, parent)
        return parent.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("altsession-settings", SettingsTable)
    return {"parallel_read_safe": True}
