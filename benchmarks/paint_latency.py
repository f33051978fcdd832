"""Time from "Run" on the paint page to the first estimate on its screen, with its parts; run it on an idle machine.

    python benchmarks/paint_latency.py [checkpoint] [runs]

Server and page run on this machine and read the same clock. The painting is a stroke on the blank canvas.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.chromium import browser, until  # pyright: ignore[reportMissingImports]

from sdedit_pl.paint import paint_jobs
from sdedit_pl.paint.paint_server import paint_app
from sdedit_pl.web import listen, page_url, serve_app

PAGE = """
window.times = {};
window.now = () => performance.timeOrigin + performance.now();
const real = fetch;
fetch = (...words) => (words[1] && (times.sent = now()), real(...words));
new MutationObserver(() => {
  const image = document.querySelector('#samplesrow img');
  if (!image || times.event) return;
  times.event = now();
  image.decode().then(() => requestAnimationFrame(() => setTimeout(() => (times.painted = now()))));
}).observe(document.getElementById('samplesrow'), {childList: true});
"""
STROKE = """
startStroke({x: 100, y: 100, pressure: 1}); extendStroke({x: 400, y: 300, pressure: 1}); endStroke();
setLocked(true);
"""
PARTS = {
    "page: the guide as PNG": ("run", "sent"),
    "request": ("sent", "submit"),
    "server: reading and storing the guide": ("submit", "queued"),
    "queue": ("queued", "begun"),
    "preparing the edit": ("begun", "network"),
    "first evaluation of all samples": ("network", "estimated"),
    "encoding": ("estimated", "encoded"),
    "event": ("encoded", "event"),
    "painting": ("event", "painted"),
}


def noted(times: dict[str, float], owner: Any, name: str, before: str, after: str) -> None:
    """Notes when a method is first called, and first returns."""
    method = getattr(owner, name)

    def timed(*words: Any, **keys: Any) -> Any:
        times.setdefault(before, 1000 * time.time())
        result = method(*words, **keys)
        times.setdefault(after, 1000 * time.time())
        return result

    setattr(owner, name, timed)


def measure(checkpoint: str, runs: int, folder: Path) -> list[dict[str, float]]:
    """The times of each run in ms since 1970; the first run, which warms up, is left out."""
    jobs = paint_jobs.PaintJobs(checkpoint, folder / "out")
    times: dict[str, float] = {}
    noted(times, jobs, "submit", "submit", "queued")
    noted(times, jobs, "_run", "begun", "ended")
    noted(times, paint_jobs.Job, "watch", "estimated", "encoded")
    noted(times, jobs.denoiser.network, "forward", "network", "one")
    found = []
    with listen("127.0.0.1", 0) as listening, browser(folder / "profile") as driver:
        threading.Thread(target=serve_app, args=(paint_app(jobs, folder), listening), daemon=True).start()
        driver.get(page_url("127.0.0.1", listening))
        until(lambda: driver.execute_script("return document.body.dataset.ready === 'true'"), "the page")
        driver.execute_script(PAGE + STROKE)
        for _ in range(runs + 1):
            time.sleep(1)  # the page stores the painting after changes
            times.clear()
            driver.execute_script("times = {run: now()}; document.getElementById('run').click()")
            until(lambda: driver.execute_script("return !!times.painted && !state.job"), "the edit")
            found.append({**times, **driver.execute_script("return times")})
            driver.execute_script("showRow(false); hideCompare()")
    jobs.close()
    return found[1:]


def main(checkpoint: str = "portraits64", runs: str = "10") -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(checkpoint, int(runs), Path(folder))
    print(f"{checkpoint}, {runs} runs, {torch.get_num_threads()} threads\n\n| | median |\n|---|---:|")
    for name, (begin, end) in {**PARTS, "from Run to the first estimate": ("run", "painted")}.items():
        print(f"| {name} | {statistics.median(times[end] - times[begin] for times in found):.0f} ms |")


if __name__ == "__main__":
    main(*sys.argv[1:])
