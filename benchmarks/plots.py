"""The results as SVG."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from peers import BEAKER, COOKIE, DICT, NACL, OURS, REDIS
from tables import Results

mpl.rcParams |= {
    "svg.hashsalt": "pyramid_altsession",  # the same results make the same file
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
SHOWN = (OURS, DICT, COOKIE, NACL, REDIS, BEAKER)


def draw(results: Results, folder: Path) -> None:
    _requests(results, folder / "requests.svg")
    growth = results["growth"]
    _lines(
        growth["size"],
        folder / "size.svg",
        "bytes stored beside the key",
        "µs of CPU time over bare",
    )
    _lines(
        {OURS: growth["sessions"]["us"]},
        folder / "sessions.svg",
        "sessions on the server",
        "µs of CPU time over bare",
        logarithmic=False,
    )
    _lines(
        growth["threads"], folder / "threads.svg", "threads", "reads a second", logarithmic=False
    )
    if results.get("load"):
        _load(results, folder / "load.svg")


def _requests(results: Results, path: Path) -> None:
    taken = results["in process"]["pinned"]["small"]
    base = taken[""]["bare"]["us"]
    figure, axes = pyplot.subplots(figsize=(7, 3))
    for place, doing in enumerate(("write one", "read one")):
        over = [taken[library][doing]["us"] - base for library in SHOWN]
        at = [number + 0.35 * place for number in range(len(SHOWN))]
        drawn = axes.barh(at, over, height=0.33, label=doing)
        axes.bar_label(drawn, fmt="%.0f", padding=3)
    axes.set_yticks([number + 0.17 for number in range(len(SHOWN))], SHOWN)
    axes.invert_yaxis()
    axes.set_xlabel("µs of CPU time over the bare application, client and server")
    axes.legend(frameon=False)
    _save(figure, path)


def _lines(
    lines: Mapping[str, Mapping[str, float]],
    path: Path,
    across: str,
    up: str,
    *,
    logarithmic: bool = True,
) -> None:
    figure, axes = pyplot.subplots(figsize=(6, 3))
    for name, points in lines.items():
        axes.plot([int(each) for each in points], list(points.values()), marker="o", label=name)
    axes.set_xscale("log")
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(frameon=False)
    _save(figure, path)


def _load(results: Results, path: Path) -> None:
    figure, all_axes = pyplot.subplots(1, len(results["load"]), figsize=(8, 3), sharey=True)
    for axes, (server, by_clients) in zip(all_axes, results["load"].items(), strict=True):
        names = [name for name in next(iter(by_clients.values())) if name != "bare"]
        for name in names:
            shares = [100 * taken[name]["share"] for taken in by_clients.values()]
            axes.plot(list(by_clients), shares, marker="o", label=name)
        axes.set_title(server)
        axes.set_xlabel("clients")
        axes.set_ylim(0, 110)
    all_axes[0].set_ylabel("% of the bare application's rate")
    all_axes[0].legend(frameon=False, fontsize=7)
    _save(figure, path)


def _save(figure: "pyplot.Figure", path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
