"""A data set of one's own: a function that returns where it lies, made at its first use; a template.

A set that lies on a server needs no function: name a `rlsuite.offline.names.KnownSet` with address, size and
SHA-256 in the entry point instead, and it is fetched, resumed and checked as ours are.
"""

from pathlib import Path

from rlsuite.envs.make import make_env
from rlsuite.offline.locate import d4rl_root
from rlsuite.offline.make import rollout_source, save
from rlsuite.offline.names import Recipe

STEPS = 2_000
SEED = 0
RECIPE = Recipe(name="my/swing", behaviour="random", env="gym:Pendulum-v1", summary="uniform random actions")
FILE = "my-swing-v0.hdf5"  # what `save` calls it, in D4RL's layout


def swing() -> Path:
    """Return the file; it is complete or not there, whatever interrupts the making."""
    path = d4rl_root() / FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        env = make_env(RECIPE.env, 8, seed=SEED)
        source = rollout_source(env, None, STEPS, seed=SEED, policy={"name": "uniform"})
        save(source, RECIPE, path.parent, layout="d4rl", command="my_swing.swing()", seed=SEED)
        env.close()
    return path
