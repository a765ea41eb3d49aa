"""Interventions: between policy and env step somebody else may take over, an expert policy or a person.

That is learning from interventions (RLIF, Luo et al. 2024, arXiv 2311.12996): the reward is -1 for the
transition that led to the first step of an intervention, and 0 for all others. Every transition is stored,
those inside an intervention and those at an episode's end, too, which the released code leaves out.

Legend: B envs (of all seeds), S seeds, O observation, A action.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import Agent
from rlsuite.blocks.noise import Source, generators_of, uniform
from rlsuite.envs.base import VectorEnv
from rlsuite.errors import ConfigError
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.tensorfile import check_like
from rlsuite.targets import load_target

SURE = 0.95  # chance of an intervention where the rule asks for one, and 1 less that elsewhere; authors' code


class Intervention:
    """Somebody who may take over; derive from it and define `take`.

    Args:
        steps: env steps that an intervention lasts, at least; while it is asked for it goes on.
        reward: "intervention", -1 where one begins and 0 elsewhere, or "task", the environment's own.
        hand_back: after those steps the policy acts for one, and only then may another intervention begin.
            One that went on for ever would cost nothing but its first step, and agents learn to have it (our
            choice; docs/offline_to_online.md has what happened without).
    """

    def __init__(
        self,
        *,
        steps: int = 1,
        reward: Literal["intervention", "task"] = "intervention",
        hand_back: bool = False,
    ) -> None:
        if type(steps) is not int or steps < 1:
            raise ConfigError(f"intervention: steps = {steps!r}: must be a whole number of at least 1")
        if reward not in ("intervention", "task"):
            raise ConfigError(f'intervention: reward = {reward!r}: must be "intervention" or "task"')
        if type(hand_back) is not bool:
            raise ConfigError(f"intervention: hand_back = {hand_back!r}: must be true or false")
        self.steps, self.reward, self.hand_back = steps, reward, hand_back

    def begin(self, env: VectorEnv, device: torch.device) -> None:
        """Learn of the envs, before the first step; whoever has nothing to prepare leaves it out."""

    def take(self, observation: Tensor, action: Tensor, luck: Tensor) -> tuple[Tensor, Tensor]:
        """Return which envs are to be taken over, `[B]` bool, and the actions there, `[B, A]` in [-1, 1].

        Args:
            observation: `[B, O]`.
            action: of the policy, `[B, A]`.
            luck: U[0, 1) of the run's own stream, `[B]`: the only chance that a resumed run repeats.
        """
        raise NotImplementedError

    def fingerprint(self) -> float:
        """Return a number that tells this one from another: a run goes on with who it began with."""
        return 0.0


def worse_by(q_policy: Tensor, q_expert: Tensor, delta: float) -> Tensor:
    """Return where an action is worth less than the expert's by more than `delta`, `[B]` bool.

    A difference and not the released factor, Q(s, a) < 0.97 Q(s, a_expert): of negative values that holds for
    the expert's own action.
    """
    return q_policy < q_expert - delta


class Expert(Intervention):
    """A trained policy that takes over, by a rule of values or by chance.

    Args:
        run: run folder of the expert.
        checkpoint: "best", "last" or the env steps of one.
        seed_index: which agent of a run with several seeds.
        rule: "value", where the expert's critics see the policy's action behind its own by `delta`, with the
            chance `sure`, and with 1 - sure elsewhere; "random", everywhere with the chance `probability`.
        delta: of the rule of values, in units of the expert's values.
        sure: chance that the rule of values is followed.
        probability: of the rule of chance.
        steps, reward, hand_back: as in `Intervention`; by default an intervention has the authors' 4 steps,
            and begins at most every fifth.

    Raises:
        ConfigError: no such run or rule, a chance outside [0, 1], or an expert that cannot value actions.
    """

    def __init__(  # noqa: PLR0913 (what a flag says)
        self,
        run: str,
        *,
        checkpoint: str = "best",
        seed_index: int = 0,
        rule: Literal["value", "random"] = "value",
        delta: float = 1.0,
        sure: float = SURE,
        probability: float = 0.5,
        steps: int = 4,
        reward: Literal["intervention", "task"] = "intervention",
        hand_back: bool = True,
    ) -> None:
        super().__init__(steps=steps, reward=reward, hand_back=hand_back)
        if rule not in ("value", "random"):
            raise ConfigError(f'intervention: rule = {rule!r}: must be "value" or "random"')
        for name, chance in (("sure", sure), ("probability", probability)):
            if not 0 <= chance <= 1:
                raise ConfigError(f"intervention: {name} = {chance}: must be in [0, 1]")
        RunFolder.open(Path(run))
        self.run, self.checkpoint, self.seed_index = Path(run), str(checkpoint), seed_index
        self.rule, self.delta, self.sure, self.probability = rule, delta, sure, probability

    def begin(self, env: VectorEnv, device: torch.device) -> None:
        """Load the expert.

        Raises:
            ConfigError: it cannot value actions, and the rule asks for that.
            DataError: it was made for other observations or actions.
        """
        from rlsuite.training.rng import SeedStreams  # here: they stand above
        from rlsuite.training.savedrun import load_run

        saved = load_run(self.run, self.checkpoint)
        self.agent: Agent = saved.agent(env, SeedStreams([saved.config.train.seed]), self.seed_index)
        self.agent.to(device)
        if self.rule == "value" and not hasattr(self.agent, "action_value"):
            raise ConfigError(
                f"intervention: {saved.config.agent_name} cannot value given actions: take an expert of sac, "
                'stac or cql, or rule = "random"'
            )

    @torch.no_grad()
    def take(self, observation: Tensor, action: Tensor, luck: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the rule asks for the expert, and its actions; see `Intervention.take`."""
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            act: Any = self.agent.policy.module
            its = act(observation)
        if self.rule == "random":
            return luck < self.probability, its
        bad = worse_by(self.value(observation, action), self.value(observation, its), self.delta)
        return luck < torch.where(bad, self.sure, 1 - self.sure), its

    def value(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return what the expert's critics give actions, `[B]`, without an entropy bonus."""
        critic: Any = self.agent
        valued = critic.action_value(observation, action)
        return valued.value - valued.bonus

    def fingerprint(self) -> float:
        """Return the sum of the expert's weights."""
        return float(sum(p.detach().double().sum() for p in self.agent.parameters()))


class TakeOver:
    """An intervention as a run carries it out: who acts, for how long yet, and what is rewarded.

    What is done at an observation is decided as soon as it is there, so that the transition that led to it
    can be stored with its reward. The policy's action is so one update older than without interventions.

    Args:
        who: may take over.
        env: the run's envs.
        device: of the observations.
        source: random streams, one per seed.
    """

    def __init__(self, who: Intervention, env: VectorEnv, device: torch.device, source: Source) -> None:
        who.begin(env, device)
        self.who, self.source, self.seeds = who, source, max(1, len(generators_of(source)))
        self.action = torch.zeros(env.action_spec.shape, device=device)  # decided for the next step, [B, A]
        self.decided = torch.zeros(1, dtype=torch.bool)  # False before the first step
        self.on = torch.zeros(env.num_envs, dtype=torch.bool, device=device)  # somebody else acts
        self.left = torch.zeros(env.num_envs, dtype=torch.int64, device=device)  # steps that are still theirs
        # Since the last line, of every seed: env steps, those taken over, interventions begun.
        self.counts = torch.zeros(self.seeds, 3, dtype=torch.float64, device=device)

    @torch.no_grad()
    def decide(self, observation: Tensor, action: Tensor, done: Tensor) -> Tensor:
        """Say what is done at observations; return where an intervention begins, `[B]` bool.

        Args:
            observation: `[B, O]`, what comes next.
            action: the policy's there, `[B, A]`.
            done: an episode ended before it, `[B]` bool; an intervention ends with its episode.
        """
        self.on &= ~done
        self.left.masked_fill_(done, 0)
        like = torch.empty(self.seeds, len(done) // self.seeds, device=done.device)
        luck = uniform(like if self.seeds > 1 else like[0], self.source).flatten()
        wanted, its = self.who.take(observation, action, luck)
        if self.who.hand_back:
            wanted = wanted & ~(self.on & (self.left == 0))
        self.left = torch.where((self.left == 0) & wanted, self.who.steps, self.left)
        taken = self.left > 0
        begins = taken & ~self.on
        self.left = (self.left - 1).clamp(min=0)
        self.on = taken
        self.action = torch.where(taken.unsqueeze(-1), its.to(action.dtype), action)
        self.decided.fill_(True)
        sums = torch.stack((torch.ones_like(taken), taken, begins), -1).double()
        self.counts += sums.unflatten(0, (self.seeds, -1)).sum(1)
        return begins

    def reward(self, task_reward: Tensor, begins: Tensor, done: Tensor) -> Tensor:
        """Return what the transitions that led to these observations are worth, `[B]`.

        -1 where an intervention began, unless its episode is a new one: no transition led there.
        """
        if self.who.reward == "task":
            return task_reward
        return -(begins & ~done).to(task_reward.dtype)

    def numbers(self) -> list[dict[str, float]]:
        """Return every seed's share of env steps that were taken over and interventions, and start again."""
        rows = self.counts.tolist()
        self.counts.zero_()
        return [
            {"intervention/share": taken / steps, "intervention/begun": begun} if steps else {}
            for steps, taken, begun in rows
        ]

    def state(self) -> dict[str, Tensor]:
        """Return everything that a resumed run needs, and who intervenes."""
        names = ("action", "decided", "on", "left", "counts")
        mark = torch.tensor([self.who.fingerprint()], dtype=torch.float64)
        return {name: getattr(self, name) for name in names} | {"who": mark}

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned.

        Raises:
            DataError: it is of other envs.
            ValueError: somebody else intervened.
        """
        mine = self.state()
        check_like("intervention", saved, mine)
        if saved["who"].item() != mine["who"].item():
            raise ValueError("the run began with another expert: give it the same run and checkpoint again")
        for name in ("action", "decided", "on", "left", "counts"):
            getattr(self, name).copy_(saved[name])


def load_intervention(text: str) -> Intervention | None:
    """Make an intervention from MODULE:CLASS,KEY=VALUE,... with values as in TOML; None for an empty text.

    Raises:
        ConfigError: no such class, not an intervention, or arguments that it does not take.
    """
    if not text:
        return None
    target, _, rest = text.partition(",")
    cls = load_target(target, "--intervention")
    if not (isinstance(cls, type) and issubclass(cls, Intervention)):
        raise ConfigError(f"--intervention {target}: derive the class from rlsuite.Intervention")
    try:
        values = tomllib.loads(f"values = {{{rest}}}")["values"]
        return cls(**values)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"--intervention {text}: write MODULE:CLASS,KEY=VALUE with values as in TOML, e.g. "
            "rlsuite:Expert,run='runs/sac'"
        ) from error
    except TypeError as error:
        raise ConfigError(f"--intervention {text}: {error}") from error
