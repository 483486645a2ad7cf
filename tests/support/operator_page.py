"""What the commands of docs/operator.rst say, on a server like that of the page.

``python tests/support/operator_page.py`` writes it into the page anew.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

from apps import Browser
from operator_cli import tool
from servers import Server, valkey

from pyramid_altsession import SessionAPI
from pyramid_altsession.cli import main
from pyramid_altsession.config.sources import read_settings

PAGE = Path(__file__).parents[2] / "docs/operator.rst"
CAPTION = "   :caption: altsession production.ini "
SESSIONS = 300


def said(server: Server, folder: str) -> dict[str, str]:
    """What each command of the page says, by its arguments."""
    api = SessionAPI(read_settings({"redis.url": server.url}))
    file = Path(folder) / "altsession.yaml"
    file.write_text(f"redis: {{url: 'unix://{server.socket}'}}\n")

    def ask(*arguments: str) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            main([str(file), *arguments])
        return out.getvalue()

    os.environ["COLUMNS"] = "96"
    ask("load", str(SESSIONS))
    found = {"stats": ask("stats"), "doctor": ask("doctor")}
    session = api.create({"cart": {"tea": 2}, "language": "en"})
    session.login("ann", info={"agent": "Firefox, Linux"})
    found["list --user ann"] = ask("list", "--user", "ann")
    found["show ID"] = ask("show", session.id or "")
    found["end-user ann"] = ask("end-user", "ann")
    api.close()
    found["watch"] = watched(server, file)
    return found


def watched(server: Server, file: Path) -> str:
    """What is heard until somebody interrupts it."""
    file.write_text(f"{file.read_text()}session: {{notify: life}}\n")
    watch = subprocess.Popen(tool(file, "watch"), stdout=subprocess.PIPE, text=True)
    assert watch.stdout is not None
    lines = [watch.stdout.readline() for _ in ("head", "connected")]
    api = SessionAPI(read_settings({"redis.url": server.url, "session.notify": "life"}))
    browser, phone = Browser(api), api.create()
    browser.does(lambda session: session.login("ann"))
    phone.login("bob")
    browser.does(lambda session: session.logout())
    api.invalidate_user("bob")
    api.close()
    lines += [watch.stdout.readline() for _ in range(4)]
    watch.send_signal(signal.SIGINT)
    watch.communicate()
    return "".join(lines)


def blocks(text: str) -> dict[str, str]:
    """What the page shows, by the arguments."""
    found = {}
    for part in text.split(CAPTION)[1:]:
        arguments, _, rest = part.partition("\n\n")
        found[arguments] = re.split(r"\n(?=\S)", rest)[0]
    return found


def written(text: str, outputs: dict[str, str]) -> str:
    """The page with these outputs."""
    for arguments, output in outputs.items():
        lines = [f"   {line}".rstrip() for line in output.splitlines()]
        head = f"{CAPTION}{arguments}\n\n"
        before, _, after = text.partition(head)
        old = re.match(r"(?:   .*\n|\n(?=   ))*\n?", after)
        text = before + head + "\n".join(lines) + "\n\n" + after[old.end() if old else 0 :]
    return text


def lasting(output: str) -> list[str]:
    """What does not change from run to run: no numbers, ids, bars or widths."""
    output = re.sub(r"[A-Za-z0-9_-]{22}", "ID", output)
    output = re.sub(r"\d+ (s|min|h|d)\b", "T", output).replace("█", "")
    output = re.sub(r"\d+(\.\d+)*", "N", output)
    return [" ".join(line.split()) for line in output.splitlines() if line.strip()]


if __name__ == "__main__":
    example = valkey()
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(written(PAGE.read_text(), said(example, place)))
    example.stop()
