"""The report as one HTML page that opens without a network: script, data and videos are in it."""

import base64
import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.errors import ConfigError
from rlsuite.report.study import AXES, Group, Study
from rlsuite.report.tables import (
    PALETTE,
    SUMMARY_COLUMNS,
    counted,
    differences,
    improvements,
    profiles,
    summaries,
)

FILM_SUFFIXES = {".mp4": "video/mp4", ".png": "image/png", ".svg": "image/svg+xml"}
MAX_FILM_BYTES = 20_000_000  # of one file; larger ones are named, not embedded
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child, td.words { text-align: left }
pre { background: #f6f6f6; padding: .6rem; overflow-x: auto }
video, img { max-width: 22rem; margin: .3rem }
"""


def write_page(study: Study, out: Path) -> Path:
    """Write `report.html` into the folder `out` and return its path.

    Raises:
        ConfigError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ConfigError('a report needs plotly: pip install "rlsuite[report]"') from error
    colors = dict(zip(study.labels, itertools.cycle(PALETTE), strict=False))
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>rlsuite report</title>",
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body><h1>rlsuite report</h1>",
        f"<p>{counted(len(study.settings), 'run')}, {counted(len(study.groups), 'group')}. Lines are "
        "interquartile means over seeds with 95 % stratified bootstrap intervals, thin lines single seeds; "
        "with fewer than four seeds nothing is trimmed. A score is the mean return of an evaluation's "
        "episodes.</p>",
        *(curves_figure(study.on(env), env, colors) for env in study.envs),
        "<h2>Final scores</h2>",
        table(SUMMARY_COLUMNS, ([row[key] for key in SUMMARY_COLUMNS] for row in summaries(study))),
        "<p>area: mean return over the whole curve. to reach: where the interquartile mean first makes 90 % "
        "of the way from the environment's lowest return to its best final score.</p>",
        "<h2>Performance profile</h2>",
        profile_figure(study, colors),
        *improvement_part(study),
        "<h2>How the runs differ</h2>",
        difference_table(study),
        *pictures(study),
        "<h2>Where the numbers come from</h2>",
        *(origin(run, settings) for run, settings in study.settings.items()),
        "</body></html>",
    ]
    path = out / "report.html"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def curves_figure(groups: Sequence[Group], env: str, colors: dict[str, str]) -> str:
    """Return the curves of one environment over all axes, with buttons that choose axis and scale."""
    import plotly.graph_objects as go

    figure, owners = go.Figure(), []
    for axis in AXES:
        for group in groups:
            color = colors[group.label]
            grid, iqm = group.band(axis)
            shown = {"legendgroup": group.label, "visible": axis == "env_steps"}
            figure.add_scatter(
                x=np.concatenate([grid, grid[::-1]]),
                y=np.concatenate([iqm.low, iqm.high[::-1]]),
                fill="toself",
                fillcolor=color,
                opacity=0.15,
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                **shown,
            )
            for curve in group.curves:
                figure.add_scatter(
                    x=curve.along(axis),
                    y=curve.returns,
                    line={"color": color, "width": 0.7},
                    opacity=0.45,
                    name=f"{group.label}, seed {curve.seed}",
                    showlegend=False,
                    **shown,
                )
            seeds = "1 seed" if len(group.curves) == 1 else f"{len(group.curves)} seeds"
            figure.add_scatter(
                x=grid,
                y=iqm.value,
                line={"color": color, "width": 2.5},
                name=f"{group.label}, {seeds}",
                **shown,
            )
            owners += [axis] * (2 + len(group.curves))
    axes = [
        {
            "label": title,
            "method": "update",
            "args": [{"visible": [owner == axis for owner in owners]}, {"xaxis.title.text": title}],
        }
        for axis, title in AXES.items()
    ]
    figure.update_layout(
        title=escape(env),
        xaxis_title=AXES["env_steps"],
        yaxis_title="evaluation return",
        template="plotly_white",
        height=460,
        updatemenus=[
            buttons(axes, 0.0),
            buttons(scales("xaxis"), 0.5, "x: "),
            buttons(scales("yaxis"), 0.75, "y: "),
        ],
    )
    return embed(figure)


