"""A test that may be looked at after every seed: the interval of a mean that holds at all times together.

The mixture t test: under the null the differences are normal with mean 0 and any std, under the alternative
their mean over their std is itself normal, N(0, 1 / PRIOR). With S the sum of n differences and V that of
their squares the ratio of both likelihoods, scale left out, is

    E_n = sqrt(c / (n + c)) (1 - S^2 / ((n + c) V))^(-n / 2),    c = PRIOR,

a nonnegative martingale that begins at 1 (Lai 1976, Annals of Statistics 4; with this mixture Wang and Ramdas
2023, arXiv 2310.03722). It reaches 1 / alpha at any time at all with a chance of at most alpha (Ville's
inequality), so one may stop whenever one likes. The interval has every mean whose E_n is below 1 / alpha.
"""

import numpy as np

from rlsuite.report.statistics import LEVEL, Estimate, around

PRIOR = 0.25
"""c: the effect in stds of a difference is thought to be of the order of 1 / sqrt(c) = 2, as one that a few
seeds can show is. Our choice; the level holds for any."""


def e_value(differences: np.ndarray, prior: float = PRIOR) -> float:
    """Return E_n of `[n]` differences: how much better a mean other than zero explains them."""
    count = len(differences)
    squares = float(np.square(differences).sum())
    if not squares:
        return 1.0
    share = float(differences.sum()) ** 2 / ((count + prior) * squares)
    return float(np.sqrt(prior / (count + prior)) * (1 - share) ** (-count / 2))


def running_interval(differences: np.ndarray, level: float = LEVEL, prior: float = PRIOR) -> Estimate:
    """Return the mean of `[n]` differences with an interval that holds at every n together.

    Infinite as long as there are too few differences to exclude anything.
    """
    count, mean = len(differences), float(differences.mean())
    ratio = 1 - ((1 - level) ** 2 * prior / (count + prior)) ** (1 / count)  # what S^2 / ((n + c) V) may be
    room = count - ratio * (count + prior)
    if room <= 0:
        return around(mean, np.inf)
    return around(mean, float(differences.std() * np.sqrt(ratio * (count + prior) / room)))


def decided(interval: Estimate) -> bool:
    """Return whether an interval has left zero."""
    return bool(interval.low > 0 or interval.high < 0)
