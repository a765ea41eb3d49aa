"""How fast IQL's updates are, against a plain single-file program and TorchRL's `IQLLoss` in the same run.

All three do the same arithmetic on networks of the same sizes, on random rows of HalfCheetah's sizes; tests
hold their weights equal after several updates from the same start. Ours runs in the authors' order, which
evaluates the value network once more than the two others, and in theirs.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from races import Contender, race, write_csv
from tensordict.nn import InteractionType, TensorDictModule
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import IQLLoss, SoftUpdate
from workload import ACTION, BATCH, OBSERVATION, filled_replay

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.registry import agent_class

WIDTH = 256  # of both hidden layers; all three implementations' default
EXPECTILE, BETA, GAMMA, TAU, RATE, STEPS = 0.7, 3.0, 0.99, 0.005, 3e-4, 1_000_000
MAX_WEIGHT, LOG_STD_RANGE = 100.0, (-20.0, 2.0)  # CORL's
LOG_EVERY = 1_000  # updates between readings of TorchRL's losses; ours are read in the loop


def perceptron(inputs: int, outputs: int, width: int = WIDTH) -> nn.Sequential:
    """Two hidden layers in plain torch."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


class PlainActor(nn.Module):
    """tanh of a perceptron as mean, one learnt log-deviation per action."""

    def __init__(self, observation: int, action: int, width: int = WIDTH) -> None:
        super().__init__()
        self.trunk = perceptron(observation, action, width)
        self.log_std = nn.Parameter(torch.zeros(action))

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation, `[N, A]`."""
        mean = self.trunk(observation).tanh()
        return mean, self.log_std.clamp(*LOG_STD_RANGE).exp().expand_as(mean)


class PlainCritic(nn.Module):
    """One Q-network."""

    def __init__(self, observation: int, action: int, width: int = WIDTH) -> None:
        super().__init__()
        self.trunk = perceptron(observation + action, 1, width)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return `[N, 1]`."""
        return self.trunk(torch.cat((observation, action), -1))


class PlainIQL:
    """IQL as single-file programs write it: an optimiser a network, loops over targets, losses read at once.

    The order is CORL's: every loss reads the networks as they were when the update began.
    """

    def __init__(self, observation: int, action: int, width: int = WIDTH) -> None:
        self.critics = nn.ModuleList([PlainCritic(observation, action, width) for _ in range(2)])
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.value = perceptron(observation, 1, width)
        self.actor = PlainActor(observation, action, width)
        self.critic_optimizer = Adam(self.critics.parameters(), lr=RATE)
        self.value_optimizer = Adam(self.value.parameters(), lr=RATE)
        self.actor_optimizer = Adam(self.actor.parameters(), lr=RATE)
        self.schedule = CosineAnnealingLR(self.actor_optimizer, STEPS)

    def update(
        self, observation: Tensor, action: Tensor, reward: Tensor, following: Tensor, terminated: Tensor
    ) -> dict[str, float]:
        """Step value network, critics and actor on a batch, all with `[N, ...]`; return the losses."""
        losses = {}
        with torch.no_grad():
            next_value = self.value(following).squeeze(-1)
            old_q = torch.minimum(*(net(observation, action).squeeze(-1) for net in self.targets))

        advantage = old_q - self.value(observation).squeeze(-1)
        side = torch.abs(EXPECTILE - (advantage < 0).float())
        value_loss = (side * advantage.pow(2)).mean()
        losses["value"] = value_loss.item()
        self.value_optimizer.zero_grad()
        value_loss.backward()
        self.value_optimizer.step()

        target = reward + GAMMA * (1 - terminated) * next_value
        errors = [F.mse_loss(net(observation, action).squeeze(-1), target) for net in self.critics]
        critic_loss = sum(errors[1:], errors[0]) / 2
        losses["critic"] = critic_loss.item()
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        for old, new in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
            old.data.copy_((1 - TAU) * old.data + TAU * new.data)

        weight = torch.exp(BETA * advantage.detach()).clamp(max=MAX_WEIGHT)
        actor_loss = (-weight * Normal(*self.actor(observation)).log_prob(action).sum(-1)).mean()
        losses["actor"] = actor_loss.item()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        self.schedule.step()
        return losses


