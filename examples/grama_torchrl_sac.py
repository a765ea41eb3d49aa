"""Neuron resets in a TorchRL loop with its own SACLoss, whose twin critics are stacked parameters.

python examples/grama_torchrl_sac.py
"""

import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, StepCounter, TransformedEnv
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.modules.models import MLP
from torchrl.objectives import SACLoss, SoftUpdate

from rlsuite.plugins.grama import GraMa


def main(frames: int = 10_000, tau: float = 0.0, period: int = 1000) -> GraMa:
    torch.manual_seed(0)
    env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter())
    trunk = nn.Sequential(MLP(in_features=3, out_features=2, num_cells=[128, 128]), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(trunk, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -2.0, "high": 2.0},
        return_log_prob=True,
    )
    net = MLP(in_features=4, out_features=1, num_cells=[128, 128])
    loss = SACLoss(actor, ValueOperator(net, in_keys=["observation", "action"]), action_spec=env.action_spec)
    loss.make_value_estimator(gamma=0.99)
    targets = SoftUpdate(loss, tau=0.005)
    optimizer = torch.optim.Adam(loss.parameters(), 3e-4)

    # The trained critics are a stack [2, out, in] under the network's names.
    twins = loss.qvalue_network_params.get("module").flatten_keys(".")
    reset = GraMa(tau=tau, period=period).attach(
        net, optimizer, parameters=dict(twins.items()), name="critic."
    )
    reset.attach(trunk, optimizer, name="actor.")

    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(frames), batch_size=128)
    for rows in Collector(env, actor, frames_per_batch=100, total_frames=frames, init_random_frames=200):
        replay.extend(rows)
        for _ in range(100):
            losses = loss(replay.sample())
            optimizer.zero_grad()
            sum(losses[key] for key in ("loss_actor", "loss_qvalue", "loss_alpha")).backward()
            optimizer.step()
            reset.step()
            targets.step()
    return reset


if __name__ == "__main__":
    main()
