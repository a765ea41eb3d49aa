"""Importances: how much each hyper-parameter of a sweep mattered."""

from pathlib import Path
from typing import Any

from rlsuite.report import STYLE
from rlsuite.runs.files import staged

LEAST_TRIALS = 5  # complete ones: a sampler draws its first ones blindly, and fewer show chance alone


def plot_importance(study: Any, path: Path) -> None:
    """Draw how much each flag mattered (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255)."""
    import optuna
    from matplotlib.figure import Figure
    from matplotlib.style import context

    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    with context(STYLE), staged(path) as stage:
        figure = Figure(figsize=(6, 0.5 * len(shares) + 1))
        axes = figure.subplots()
        axes.barh(list(shares)[::-1], list(shares.values())[::-1])
        axes.set(xlabel="importance")
        figure.savefig(stage, metadata={"Software": None})
