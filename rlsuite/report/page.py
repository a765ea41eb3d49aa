"""The report as one HTML page that opens without a network: script, data and videos are in it."""

import base64
import contextlib
import io
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from rlsuite.errors import ConfigError
from rlsuite.report.series import colors_of, figures, profile
from rlsuite.report.study import AXES, Study
from rlsuite.report.tables import (
    LEAST_SEEDS,
    REACH,
    counted,
    difference_tables,
    improvement_table,
    summary_table,
)

PAGE_FILE = "report.html"
TITLE = "rlsuite report"
FILM_SUFFIXES = {".mp4": "video/mp4", ".png": "image/png", ".svg": "image/svg+xml"}
FIGURE_SUFFIXES = {"pdf": "application/pdf", "svg": "image/svg+xml"}
PLOTLY = (
    "plotly-basic.min.js"  # of the npm package plotly.js-basic-dist-min, 4.1.1; plotly-LICENSE is beside it
)
MAX_FILM_BYTES = 20_000_000  # of one file; larger ones are named, not embedded
POSTER_AT = 0.25  # of a film: its first picture often shows nothing yet
POSTER_PIXELS = 480


def write_page(study: Study, out: Path, refresh: int | None = None) -> Path:
    """Write `report.html` into the folder `out` and return its path.

    Args:
        study: what it shows.
        out: folder; the figures `curves.pdf` and `curves.svg` in it are carried by the page.
        refresh: seconds after which a browser loads the page again; None: never.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise ConfigError('a report needs jinja2: pip install "rlsuite[report]"') from error
    folder = files("rlsuite.report") / "page_files"
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    tabs, shares = figures(study), profile(study)
    colors = colors_of(study)
    shown = {
        name: Markup((folder / file).read_text(encoding="utf-8"))  # ours, or plotly's: code, not text
        for name, file in {
            "css": "report.css",
            "script": "report.js",
            "plotly": "plotly-basic.min.js",
        }.items()
    }
    text = env.from_string((folder / "report.html.j2").read_text(encoding="utf-8")).render(
        title=TITLE,
        refresh=refresh,
        counts=f"{counted(len(study.settings), 'run')}, {counted(len(study.groups), 'group')}",
        sentences=sentences(study),
        tabs=tabs,
        axes=AXES,
        legend=[(label, colors[label], seeds_of(study, label)) for label in study.labels],
        downloads=dict(downloads(out)),
        summary=summary_table(study),
        reach=f"{REACH * 100:.0f} %",
        profile=shares,
        improvement=improvement_table(study),
        differences=difference_tables(study),
        films=list(films(study)),
        origins=[(run.name, origin(settings)) for run, settings in study.settings.items()],
        data={"tabs": tabs, "profile": shares, "axes": AXES},
        **shown,
    )
    path = out / PAGE_FILE
    path.write_text(text, encoding="utf-8")
    return path


def sentences(study: Study) -> list[str]:
    """Return what a reader has to know of the lines, and why some have no interval."""
    text = "A score is the mean return of an evaluation's episodes. Thin lines are single seeds"
    few = [group for group in study.groups if len(group.curves) < LEAST_SEEDS]
    if len(few) < len(study.groups):
        text += (
            ", thick ones interquartile means over seeds with 95 % stratified bootstrap intervals; with "
            "fewer than four seeds nothing is trimmed"
        )
    lines = [f"{text}."]
    if few:
        names = dict.fromkeys(
            f"{group.label} on {group.env} ({counted(len(group.curves), 'seed')})" for group in few
        )
        lines.append(
            "Below three seeds there is no interval, no performance profile and no P(X > Y): they would "
            f"claim a certainty that nobody has. That is so for {'; '.join(names)}."
        )
    return lines


def seeds_of(study: Study, label: str) -> str:
    """Return how many seeds the groups of a label have."""
    counts = sorted({len(group.curves) for group in study.groups if group.label == label})
    if len(counts) == 1:
        return counted(counts[0], "seed")
    return f"{counts[0]} to {counts[-1]} seeds"


def downloads(out: Path) -> Iterator[tuple[str, str]]:
    """Yield the figures that lie in a folder, as links that a page can carry along."""
    for suffix, media_type in FIGURE_SUFFIXES.items():
        path = out / f"curves.{suffix}"
        if path.is_file() and path.stat().st_size <= MAX_FILM_BYTES:
            yield path.name, data_link(media_type, path.read_bytes())


def films(study: Study) -> Iterator[dict[str, Any]]:
    """Yield videos and pictures that lie in the run folders or in their folders `videos` and `pictures`."""
    for group in study.groups:
        for run in group.runs:
            curve = next(curve for curve in group.curves if curve.run == run)
            at = int(curve.returns.argmax())
            best = (
                f"best evaluation {curve.returns[at]:,.1f} at {curve.along('env_steps')[at]:,.0f} env steps"
            )
            for folder in (run, run / "videos", run / "pictures"):
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    if path.suffix in FILM_SUFFIXES and path.is_file() and not path.is_symlink():
                        yield film(path, f"{run.name}: {path.name}. {group.label} on {group.env}, {best}")


def film(path: Path, caption: str) -> dict[str, Any]:
    """Return one embedded file with its caption; one that is too large has no `source`."""
    media_type = FILM_SUFFIXES[path.suffix]
    video = media_type.startswith("video")
    if path.stat().st_size > MAX_FILM_BYTES:
        caption += f" (larger than {MAX_FILM_BYTES // 1_000_000} MB and left out)"
        return {"caption": caption, "video": False, "source": None, "poster": None}
    source = data_link(media_type, path.read_bytes())
    return {"caption": caption, "video": video, "source": source, "poster": poster(path) if video else None}


def poster(path: Path) -> str | None:
    """Return a picture of a film, shown until it plays; None without imageio, or where it cannot be read."""
    try:
        import imageio.v2 as imageio
        from PIL import Image
    except ImportError:
        return None
    with contextlib.suppress(
        OSError, ValueError, IndexError, RuntimeError
    ):  # no film, whatever its name says
        reader: Any = imageio.get_reader(path)
        with contextlib.closing(reader):
            frame = reader.get_data(int(POSTER_AT * reader.count_frames()))
        picture = Image.fromarray(frame)
        picture.thumbnail((POSTER_PIXELS, POSTER_PIXELS))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=80)
        return data_link("image/jpeg", file.getvalue())
    return None


def data_link(media_type: str, content: bytes) -> str:
    """Return a link that holds what it leads to."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def origin(settings: Any) -> str:
    """Return what one run was made with: command, versions, seed and machine."""
    meta, train = settings["meta"], settings["config"]["train"]
    versions = ", ".join(f"{name} {version}" for name, version in meta.get("versions", {}).items())
    seeds = (
        f"{train['seed']}" if train.get("seeds", 1) == 1 else f"{train['seed']} and {train['seeds'] - 1} more"
    )
    machine = f"{meta.get('device_name', 'unknown machine')}, {meta.get('cpu_count', '?')} cores"
    lines = [
        meta.get("command", "unknown command"),
        f"seed {seeds}; {machine}, {meta.get('threads', '?')} threads; {meta.get('platform', '')}",
        versions,
        f"commit {meta.get('commit', 'unknown')}, started {meta.get('started', 'unknown')}",
    ]
    return "\n".join(lines)
