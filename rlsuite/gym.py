"""Our environments under Gymnasium's names: importing this module registers them.

`gymnasium.make_vec("rlsuite/HalfCheetah-v5", num_envs=64)`, `gymnasium.make("rlsuite/dmc-cheetah-run")`.
Neither torch nor MuJoCo is imported before one of them is made. `import rlsuite` does the same where
Gymnasium is there already; without any import, this module stands before the id:
`rlsuite.gym:rlsuite/Hopper-v5`.
"""

import gymnasium

from rlsuite.envs.names import suite_tasks_by_name, tasks_by_name, toys_by_name

NAMESPACE = "rlsuite"
SUITE_STEPS = 1_000  # env steps of an episode of dm_control's
SINGLE = "rlsuite.envs.gymnasium_view:SingleView"
TOY = "rlsuite.envs.gymnasium_view:ToyView"
VECTOR = "rlsuite.envs.gymnasium_view:VectorView"


def register() -> None:
    """Register every environment of ours that Gymnasium does not know yet."""
    for name, task in tasks_by_name().items():
        for version in task.versions:
            original = gymnasium.registry[f"{name}-{version}"]
            _register(original.id, original.id, original.max_episode_steps)
    for name in suite_tasks_by_name():
        _register(f"dmc-{name}", f"dmc:{name}", SUITE_STEPS)
    for name in toys_by_name():
        _register(name, name, None, TOY)


def _register(name: str, env_id: str, max_episode_steps: int | None, single: str = SINGLE) -> None:
    if f"{NAMESPACE}/{name}" not in gymnasium.registry:
        gymnasium.register(
            id=f"{NAMESPACE}/{name}",
            entry_point=single,
            vector_entry_point=VECTOR,
            max_episode_steps=max_episode_steps,
            kwargs={"env_id": env_id},
        )


register()
