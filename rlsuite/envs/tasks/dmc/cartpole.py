"""Cartpole (balance, balance_sparse, swingup, swingup_sparse): a cart swings a pole up and balances it."""

from rlsuite.envs.arrays import Array, join
from rlsuite.envs.tasks.base import Fields, Task
from rlsuite.envs.tasks.dmc.base import XZ, ZZ, suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

POLE = 2  # body
CART_RANGE = (-0.25, 0.25)  # metres
ANGLE_COSINE_RANGE = (0.995, 1.0)
MARGIN_POSITION = 2.0  # metres
MARGIN_VELOCITY = 5.0  # rad/s


def observation(fields: Fields) -> Array:
    """Position of the cart, cosine and sine of the pole's angle, velocities: `[B, 5]`."""
    pole = fields["xmat"][:, POLE]
    return join(fields["qpos"][:, :1], pole[:, ZZ, None], pole[:, XZ, None], fields["qvel"])


def smooth(fields: Fields, action: Array) -> Array:
    """Upright, calm, in the middle, with little force: a product of the four, `[B]`."""
    upright = (fields["xmat"][:, POLE, ZZ] + 1) / 2
    centered = (1 + tolerance(fields["qpos"][:, 0], margin=MARGIN_POSITION)) / 2
    effort = tolerance(action[:, 0], margin=1, value_at_margin=0, sigmoid="quadratic")
    calm = (1 + tolerance(fields["qvel"][:, 1], margin=MARGIN_VELOCITY)) / 2
    return upright * ((4 + effort) / 5) * calm * centered


def sparse(fields: Fields, action: Array) -> Array:
    """1 where the pole is upright and the cart in the middle, `[B]`."""
    in_middle = tolerance(fields["qpos"][:, 0], CART_RANGE)
    return in_middle * tolerance(fields["xmat"][:, POLE, ZZ], ANGLE_COSINE_RANGE)


def _task(name: str) -> Task:
    return suite_task(
        "cartpole",
        name,
        substeps=1,
        dt=0.01,
        fields=("xmat",),
        places={"body pole_1": POLE},
        observation=observation,
        reward=sparse if name.endswith("_sparse") else smooth,
    )


TASKS = {name: _task(name) for name in ("balance", "balance_sparse", "swingup", "swingup_sparse")}