def buttons(entries: list[dict[str, Any]], x: float, prefix: str = "") -> dict[str, Any]:
    """Return one row of buttons above a figure."""
    named = [entry | {"label": prefix + entry["label"]} for entry in entries]
    place = {"x": x, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return {"type": "buttons", "direction": "right", "buttons": named, **place}


def scales(axis: str) -> list[dict[str, Any]]:
    """Return the buttons that choose a linear or a logarithmic axis."""
    return [
        {"label": scale, "method": "relayout", "args": [{f"{axis}.type": scale}]}
        for scale in ("linear", "log")
    ]


def profile_figure(study: Study, colors: dict[str, str]) -> str:
    """Return the share of runs above each score, by label."""
    import plotly.graph_objects as go

    taus, shares = profiles(study)
    figure = go.Figure()
    for label, share in shares.items():
        figure.add_scatter(
            x=np.concatenate([taus, taus[::-1]]),
            y=np.concatenate([share.low, share.high[::-1]]),
            fill="toself",
            fillcolor=colors[label],
            opacity=0.15,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=label,
        )
        line = {"color": colors[label], "shape": "hv"}
        figure.add_scatter(x=taus, y=share.value, line=line, name=label, legendgroup=label)
    several = len(study.envs) > 1
    title = "final score, 0 the lowest and 1 the highest of each environment" if several else "final return"
    figure.update_layout(
        xaxis_title=title, yaxis_title="share of runs above", template="plotly_white", height=360
    )
    return embed(figure)


def improvement_part(study: Study) -> list[str]:
    """Return the table of chances of improvement, where there are two labels to compare."""
    rows = improvements(study)
    if not rows:
        return []
    heads = ("X", "Y", "environments", "P(X > Y)", "low", "high")
    return ["<h2>Probability of improvement</h2>", table(heads, (list(row.values()) for row in rows))]


def difference_table(study: Study) -> str:
    """Return the fields in which the runs differ."""
    fields, rows = differences(study)
    return table(("run", *fields), rows)


def pictures(study: Study) -> list[str]:
    """Return videos and pictures that lie in the run folders or in their folder `videos`."""
    films = []
    for run in study.settings:
        for folder in (run, run / "videos", run / "pictures"):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix in FILM_SUFFIXES and path.is_file() and not path.is_symlink():
                    films.append(film(run, path))
    return ["<h2>Pictures</h2>", *films] if films else []


def film(run: Path, path: Path) -> str:
    """Return one embedded file with its name."""
    caption = escape(f"{run.name}: {path.name}")
    if path.stat().st_size > MAX_FILM_BYTES:
        return f"<p>{caption} is larger than {MAX_FILM_BYTES // 1_000_000} MB and was left out</p>"
    media_type = FILM_SUFFIXES[path.suffix]
    source = f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
    inside = (
        f"<video controls loop src='{source}'></video>"
        if media_type.startswith("video")
        else f"<img src='{source}'>"
    )
    return f"<figure>{inside}<figcaption>{caption}</figcaption></figure>"


def origin(run: Path, settings: Any) -> str:
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
    return f"<details><summary>{escape(run.name)}</summary><pre>{escape(chr(10).join(lines))}</pre></details>"


def table(heads: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table; everything in it is escaped."""
    first = "".join(f"<th>{escape(str(head))}</th>" for head in heads)
    body = "".join("<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{body}</table>"


def cell(value: Any) -> str:
    """Return one cell: numbers rounded, words to the left."""
    if isinstance(value, float):
        text = "" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.3g}"
        return f"<td>{text}</td>"
    if isinstance(value, int):
        return f"<td>{value:,}</td>"
    return f"<td class='words'>{escape(str(value))}</td>"


def embed(figure: Any) -> str:
    """Return a figure as part of the page, whose script is there already."""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}))
