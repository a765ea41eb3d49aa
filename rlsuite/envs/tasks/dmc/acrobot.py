"""Acrobot (swingup, swingup_sparse): a double pendulum with a motor at the elbow swings up and balances."""

from functools import partial

from rlsuite.envs.arrays import Array, join, norm
from rlsuite.envs.tasks.base import Fields, Task
from rlsuite.envs.tasks.dmc.base import XZ, ZZ, suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

UPPER_ARM, LOWER_ARM = 1, 2  # bodies
TARGET, TIP = 0, 1  # sites
TARGET_RADIUS = 0.2  # metres
MARGINS = {"swingup": 1.0, "swingup_sparse": 0.0}  # metres around the target that are worth something


def observation(fields: Fields) -> Array:
    """Sines, then cosines of both arms' angles to the vertical, velocities: `[B, 6]`."""
    arms = fields["xmat"][:, UPPER_ARM : LOWER_ARM + 1]
    return join(arms[..., XZ], arms[..., ZZ], fields["qvel"])


def reward(margin: float, fields: Fields, action: Array) -> Array:
    """1 where the tip is in the target, falling with the distance unless the margin is 0, `[B]`."""
    sites = fields["site_xpos"]
    distance = norm(sites[:, TARGET] - sites[:, TIP])
    return tolerance(distance, (0, TARGET_RADIUS), margin=margin)


def _task(name: str, margin: float) -> Task:
    return suite_task(
        "acrobot",
        name,
        substeps=1,
        dt=0.01,
        fields=("xmat", "site_xpos"),
        places={
            "body upper_arm": UPPER_ARM,
            "body lower_arm": LOWER_ARM,
            "site target": TARGET,
            "site tip": TIP,
        },
        observation=observation,
        reward=partial(reward, margin),
    )


TASKS = {name: _task(name, margin) for name, margin in MARGINS.items()}
