"""Importances: how much each hyper-parameter of a sweep mattered."""

from pathlib import Path
from typing import Any

from rlsuite.runs.files import staged

LEAST_TRIALS = 5  # complete ones: a sampler draws its first ones blindly, and fewer show chance alone


def plot_importance(study: Any, path: Path) -> None:
    """Draw how much each flag mattered (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255)."""
    import matplotlib
    import optuna

    matplotlib.use("Agg")
    from matplotlib import pyplot

    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    figure, axes = pyplot.subplots(figsize=(6, 0.5 * len(shares) + 1), dpi=150)
    axes.barh(list(shares)[::-1], list(shares.values())[::-1], color="#0072b2")
    axes.set(xlabel="importance")
    figure.tight_layout()
    with staged(path) as stage:
        figure.savefig(stage, metadata={"Software": None})
    pyplot.close(figure)