def torchrl_loss(actor: PlainActor, critics: list[PlainCritic], value: nn.Module) -> IQLLoss:
    """TorchRL's IQL on the same networks: squared errors, unsquashed actor."""
    policy = ProbabilisticActor(
        TensorDictModule(actor, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
        distribution_kwargs={"tanh_loc": False},
        default_interaction_type=InteractionType.DETERMINISTIC,
    )
    loss = IQLLoss(
        policy,
        [ValueOperator(critic, in_keys=["observation", "action"]) for critic in critics],
        ValueOperator(value, in_keys=["observation"]),
        loss_function="l2",
        expectile=EXPECTILE,
        temperature=BETA,
    )
    loss.make_value_estimator(gamma=GAMMA)
    return loss


class TorchRLIQL:
    """TorchRL's loss, target updater and one Adam, as its example of offline IQL joins them."""

    def __init__(self, observation: int, action: int, width: int = WIDTH) -> None:
        critics = [PlainCritic(observation, action, width) for _ in range(2)]
        actor = PlainActor(observation, action, width)
        self.loss = torchrl_loss(actor, critics, perceptron(observation, 1, width))
        self.updater = SoftUpdate(self.loss, tau=TAU)
        self.optimizer = Adam(self.loss.parameters(), lr=RATE)

    def update(self, batch: object) -> Tensor:
        """Step everything on the sum of the losses; return it."""
        found = self.loss(batch)
        total = found["loss_actor"] + found["loss_qvalue"] + found["loss_value"]
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.updater.step()
        return total.detach()


def plain_contender() -> Contender:
    """Sample rows by numpy from five arrays and update."""
    stored = filled_replay().stored
    following = stored["next"]
    columns = (
        stored["observation"],
        stored["action"],
        following["reward"].squeeze(-1),
        following["observation"],
        following["terminated"].float().squeeze(-1),
    )
    columns = tuple(column.contiguous() for column in columns)
    learner, draws = PlainIQL(OBSERVATION, ACTION), np.random.default_rng(0)

    def work(count: int) -> None:
        for _ in range(count):
            index = torch.from_numpy(draws.integers(len(columns[0]), size=BATCH))
            learner.update(*(column[index] for column in columns))

    return Contender("plain single file", work)


def torchrl_contender() -> Contender:
    """Sample from TorchRL's replay buffer and update."""
    rows = filled_replay().stored.exclude("valid")
    buffer = ReplayBuffer(storage=LazyTensorStorage(len(rows)), batch_size=BATCH)
    buffer.extend(rows)
    learner = TorchRLIQL(OBSERVATION, ACTION)

    def work(count: int) -> None:
        for step in range(count):
            total = learner.update(buffer.sample())
            if step % LOG_EVERY == 0:
                total.item()

    return Contender("torchrl IQLLoss", work)


def our_contender(order: str) -> Contender:
    """Sample from our replay and update; the name says in which order."""
    kind = agent_class("iql")
    spaces = Spaces(observation=OBSERVATION, action=ACTION, half_range=(1.0,) * ACTION)
    config = kind.Config(order=order, hidden=(WIDTH, WIDTH))
    agent, replay = kind(spaces, config, make_generators(0)), filled_replay()

    def work(count: int) -> None:
        for _ in range(count):
            agent.update(replay.sample())

    return Contender(f"iql, order {order}", work)


def main() -> None:
    """Run the race and print, and with --out write, its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="CSV file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    contenders = [plain_contender(), torchrl_contender(), our_contender("official"), our_contender("corl")]
    rows = []
    for row in race(
        "iql updates", "updates/s", contenders, seconds=arguments.seconds, rounds=arguments.rounds
    ):
        rows.append(row)
        print(
            f"{row.contender:24} {row.per_second:10,.1f} {row.unit:12} "
            f"x{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]",
            flush=True,
        )
    if arguments.out:
        write_csv(arguments.out, rows, arguments.threads)


if __name__ == "__main__":
    main()
