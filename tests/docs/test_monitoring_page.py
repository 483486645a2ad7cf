"""The dashboard, the alert rules and the page on monitoring name metrics and labels that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from pyramid_altsession import errors, prometheus
from pyramid_altsession.errors import AltSessionError
from pyramid_altsession.events import BY_KIND
from pyramid_altsession.protocol.fields import State
from pyramid_altsession.protocol.lifecycle import Login
from pyramid_altsession.stores import summary

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "monitoring.rst").read_text()
ERRORS = {
    name
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, AltSessionError)
}
VALUES = {
    "outcome": ERRORS
    | {summary.OK, summary.UNCONFIRMED, summary.UNUSED}
    | {state.name.lower() for state in State if state is not State.LIVE},
    "event": set(BY_KIND),
    "error": ERRORS | {"none"},
    "direction": {"sent", "received"},
}
"""What labels can hold, where it is one of a few words."""
OF_PROMETHEUS = {"job", "instance", "le"}


def described() -> dict[str, set[str]]:
    """Labels by the name of each metric, as one sample of each shows them."""
    for operation in ("read", "write"):
        prometheus.DURATION.labels(operation)
        prometheus.ROUND_TRIPS.labels(operation)
        prometheus.OPERATIONS.labels(operation, "ok")
    prometheus.BYTES.labels("sent")
    prometheus.EVENTS.labels("created")
    prometheus.RESPONSES.labels("none")
    found = {
        sample.name: set(sample.labels)
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name.startswith("altsession_") and not sample.name.endswith("_created")
    }
    return found | {family.name: {"server"} for family in prometheus.families()}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DOCS / "monitoring/alerts.yaml").read_text())["groups"]
    return list(group["rules"])


def dashboard() -> dict[str, Any]:
    return dict(json.loads((DOCS / "monitoring/grafana.json").read_text()))


def expressions() -> dict[str, str]:
    """Each expression of the rules and the dashboard, by where it stands."""
    found = {rule["alert"]: rule["expr"] for rule in rules()}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard()["templating"]["list"]:
        found[variable["name"]] = variable.get("definition", "altsession_operations_total")
    return found


@pytest.mark.parametrize("place", sorted(expressions()))
def test_metrics_of_an_expression_exist(place: str) -> None:
    """Each metric, each label of it, and each word that a label is compared with."""
    known, expression = described(), expressions()[place]
    named = re.findall(r"(altsession_\w+)(?:\{([^}]*)\})?", expression)
    assert named
    labels = set().union(*[known[name] for name, _ in named]) | OF_PROMETHEUS
    for name, selectors in named:
        for label, text in re.findall(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"', selectors):
            assert label in known[name] | OF_PROMETHEUS
            assert label == "job" or set(text.split("|")) <= VALUES[label]
    for by in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(by.replace(" ", "").split(",")) <= labels


def test_every_metric_is_shown() -> None:
    """The dashboard leaves no metric out."""
    shown = set(re.findall(r"altsession_\w+", "\n".join(expressions().values())))
    assert {name for name in described() if not name.endswith(("_sum", "_count"))} == shown


def test_page_tells_every_metric() -> None:
    """The table has each metric with its labels, and no other."""
    told = dict(re.findall(r"\* - ``(altsession_\w+)``((?: ``\w+``)*)", PAGE))
    families = {re.sub(r"_(bucket|count|sum)$", "", name): name for name in described()}
    assert set(told) == set(families)
    for name, sample in families.items():
        assert set(re.findall(r"\w+", told[name])) == described()[sample] - {"le"}


def test_page_tells_every_outcome_and_operation() -> None:
    """What the labels can hold is told; of errors those that operators meet."""
    words = set(re.findall(r"``(\w+)``", PAGE))
    assert VALUES["outcome"] - ERRORS - words == set()
    assert VALUES["event"] | VALUES["direction"] <= words
    assert {"login", "renew", "invalidate", "create", "read", "write"} <= words
    assert summary.LIVES[Login] == "login"


def test_rules_say_what_is_wrong() -> None:
    """Each has a severity and a summary, and its own name."""
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_dashboard_can_be_imported() -> None:
    """Panels have numbers of their own, do not overlap, and use the data source that is chosen."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    names = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == names
