"""The model card of a run: what it is, its curve, scores, seeds, versions, and the commands that use it."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlsuite.errors import ConfigError

PICTURE_INCHES = (6.4, 3.6)


def curves_by_seed(records: Sequence[Mapping[str, Any]], seed: int) -> dict[int, list[Mapping[str, Any]]]:
    """Return the evaluations of every seed, in order, from the lines of `metrics.jsonl`."""
    curves: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        if record.get("eval/return_mean") is not None:
            curves[int(record.get("seed", seed))].append(record)
    return dict(curves)


def draw(curves: Mapping[int, Sequence[Mapping[str, Any]]], title: str, path: Path) -> None:
    """Draw one curve per seed, with the std over evaluation episodes as a band.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError(f'the card\'s picture needs {error.name}: pip install "rlsuite[hub]"') from error
    figure = Figure(figsize=PICTURE_INCHES, layout="constrained")
    axes = figure.subplots()
    for seed, records in curves.items():
        steps = [record["step"] for record in records]
        means = [record["eval/return_mean"] for record in records]
        stds = [record.get("eval/return_std") or 0.0 for record in records]
        (line,) = axes.plot(steps, means, marker=".", label=f"seed {seed}")
        low, high = zip(*((m - s, m + s) for m, s in zip(means, stds, strict=True)), strict=True)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(title=title, xlabel="env steps", ylabel="evaluation return")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def card(
    *,
    repo: str,
    config: Mapping[str, Any],
    config_text: str,
    meta: Mapping[str, Any],
    curves: Mapping[int, Sequence[Mapping[str, Any]]],
    step: int,
    resumable: bool,
    license_name: str | None,
) -> str:
    """Return the text of a model card.

    Args:
        repo: USER/NAME.
        config: what `config.toml` holds.
        config_text: its text.
        meta: what `meta.json` holds: versions, machine, command.
        curves: the evaluations of every seed; where there are any, `curve.png` shows them.
        step: env steps of the checkpoint that is uploaded.
        resumable: all of the checkpoint is.
        license_name: an identifier of the Hub, or None: then the card names no licence.

    Raises:
        ConfigError: huggingface_hub, which writes the metadata, is not installed.
    """
    try:
        from huggingface_hub import ModelCard
    except ModuleNotFoundError as error:
        raise ConfigError(f'the model card needs {error.name}: pip install "rlsuite[hub]"') from error
    agent, env = str(config["agent_name"]), str(config["train"]["env"])
    train, name = config["train"], repo.rpartition("/")[2]
    rows = [_row(seed, records) for seed, records in curves.items()]
    scores = [records[-1]["eval/return_mean"] for records in curves.values()]
    parts = [
        f"# {agent} on {env}",
        f"A policy trained with rlsuite: {step:,} env steps, seeds "
        f"{', '.join(map(str, curves)) or train.get('seed', 0)}.",
    ]
    if rows:
        parts.append("![Evaluation return over env steps, one curve per seed](curve.png)")
        head = "| seed | env steps | last evaluation | best evaluation |\n| --- | --- | --- | --- |"
        parts.append("\n".join([head, *rows]))
        episodes = train.get("eval_episodes")
        parts.append(
            f"Mean +- deviation over {episodes or 'the'} deterministic episodes of one evaluation; the best "
            "one was chosen by the same episodes, and flatters."
        )
    parts += [
        "## Use",
        _fence(
            "",
            f"rlsuite pull {repo} --out runs/{name}\nrlsuite eval runs/{name}\n"
            f"rlsuite export runs/{name} --format onnx",
        ),
        _fence(
            "python",
            f'import rlsuite\n\npolicy = rlsuite.load("runs/{name}")\n'
            "action = policy.act(observation)  # numpy, [O] or [N, O]",
        ),
        "The whole checkpoint is here: `rlsuite resume` goes on with it."
        if resumable
        else "The policy is here, without optimisers and replay: it can be played and exported, not resumed.",
        "## Train it again",
        _fence("", str(meta.get("command", "not known"))),
        "## Made with",
        _fence("json", json.dumps({key: meta[key] for key in sorted(meta) if key != "command"}, indent=2)),
        "## Configuration",
        _fence("toml", config_text.strip()),
    ]
    front, body = _metadata(agent, env, scores, license_name), "\n\n".join(parts)
    return str(ModelCard(f"---\n{front}\n---\n\n{body}\n"))


def _metadata(agent: str, env: str, scores: Sequence[float], license_name: str | None) -> str:
    """Return the card's metadata as YAML, by which the Hub lists and filters."""
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    if scores:
        mean = sum(scores) / len(scores)
        std = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
        results = [
            EvalResult(
                task_type="reinforcement-learning",
                task_name="reinforcement-learning",
                dataset_type=env,
                dataset_name=env,
                metric_type="mean_reward",
                metric_name="mean_reward",
                metric_value=f"{mean:.2f} +/- {std:.2f}",
            )
        ]
    return ModelCardData(
        library_name="rlsuite",
        license=license_name,
        tags=["reinforcement-learning", "deep-reinforcement-learning", agent, env],
        model_name=agent if results else None,
        eval_results=results or None,
    ).to_yaml()


def _row(seed: int, records: Sequence[Mapping[str, Any]]) -> str:
    best = max(records, key=lambda record: record["eval/return_mean"])
    return (
        f"| {seed} | {records[-1]['step']:,} | {_score(records[-1])} | {_score(best)} at {best['step']:,} |"
    )


def _score(record: Mapping[str, Any]) -> str:
    return f"{record['eval/return_mean']:,.1f} +- {record.get('eval/return_std') or 0.0:,.1f}"


def _fence(language: str, text: str) -> str:
    """Return a block of code whose fence is longer than any inside it."""
    marks = "```"
    while marks in text:
        marks += "`"
    return f"{marks}{language}\n{text}\n{marks}"
