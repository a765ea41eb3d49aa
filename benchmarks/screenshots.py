"""Photograph the report of `benchmarks/results/study` in Chromium, as wide as a laptop and as a phone.

    python benchmarks/screenshots.py        # writes docs/pictures/study.png and study_phone.png

Needs playwright and a Chromium. The runs are made again from the study's table of evaluations and its
configurations: the page is what `rlsuite report` writes of them, with the tab of returns alone.
"""

import csv
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from rlsuite.report.write import write_report

ROOT = Path(__file__).parent.parent
STUDY, PICTURES = ROOT / "benchmarks" / "results" / "study", ROOT / "docs" / "pictures"
ENV = "gym:Pendulum-v1"
SHOTS = {"study.png": (1280, 1000), "study_phone.png": (390, 844)}  # file: width and height in CSS pixels


def runs_again(folder: Path) -> None:
    """Write a run folder for every run of the study's table on `ENV`: configuration and evaluations."""
    lines = defaultdict(list)
    with (STUDY / "curves.csv").open() as file:
        for row in csv.DictReader(file):
            if row["env"] == ENV:
                lines[row["run"]].append(row)
    for name, rows in lines.items():
        stem, _, seed = name.rpartition("-s")
        run = folder / name
        run.mkdir(parents=True)
        config = (STUDY / f"{stem}-s0.config.toml").read_text()
        (run / "config.toml").write_text(config.replace("\nseed = 0\n", f"\nseed = {seed}\n"))
        evaluations = [
            {
                "step": int(float(row["env_steps"])),
                "updates": int(float(row["updates"])),
                "seconds": float(row["seconds"]),
                "eval/return_mean": float(row["return_mean"]),
                "eval/return_std": float(row["return_std"]),
            }
            for row in rows
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evaluations))


def photograph(page: Path) -> None:
    """Save what Chromium shows of a page at each width, with the pointer on the plot."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for file, (width, height) in SHOTS.items():
            shown = browser.new_page(viewport={"width": width, "height": height})
            shown.goto(page.as_uri())
            shown.wait_for_selector("#panel-0 .main-svg")
            plot = shown.locator("#panel-0 .nsewdrag")
            box = plot.bounding_box()
            assert box is not None
            plot.hover(position={"x": box["width"] * 0.8, "y": box["height"] * 0.6})
            shown.wait_for_selector("#panel-0 .hoverlayer .legendtext", state="attached")
            shown.screenshot(path=str(PICTURES / file))
        browser.close()


def main() -> int:
    """Draw both pictures; return 0."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs_again(folder / "runs")
        print("\n".join(write_report([folder / "runs"], folder / "report")))
        photograph(folder / "report" / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
