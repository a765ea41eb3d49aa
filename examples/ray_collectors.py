"""Actors on other machines: our environment and policy in TorchRL's Ray collectors, the learner here.

RAY_ADDRESS=host:port python examples/ray_collectors.py     # without the address: a local cluster
"""

from functools import partial

import ray
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.collectors.distributed import RayCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from rlsuite.agents.base import make_generators
from rlsuite.agents.sac import SAC, SACConfig
from rlsuite.envs.make import make_env
from rlsuite.training.assembly import spaces_of

TASK, WORLDS = "gym:Pendulum-v1", 4  # of each actor
KEYS = ("observation", "action", *(("next", key) for key in ("observation", "reward", "terminated")))


def new_agent(seed: int) -> SAC:
    return SAC(spaces_of(make_env(TASK, 1)), SACConfig(), make_generators(seed))


def new_policy(seed: int) -> TensorDictModule:
    return new_agent(seed).policy  # every actor has exploration noise of its own


def main(frames: int = 20_000, actors: int = 2, batch: int = 400) -> tuple[SAC, TensorDictReplayBuffer]:
    ray.init(include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    agent = new_agent(seed=0)
    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(frames), batch_size=256)
    collector = RayCollector(
        [partial(make_env, TASK, WORLDS, seed=WORLDS * actor) for actor in range(actors)],
        policy_factory=[partial(new_policy, seed=1 + actor) for actor in range(actors)],
        collector_class=Collector,
        frames_per_batch=batch,
        total_frames=frames,
        num_collectors=actors,
        remote_configs={"num_cpus": 1},
    )
    collector.update_policy_weights_(agent.policy)
    for rows in collector:
        replay.extend(rows.select(*KEYS).reshape(-1))
        for _ in range(rows.numel()):
            metrics = agent.update(replay.sample())
        collector.update_policy_weights_(agent.policy)
        print(
            f"{len(replay):,} rows, reward {rows['next', 'reward'].mean():.2f}, alpha {metrics['alpha']:.3f}"
        )
    collector.shutdown(shutdown_ray=False)
    return agent, replay


if __name__ == "__main__":
    main()
