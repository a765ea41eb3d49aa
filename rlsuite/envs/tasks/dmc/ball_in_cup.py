"""Ball in cup (catch): a cup that moves in the plane catches a ball on a string."""

from rlsuite.envs.arrays import Array, join, number
from rlsuite.envs.tasks.base import Fields
from rlsuite.envs.tasks.dmc.base import suite_task

BALL = 2  # body
TARGET = 1  # site
SLACK = 0.05 - 0.025  # metres: half the target's width and height less the ball's radius


def observation(fields: Fields) -> Array:
    """Positions and velocities: `[B, 8]`."""
    return join(fields["qpos"], fields["qvel"])


def reward(fields: Fields, action: Array) -> Array:
    """1 where the whole ball is in the cup, `[B]`."""
    way = abs(fields["site_xpos"][:, TARGET] - fields["xpos"][:, BALL])
    inside = (way[:, 0] < SLACK) & (way[:, 2] < SLACK)
    return number(inside, way)


TASKS = {
    "catch": suite_task(
        "ball_in_cup",
        "catch",
        substeps=10,
        dt=0.02,
        fields=("xpos", "site_xpos"),
        places={"body ball": BALL, "site target": TARGET},
        observation=observation,
        reward=reward,
    )
}
