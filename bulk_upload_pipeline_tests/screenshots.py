"""The README's pictures, taken from the running product: `python -m bulk_upload_pipeline_tests.screenshots FOLDER`.

Needs the extra `pictures` and Chromium (`apt-get install chromium`). It starts `up --sample` on a home of its own, and
takes the asset graph, a run in progress and the clerk's report, each when the page says what it should.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from websockets.sync.client import connect

from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests.upped import upped, wait_until

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]
BIG_ROWS = 1_500_000
RUNS = "{ runsOrError(filter: {statuses: [STARTED]}, limit: 1) { ... on Runs { results { runId } } } }"
REFRESH = """
mutation {
  launchRun(executionParams: {runConfigData: {}, selector: {
    repositoryLocationName: "bulk_upload_pipeline", repositoryName: "__repository__", jobName: "refresh_daily_sales"
  }}) { __typename }
}
"""


class Browser:
    """A headless Chromium, driven through its own protocol."""

    def __init__(self, socket):
        self._socket, self._numbers = socket, itertools.count(1)

    def ask(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != number:
            pass
        return answer["result"]

    def run(self, script):
        """What a script in the page comes to."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, url, pattern, width, height):
        """Open a page, and wait until its text matches a regular expression of JavaScript, across lines."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Page.navigate", url=url)
        self.wait_for(pattern)

    def wait_for(self, pattern):
        wait_until(lambda: self.run(f"/{pattern}/s.test(document.body?.innerText)"))

    def seen(self):
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def at_rest(self):
        """What is seen as soon as nothing on it has moved for half a second."""

        def same_again():
            before = self.seen()
            time.sleep(0.5)
            return before == self.seen() and before

        return wait_until(same_again)


def keep(seen, path):
    """Write a picture in 256 colours: enough for a page of text and lines, in a third of the bytes."""
    Image.open(io.BytesIO(seen)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    print(f"{path}: {path.stat().st_size / 1000:,.0f} kB")


@contextmanager
def browser():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("There is no Chromium here. On Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="pictures-browser-", ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(_address(Path(profile)), proxy=None, max_size=None) as socket:
                    yield Browser(socket)
            finally:
                process.terminate()
                process.wait(30)


def _address(profile):
    """Where the browser's first page listens."""
    told = profile / "DevToolsActivePort"
    port, path = wait_until(lambda: told.exists() and len(lines := told.read_text().split()) == 2 and lines)
    with connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as whole:
        targets = Browser(whole).ask("Target.getTargets")["targetInfos"]
    (page,) = [target["targetId"] for target in targets if target["type"] == "page"]
    return f"ws://127.0.0.1:{port}/devtools/page/{page}"


def take_all(folder):
    """Take every picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as parent, browser() as page:
        big = Path(parent) / "zoho-november.csv"
        write_sample(big, rows=BIG_ROWS, profile="zoho", dirty=0.01, seed=7)
        with upped(Path(parent) / "home", "--sample") as world:
            wait_until(lambda: len(world.states()) == 3)
            count_sales(world)
            keep(asset_graph(page, world), folder / "asset-graph.png")
            keep(run_in_progress(page, world, big), folder / "run-in-progress.png")
            keep(clerk_report(page, world), folder / "clerk-report.png")


def count_sales(world):
    """Start what runs every hour, so that the graph shows all of it at work."""
    world.ask(REFRESH)
    wait_until(lambda: world.rows("SELECT FROM public.daily_sales LIMIT 1") and not _under_way(world))


def _under_way(world):
    """The run that is under way, if there is one."""
    found = world.ask(RUNS)["runsOrError"]["results"]
    return found[0]["runId"] if found else None


def asset_graph(page, world):
    url = f"http://127.0.0.1:{world.port}/asset-groups?expanded=global@global:invoices,global@global:sales"
    page.open(url, "daily_sales.*ago.*mangalam_invoices.*ago.*upload_receipts.*ago", 1800, 1000)
    return page.at_rest()


def run_in_progress(page, world, big):
    big.rename(world.home.inbox / big.name)
    run_id = wait_until(lambda: _under_way(world))
    page.open(f"http://127.0.0.1:{world.port}/runs/{run_id}", "loading [2-9]. %", 1440, 900)
    return page.seen()


def clerk_report(page, world):
    summary = world.home.reports / world.batch("distributor-some-faults.csv") / "summary.html"
    page.open(summary.as_uri(), "What to do", 800, 1000)
    return page.at_rest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    take_all(parser.parse_args().folder)
