"""MBRCSL: model-based return-conditioned supervised learning (Zhou et al. 2023, arXiv 2310.19308).

Three stages on recorded data, one after the other: `dynamics`, an ensemble of models of the environment's
steps; `behaviour`, the data's policy by diffusion; `clone`, a policy that is told what return to bring, from
roll-outs of the two that bring more than anything that was recorded. There is no value function: what joins
parts of episodes is the imagination.

Legend: N batch, W windows (of one transition), B roll-outs, T their steps, K kept ones, O observation, A
action. Leading axes are independent seeds.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor

from rlsuite.agents.base import Spaces, StagedAgent, WindowShape
from rlsuite.agents.kron import Kron
from rlsuite.agents.mbrcsl.acting import BehaviourPolicy, ReturnPolicy
from rlsuite.agents.mbrcsl.config import STAGES, MBRCSLConfig, Stage
from rlsuite.agents.mbrcsl.imagine import RollOuts, Selection, bar_of, returns_to_go, within
from rlsuite.agents.optim import Adam, polyak
from rlsuite.agents.optimizers import make_optimizer
from rlsuite.agents.stages import check_same, stage_due, take_over
from rlsuite.blocks.diffusion import Denoiser, denoising_loss, make_schedule, min_snr_weight, noised
from rlsuite.blocks.dynamics import DynamicsEnsemble, best_members, keep_improved, resampled
from rlsuite.blocks.noise import Noise, Source, fill
from rlsuite.blocks.schedule import CosineRate
from rlsuite.errors import ConfigError, DataError

SEED_LIMIT = 2**62  # of the streams that split the data and imagine
LEAST_STD = 1e-6  # of the clone's inputs: what never changes is left as it is

# What must agree with the run that a stage is inherited from, besides the sizes of the networks.
SHARED_FIELDS: dict[Stage, tuple[str, ...]] = {
    "dynamics": ("elites", "standardise_targets"),
    "behaviour": ("diffusion_steps", "schedule", "normalize_observations"),
}
SHARED_PREFIXES: dict[Stage, tuple[str, ...]] = {
    "dynamics": ("dynamics.", "kept_dynamics.", "least_error", "seed_of_data"),
    "behaviour": ("denoiser.", "kept_denoiser.", "normalizer."),
}


class MBRCSL(StagedAgent):
    """The learner.

    Updates know their stage by their number. Splits of the data are drawn from a saved seed and made again
    when a run is resumed; kept roll-outs are in the checkpoint.
    """

    Config: ClassVar[type] = MBRCSLConfig
    needs_data = True
    adopts_statistics: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = STAGES

    least_error: Tensor
    seed_of_data: Tensor
    seed_of_plans: Tensor
    plan_input: Tensor
    plan_action: Tensor
    plans: Tensor

    def build(self, spaces: Spaces, config: MBRCSLConfig) -> None:
        """Make the networks of all stages, what is kept of them, one optimiser a stage, and the policy."""
        sizes, shape = (spaces.observation, spaces.action), self.net_shape()
        options: dict[str, Any] = {"lead": self.lead, "generator": self.generators["init"]}
        self.dynamics = DynamicsEnsemble(
            *sizes, config.dynamics_hidden, members=config.members, elites=config.elites, **options
        )
        self.denoiser = Denoiser(*sizes, config.widths, config.features, **options)
        self.clone = shape.trunk(spaces.observation + 1, spaces.action)
        for name in ("seed_of_data", "seed_of_plans"):
            seeds = torch.zeros(self.lead, dtype=torch.int64)
            fill(seeds, options["generator"], lambda part, rng: part.random_(SEED_LIMIT, generator=rng))
            self.register_buffer(name, seeds)
        self.register_buffer("least_error", torch.full((*self.lead, config.members), torch.inf))
        rows = (*self.lead, config.kept * config.horizon)
        self.register_buffer("plan_input", torch.zeros(*rows, spaces.observation + 1))
        self.register_buffer("plan_action", torch.zeros(*rows, spaces.action))
        self.register_buffer("plans", torch.zeros(self.lead, dtype=torch.int64))
        trained = {"dynamics": self.dynamics, "denoiser": self.denoiser, "clone": self.clone}
        rates = (config.lr_dynamics, config.lr_behaviour, config.lr_clone)
        self.optimizers: dict[str, Adam | Kron] = {}
        self.rates: dict[str, CosineRate] = {}
        for stage, rate, (name, module) in zip(STAGES, rates, trained.items(), strict=True):
            falling = config.updates_of(stage) if stage in config.decay else 0
            self.rates[stage] = CosineRate(rate, falling)
            self.add_module(f"{stage}_rate", self.rates[stage])
            group = (list(module.parameters()), self.rates[stage].rate)
            self.optimizers[stage] = make_optimizer(self, config, group)
            self.add_parts(self.optimizers[stage], **{name: module})
        self.kept_dynamics = self.add_target("kept_dynamics", self.dynamics)
        self.kept_denoiser = self.add_target("kept_denoiser", self.denoiser)
        device = self.plan_input.device
        self.noise_schedule = make_schedule(config.diffusion_steps, config.schedule, device=device)
        self.snr_weight = min_snr_weight(self.noise_schedule, config.snr_limit)
        self.behaviour = BehaviourPolicy(self.kept_denoiser, self.noise_schedule, spaces.action)
        self.actor = ReturnPolicy(
            self.clone,
            self.behaviour,
            config,
            observation=spaces.observation,
            normalizer=self.normalizer,
            generator=self.generators["act"],
            lead=self.lead,
        )
        self.policy = TensorDictModule(
            self.actor,
            in_keys=["observation", "return_to_go", "last_reward", "step_count"],
            out_keys=["action", "return_to_go", "last_reward"],
        )
        self.held_out: Tensor | None = None  # rows of the data, while the models learn from the others

    # Which stage is due

    @property
    def windows(self) -> WindowShape:
        """All stages learn from single transitions."""
        return WindowShape(1)

    @property
    def stage(self) -> Stage:
        """The stage of the next update; the last one goes on for ever."""
        return stage_due(self.config, self.update_count)

    def prepare(self, data: Any) -> str | None:
        """Set `data` (a replay of windows of one transition) up for the stage of the next update.

        Returns:
            words for the user: that a stage begins, and how good models and roll-outs are.

        Raises:
            ConfigError: a stage that this one builds on is missing.
            DataError: the data have less than two rows.
        """
        stage, note = self.stage, None
        if data.stage != stage:
            note = self._begin(stage, data)
        if stage == "dynamics" and self.update_count % self.config.look_every == 0:
            self._look(data)
        return note

    def inherit(self, config: Any, saved: Mapping[str, Tensor]) -> None:
        """Take over the stages before this run's first one; see `Agent.inherit`.

        Raises:
            ConfigError: there is nothing to take over, or settings or sizes differ.
        """
        wanted = STAGES[: STAGES.index(self.stage)]
        if not wanted:
            raise ConfigError(
                f"a run that begins with {self.stage} takes nothing from another one: leave out --from, or "
                "name later stages, e.g. --stages clone"
            )
        check_same(config, self.config, [name for stage in wanted for name in SHARED_FIELDS[stage]])
        learnt = saved.get("actor.learnt", torch.zeros(len(STAGES)))
        missing = [stage for stage in wanted if not learnt[STAGES.index(stage)]]
        if missing:
            raise ConfigError(f"the earlier run has not learnt {', '.join(missing)}: name one that has")
        take_over(self, saved, tuple(prefix for stage in wanted for prefix in SHARED_PREFIXES[stage]))
        for stage in wanted:
            self.actor.learnt[STAGES.index(stage)] = learnt[STAGES.index(stage)]

    # What a stage reads besides the data

    def _begin(self, stage: Stage, data: Any) -> str:
        missing = [needed for needed in STAGES[: STAGES.index(stage)] if not self.actor.has(needed)]
        if missing:
            raise ConfigError(
                f"stage {stage} builds on {', '.join(missing)}: add it (--stages), or name a run that has it "
                "(--from RUN)"
            )
        held_out = self._split(data, stage == "dynamics")
        if stage == "dynamics":
            facts = f"; {held_out:,} rows held out"
        else:
            self._look(data)  # at the last weights; once more changes nothing
            self.held_out = None
            data.show("ends", self._columns(data, "action") if stage == "behaviour" else {})
            error = self.least_error.mean().item()
            facts = f"; the models' mean squared error on held-out rows {error:.3g}"
        if stage == "clone":
            facts = self._imagine(data)
        data.stage = stage
        return f"stage {stage}: {self.config.updates_of(stage):,} updates on {len(data):,} rows{facts}"

    def _columns(self, data: Any, *names: str) -> dict[str, Tensor]:
        """Return columns of the data that windows of one transition do not bring, `[*lead, W, ...]`."""
        rows = {"action": data.rows["action"], "reward": data.rows["next", "reward"].squeeze(-1)}
        columns = {name: rows[name][data.starts] for name in names}
        return {name: column.expand(*self.lead, *column.shape) for name, column in columns.items()}

    def _split(self, data: Any, shows: bool) -> int:
        """Take the moments of the data and hold rows out; return how many.

        Args:
            data: the replay.
            shows: draw the models' own data sets, and have them sampled.
        """
        config, rows = self.config, len(data)
        if rows < 2:
            raise DataError(f"{rows} rows: models need some to learn from and some to be judged by")
        held_out = min(config.held_out_rows, max(1, int(config.held_out * rows)), rows - 1)
        sets = resampled(rows, held_out, config.members, self.lead, self._streams(self.seed_of_data))
        self.held_out = sets.held_out
        if shows:
            data.show("ends", self._columns(data, "action", "reward") | {"counts": sets.counts})
            observation = data.rows["observation"][data.starts]
            inputs = torch.cat((observation, data.rows["action"][data.starts]), -1)
            change = data.rows["next", "observation"][data.starts] - observation
            targets = torch.cat((change, data.rows["next", "reward"][data.starts]), -1)
            for models in (self.dynamics, self.kept_dynamics):
                models.adopt(inputs, targets if config.standardise_targets else None)
        return held_out

    def _streams(self, seeds: Tensor) -> Source:
        """Return fresh random streams from saved seeds."""
        device = self.plan_input.device
        streams = tuple(torch.Generator(device).manual_seed(int(seed)) for seed in seeds.flatten())
        return streams if self.lead else streams[0]

    @torch.no_grad()
    def _look(self, data: Any) -> None:
        """Judge the models by the held-out rows: keep what is better than ever, and name the elites."""
        assert self.held_out is not None
        rows, place = data.rows, data.starts[self.held_out]
        observation, action = rows["observation"][place], rows["action"][place]
        after, reward = rows["next", "observation"][place], rows["next", "reward"][place].squeeze(-1)
        errors = self.dynamics.errors(observation, action, self.dynamics.targets(observation, reward, after))
        keep_improved(self.kept_dynamics, self.dynamics, self.least_error, errors)
        self.kept_dynamics.elites.copy_(best_members(self.least_error, self.config.elites))

    # Imagination

    @torch.no_grad()
    def roll_out(self, observation: Tensor, noise: Noise) -> RollOuts:
        """Imagine roll-outs of the behaviour policy by the models, from `[*lead, B, O]`."""
        seen, acted, rewarded = [], [], []
        for _ in range(self.config.horizon):
            action = self.behaviour.draw(self.normalized(observation), noise.normal)
            seen.append(observation)
            acted.append(action)
            observation, reward = self.kept_dynamics.step(observation, action, noise)
            rewarded.append(reward)
        return RollOuts(torch.stack(seen, -2), torch.stack(acted, -2), torch.stack(rewarded, -1))

    @torch.no_grad()
    def _imagine(self, data: Any) -> str:
        """Keep imagined roll-outs that bring more than the data; those of a checkpoint are there already.

        Raises:
            DataError: a seed has no roll-out that stays with the data, or none of finite rewards.
        """
        config, bar = self.config, bar_of(data, self.config.bar)
        if int(self.plans.min()) > 0:
            return f"; {int(self.plans.min()):,} roll-outs were kept before"
        noise, first = Noise(self._streams(self.seed_of_plans)), data.rows["observation"][data.episodes[:, 0]]
        seeds = math.prod(self.lead)
        selection = Selection(seeds, bar, config.kept)
        while selection.rounds < config.rounds and not selection.enough:
            lots = noise.uniform(first.new_empty(*self.lead, config.imagined))
            imagined = self.roll_out(first[(lots * len(first)).long().clamp(max=len(first) - 1)], noise)
            imagined = imagined if config.leaves_data else within(imagined, data.rows)
            axes = len(self.lead)
            selection.add(RollOuts(*(part.reshape(seeds, *part.shape[axes:]) for part in imagined)))
        for seed in range(seeds):
            self._keep(seed, selection.of(seed))
        said = (
            f"; {int(self.plans.min()):,} roll-outs kept in {selection.rounds:,} rounds of "
            f"{config.imagined:,}, recorded returns up to {bar:.4g}, imagined up to {selection.best:.4g}"
        )
        if any(selection.short(seed) for seed in range(seeds)):
            said += (
                "; warning: no roll-out was above what was recorded, and the best ones of the last round are "
                "kept: models or behaviour may have learnt too little, or --agent.bar is too high"
            )
        return said

    def _keep(self, seed: int, kept: RollOuts) -> None:
        """Write down what a seed's clone learns from, the moments of its inputs, and what it will ask for."""
        if not len(kept.reward):
            raise DataError(
                "every imagined roll-out of the last round left what was recorded: train models and "
                "behaviour longer, or keep such roll-outs, too, in a run --from this one with --stages clone "
                "--agent.leaves-data"
            )
        wanted = returns_to_go(kept.reward)
        asked = torch.cat((kept.observation, wanted.unsqueeze(-1)), -1).flatten(0, 1)
        std, mean = torch.std_mean(asked, 0, correction=0)
        actor = self.actor
        for buffer, value in (
            (self.plan_input, asked),
            (self.plan_action, kept.action.flatten(0, 1)),
            (self.plans, torch.tensor(len(wanted))),
            (actor.input_mean, mean),
            (actor.input_std, torch.where(std > LEAST_STD, std, 1.0)),
            (actor.target, wanted[:, :1].amax(0)),
        ):
            row = buffer.view(-1, *buffer.shape[len(self.lead) :])[seed]
            (row[: len(value)] if value.dim() > 1 else row).copy_(value)

    # Updates

    def read(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Return the columns of a window batch by name, those of "next" behind a dot."""
        return {
            key if isinstance(key, str) else ".".join(key): tensor for key, tensor in batch.items(True, True)
        }

    def phase(self) -> dict[str, Any]:
        """Return the stage that is due."""
        return {"stage": self.stage}

    def step(self, batch: dict[str, Tensor], noise: Noise, **phase: Any) -> dict[str, Tensor]:
        """Learn from transitions; every stage normalises what it reads."""
        return self.learn(batch, noise, **phase)

    def learn(  # type: ignore[override]
        self, batch: dict[str, Tensor], noise: Noise, *, stage: Stage
    ) -> dict[str, Tensor]:
        """Take one step of a stage on rows as `prepare` has them sampled."""
        if stage == "dynamics":
            metrics = self._learn_dynamics(batch)
        elif stage == "behaviour":
            metrics = self._learn_behaviour(batch, noise)
        else:
            metrics = self._learn_clone(batch, noise)
        self.rates[stage].step()
        self.actor.learnt[STAGES.index(stage)].add_(1)
        return metrics

    def _learn_dynamics(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        models, observation = self.dynamics, batch["observation"]
        predicted = models(observation, batch["action"])
        target = models.targets(observation, batch["reward"], batch["next.observation"])
        likelihood = models.loss(predicted, target, batch["counts"].mT)
        norm = self.optimizers["dynamics"].descend(likelihood + models.decay(self.config.dynamics_decay))
        error = (predicted.mean - target.unsqueeze(-3)).detach().square().mean((-3, -2, -1))
        return {
            "dynamics/loss": likelihood.detach(),
            "dynamics/error": error,
            "dynamics/held_out": self.least_error.mean(-1),
            "grad_norm/dynamics": norm,
        }

    def _learn_behaviour(self, batch: dict[str, Tensor], noise: Noise) -> dict[str, Tensor]:
        clean, steps = batch["action"], self.config.diffusion_steps
        when = noise.uniform(clean[..., 0])
        time = (1 + when * steps).long().clamp(max=steps)
        noisy = noised(self.noise_schedule, clean, time, noise.normal(clean))
        contexts = self.denoiser.contexts(self.normalized(batch["observation"]))
        predicted = self.denoiser(noisy.unsqueeze(-2), time, contexts).squeeze(-2)
        loss = denoising_loss(clean, predicted, self.snr_weight[time])
        norm = self.optimizers["behaviour"].descend(loss)
        polyak(self.kept_denoiser, self.denoiser, self.config.ema)
        error = (clean - predicted).detach().square().mean((-2, -1))
        return {"behaviour/loss": loss.detach(), "behaviour/error": error, "grad_norm/behaviour": norm}

    def _learn_clone(self, batch: dict[str, Tensor], noise: Noise) -> dict[str, Tensor]:
        """Regress the actions of kept roll-outs; of the batch only the number of rows is read."""
        lots = noise.uniform(batch["observation"][..., 0])
        rows = (self.plans * self.config.horizon).unsqueeze(-1)
        index = torch.minimum((lots * rows).long(), rows - 1).unsqueeze(-1)
        asked, action = (
            column.gather(-2, index.expand(*index.shape[:-1], column.shape[-1]))
            for column in (self.plan_input, self.plan_action)
        )
        acted = self.actor.act(asked[..., :-1], asked[..., -1:])
        loss = (acted - action).square().mean((-2, -1))
        norm = self.optimizers["clone"].descend(loss)
        self._shrink_clone(norm)
        return {
            "clone/loss": loss.detach(),
            "clone/target": self.actor.target.mean(-1),
            "grad_norm/clone": norm,
        }

    @torch.no_grad()
    def _shrink_clone(self, norm: Tensor) -> None:
        """Decay the clone's weights, unless the step was skipped."""
        stepped = norm.isfinite().all().to(norm.dtype)
        factor = 1 - stepped * self.rates["clone"].rate.to(norm.dtype) * self.config.weight_decay
        for parameter in self.clone.parameters():
            parameter.mul_(factor.to(parameter.dtype))
