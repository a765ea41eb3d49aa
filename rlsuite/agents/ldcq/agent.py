"""LDCQ: latent diffusion-constrained Q-learning from recorded data (Venkatraman et al., arXiv 2309.06599).

Three stages, one after the other, each on frozen results of those before it: `skills` (model.py), `prior`
(blocks/diffusion.py), `values` (values.py). Then acting (acting.py): latents are drawn from the prior, the
best by the critics is decoded for h env steps. LDGC, the goal-conditioned variant, has no critics and decodes
a single draw.

Legend: N batch, W windows, C candidates, Z latent. Leading axes are independent seeds.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor

from rlsuite.agents.base import Spaces, StagedAgent, WindowShape
from rlsuite.agents.kron import Kron
from rlsuite.agents.ldcq.acting import SkillPolicy
from rlsuite.agents.ldcq.config import STAGES, LDCQConfig, Stage
from rlsuite.agents.ldcq.model import SkillModel
from rlsuite.agents.ldcq.released import ReleasedDenoiser
from rlsuite.agents.ldcq.values import (
    LatentCritic,
    importance_weights,
    latent_targets,
    smaller,
    weighted_loss,
    window_targets,
)
from rlsuite.agents.optim import Adam, polyak
from rlsuite.agents.optimizers import make_optimizer
from rlsuite.agents.stages import check_same, stage_due, take_over
from rlsuite.blocks.diffusion import Denoiser, denoising_loss, min_snr_weight, noised
from rlsuite.blocks.noise import Noise, Source, fill, normal
from rlsuite.blocks.schedule import CosineRate
from rlsuite.errors import ConfigError

PRIORITY_FLOOR = 5e-6  # added to squared TD errors before they become priorities; authors' code
ENCODED_ROWS = 512  # windows encoded at once when a stage begins
DRAWN_ROWS = 16_384  # latents drawn at once when a stage begins
LOOK_EVERY = 5_000  # updates between looks at whether values leave the range of the data's returns
SLACK = 0.05  # of that range's width, by which they may leave it unsaid
SEED_LIMIT = 2**62  # of the seed of the stored candidates' random stream

# What must agree with the run that a stage is inherited from, besides the sizes of the networks.
SHARED_FIELDS: dict[str, tuple[str, ...]] = {
    "skills": (
        *("horizon", "encoder", "encoder_layers", "networks", "state_prior", "std_min"),
        *("successor", "normalize_observations"),
    ),
    "prior": ("diffusion_steps", "schedule", "indexing", "normalize_latents"),
}
SHARED_PREFIXES: dict[str, tuple[str, ...]] = {
    "skills": ("skills.", "normalizer."),
    "prior": ("denoiser.", "actor.latent_"),
}


class LDCQ(StagedAgent):
    """The learner.

    Updates know their stage by their number. What a stage reads besides the data (latents of all windows,
    returns, stored candidates) is made from frozen networks when the stage begins, and made again when a run
    is resumed; checkpoints do not hold it.
    """

    Config: ClassVar[type] = LDCQConfig
    needs_data = True
    adopts_statistics: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = STAGES

    candidate_seed: Tensor
    return_range: Tensor
    chosen_range: Tensor

    def build(self, spaces: Spaces, config: LDCQConfig) -> None:
        """Make the networks of all stages, the critics' target, one optimiser a stage, and the policy."""
        shape: dict[str, Any] = {"lead": self.lead, "generator": self.generators["init"]}
        self.skills = SkillModel(
            (spaces.observation, spaces.action, config.latent),
            config.hidden,
            encoder=config.encoder,
            layers=config.encoder_layers,
            horizon=config.horizon,
            state_prior=config.state_prior,
            std_min=config.std_min,
            released=config.networks == "released",
            **shape,
        )
        hourglass = ReleasedDenoiser if config.networks == "released" else Denoiser
        self.denoiser = hourglass(spaces.observation, config.latent, config.widths, config.features, **shape)
        self.critic = LatentCritic(spaces.observation, config.latent, scale=config.critic_scale, **shape)
        seeds = torch.zeros(self.lead, dtype=torch.int64)
        self.device = seeds.device
        fill(seeds, shape["generator"], lambda part, rng: part.random_(SEED_LIMIT, generator=rng))
        self.register_buffer("candidate_seed", seeds)
        self.register_buffer("return_range", torch.zeros(2))
        self.register_buffer("chosen_range", torch.zeros(*self.lead, 2))
        self.rates: dict[str, CosineRate] = {}
        self.optimizers: dict[str, Adam | Kron] = {}
        trained = {"skills": self.skills, "denoiser": self.denoiser, "critic": self.critic}
        rates = (config.lr_skills, config.lr_prior, config.lr_values)
        for stage, rate, (name, module) in zip(STAGES, rates, trained.items(), strict=True):
            falling = config.updates_of(stage) if stage in config.decay else 0
            self.rates[stage] = CosineRate(rate, falling)
            self.add_module(f"{stage}_rate", self.rates[stage])
            self.optimizers[stage] = make_optimizer(
                self, config, (list(module.parameters()), self.rates[stage].rate)
            )
            self.add_parts(self.optimizers[stage], **{name: module})
        self.target_critic = self.add_target("target_critic", self.critic)
        self.noise_schedule = config.noise_schedule(self.device)
        self.snr_weight = min_snr_weight(self.noise_schedule, config.snr_limit)
        self.actor = SkillPolicy(
            self.skills,
            self.denoiser,
            self.critic,
            config,
            normalizer=self.normalizer,
            generator=self.generators["act"],
            lead=self.lead,
            device=self.device,
        )
        self.policy = TensorDictModule(
            self.actor,
            in_keys=["observation", "skill", "skill_age", "step_count"],
            out_keys=["action", "skill", "skill_age"],
        )

    # Which stage is due

    @property
    def windows(self) -> WindowShape:
        """All stages learn from windows."""
        shape = (self.config.horizon, self.config.stride, self.config.short_windows)
        return WindowShape(*shape, self.config.successor == "last")

    @property
    def stage(self) -> Stage:
        """The stage of the next update; the last one goes on for ever."""
        return stage_due(self.config, self.update_count)

    @property
    def built_on(self) -> tuple[Stage, ...]:
        """The stages that the one that is due builds on."""
        return self.config.offered[: self.config.offered.index(self.stage)]

    def prepare(self, data: Any) -> str | None:
        """Set `data` (a window replay) up for the stage of the next update.

        Returns:
            words for the user: that a stage begins, or that values leave the range of the data's returns.

        Raises:
            ConfigError: a stage that this one builds on is missing, or stored candidates exceed their bound.
        """
        stage = self.stage
        notes = [] if data.stage == stage else [self._begin(stage, data)]
        if stage == "values" and self.actor.has(stage) and self.update_count % LOOK_EVERY == 0:
            notes += self._look()
        return "; ".join(notes) or None

    def inherit(self, config: Any, saved: Mapping[str, Tensor]) -> None:
        """Take over the stages before this run's first one; see `Agent.inherit`.

        Raises:
            ConfigError: there is nothing to take over, or settings or sizes differ.
        """
        wanted = self.built_on
        if not wanted:
            raise ConfigError(
                f"a run that begins with {self.stage} takes nothing from another one: leave out --from, or "
                f"name later stages, e.g. --stages {self.config.offered[-1]}"
            )
        fields = [name for stage in wanted for name in SHARED_FIELDS[stage]]
        check_same(config, self.config, fields)
        prefixes = tuple(prefix for stage in wanted for prefix in SHARED_PREFIXES[stage])
        learnt = saved.get("actor.learnt", torch.zeros(len(STAGES)))
        missing = [stage for stage in wanted if not learnt[STAGES.index(stage)]]
        if missing:
            raise ConfigError(f"the earlier run has not learnt {', '.join(missing)}: name one that has")
        take_over(self, saved, prefixes)
        with torch.no_grad():
            for stage in wanted:
                self.actor.learnt[STAGES.index(stage)] = learnt[STAGES.index(stage)]

    # What a stage reads besides the data

    def _begin(self, stage: Stage, data: Any) -> str:
        missing = [needed for needed in self.built_on if not self.actor.has(needed)]
        if missing:
            raise ConfigError(
                f"stage {stage} builds on {', '.join(missing)}: add it (--stages), or name a run that has it "
                "(--from RUN)"
            )
        facts = ""
        if stage == "skills":
            data.show("steps", {})
        elif stage == "prior":
            latent = self._encoded(data)
            if self.config.normalize_latents:
                self.actor.latent_mean.copy_(latent.mean(-2))
                self.actor.latent_std.copy_(latent.std(-2))
            data.show("ends", {"latent": latent})
        else:
            facts = self._begin_values(data)
        data.stage = stage
        return f"stage {stage}: {self.config.updates_of(stage):,} updates on {len(data):,} windows{facts}"

    @torch.no_grad()
    def _encoded(self, data: Any) -> Tensor:
        """Return the posterior means of all windows, `[*lead, W, Z]`."""
        if "latent" in data.columns:  # of the stage before: the encoder has not moved since
            return data.columns["latent"]

        def encode(index: Tensor) -> Tensor:
            rows = data.steps(index.expand(*self.lead, -1))
            observation = self.normalized(rows["observation"])
            return self.skills.encoder(observation, rows["action"], rows["mask"]).mean.squeeze(-2)

        return self._over_windows(data, encode, ENCODED_ROWS, -2)

    def _begin_values(self, data: Any) -> str:
        """Sum the windows' rewards, say which go on, draw the candidates of the states after them."""
        config = self.config
        targets = window_targets(
            data,
            gamma=config.gamma,
            window_gamma=config.gamma if config.window_discount else 1.0,
            bootstrap=config.bootstrap,
            ends=config.ends,
            window_reward=config.window_reward,
            scale=config.reward_scale,
        )
        encoded = {"reward": targets.reward, "discount": targets.discount}
        columns = {name: column.expand(*self.lead, -1) for name, column in encoded.items()}
        columns["latent"] = self._encoded(data)
        size = math.prod(self.lead) * len(data) * config.stored * config.latent * torch.half.itemsize / 2**20
        if size > config.stored_mib:
            raise ConfigError(
                f"{config.stored} candidates for each of {len(data):,} windows need {size:,.0f} MiB, "
                f"{config.stored_mib:,} are allowed (--agent.stored-mib): store fewer (--agent.stored), take "
                "fewer windows (--agent.stride), or draw them for every update (--agent.stored 0)"
            )
        if config.stored:
            columns["candidates"] = self._stored_candidates(data)
        data.show("ends", columns)
        if config.priority and data.priorities is None:
            data.start_priorities(targets.kept)
        low, high = targets.range
        self.return_range.copy_(torch.tensor([low, high]))
        if not self.actor.has("values"):
            self._forget_chosen()
        return f"; stored candidates {size:,.1f} MiB; returns of the data from {low:.3g} to {high:.3g}"

    @torch.no_grad()
    def _stored_candidates(self, data: Any) -> Tensor:
        """Draw `[*lead, W, stored, Z]` by a random stream that is the same whenever the stage begins."""
        streams = tuple(
            torch.Generator(self.device).manual_seed(int(seed)) for seed in self.candidate_seed.flatten()
        )
        source: Source = streams if self.lead else streams[0]

        def draw(index: Tensor) -> Tensor:
            next_obs = data.ends(index.expand(*self.lead, -1))["next", "observation"]
            state = self.normalized(next_obs)
            return self.actor.draw(state, self.config.stored, lambda like: normal(like, source)).half()

        return self._over_windows(data, draw, max(1, DRAWN_ROWS // self.config.stored), -3)

    def _over_windows(self, data: Any, function: Callable[[Tensor], Tensor], rows: int, axis: int) -> Tensor:
        """Join what `function` gives for all windows, `rows` at a time."""
        everything = torch.arange(len(data), device=data.starts.device)
        return torch.cat([function(index) for index in everything.split(rows)], axis)

    # Values against the data

    def _forget_chosen(self) -> None:
        self.chosen_range[..., 0] = torch.inf
        self.chosen_range[..., 1] = -torch.inf

    def _look(self) -> list[str]:
        """Say whether values of chosen latents left the range of returns since the last look."""
        low, high = self.return_range.tolist()
        least, most = self.chosen_range[..., 0].min().item(), self.chosen_range[..., 1].max().item()
        self._forget_chosen()
        slack = SLACK * (high - low)
        if low - slack <= least and most <= high + slack:
            return []
        return [
            f"warning: values of chosen skills reach from {least:.3g} to {most:.3g}, "
            f"returns of the data from {low:.3g} to {high:.3g}"
        ]

    # Updates

    def read(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Return the columns of a window batch by name, those of "next" behind a dot."""
        return {
            key if isinstance(key, str) else ".".join(key): tensor for key, tensor in batch.items(True, True)
        }

    def phase(self) -> dict[str, Any]:
        """Return the stage that is due, and whether its latents come from the diffusion prior."""
        return {"stage": self.stage, "diffuses": self.actor.diffuses()}

    @classmethod
    def obstacle(cls, config: LDCQConfig) -> str | None:
        """Return that fresh candidates run the whole diffusion inside every update, which is not compiled."""
        if config.stored or "values" not in config.order:
            return None
        return "stage values draws its candidates anew in every update (--agent.stored 0)"

    def step(self, batch: dict[str, Tensor], noise: Noise, **phase: Any) -> dict[str, Tensor]:
        """Learn from the windows; every stage normalises the observations that it reads."""
        return self.learn(batch, noise, **phase)

    def learn(  # type: ignore[override]
        self, batch: dict[str, Tensor], noise: Noise, *, stage: Stage, diffuses: bool
    ) -> dict[str, Tensor]:
        """Take one step of a stage on windows as `prepare` has them sampled.

        In the stage values the metrics hold `priority` `[*lead, N]`, unless windows are drawn uniformly.
        """
        if stage == "skills":
            metrics = self._learn_skills(batch, noise)
        elif stage == "prior":
            metrics = self._learn_prior(batch, noise)
        else:
            metrics = self._learn_values(batch, noise, diffuses)
        self.rates[stage].step()
        self.actor.learnt[STAGES.index(stage)].add_(1)
        return metrics

    def _learn_skills(self, batch: dict[str, Tensor], noise: Noise) -> dict[str, Tensor]:
        loss, metrics = self.skills.loss(
            self.normalized(batch["observation"]),
            batch["action"],
            batch["mask"],
            self.normalized(batch["next.observation"]),
            noise.normal,
            self.config.beta,
        )
        return metrics | {"grad_norm/skills": self.optimizers["skills"].descend(loss)}

    def _learn_prior(self, batch: dict[str, Tensor], noise: Noise) -> dict[str, Tensor]:
        mean, std = self.actor.latent_mean.unsqueeze(-2), self.actor.latent_std.unsqueeze(-2)
        clean = (batch["latent"] - mean) / std
        when, left_out = noise.uniform(clean.new_empty(*clean.shape[:-1], 2)).unbind(-1)
        steps = self.config.diffusion_steps
        time = (1 + when * steps).long().clamp(max=steps)
        noisy = noised(self.noise_schedule, clean, time, noise.normal(clean))
        keep = (left_out >= self.config.state_dropout).to(clean.dtype)
        contexts = self.denoiser.contexts(self.normalized(batch["observation"]), keep)
        predicted = self.denoiser(noisy.unsqueeze(-2), time, contexts).squeeze(-2)
        loss = denoising_loss(clean, predicted, self.snr_weight[time])
        norm = self.optimizers["prior"].descend(loss)
        error = (clean - predicted).detach().square().mean((-2, -1))
        return {"prior/loss": loss.detach(), "prior/error": error, "grad_norm/prior": norm}

    def _learn_values(self, batch: dict[str, Tensor], noise: Noise, diffuses: bool) -> dict[str, Tensor]:
        config = self.config
        with torch.no_grad():
            next_observation = self.normalized(batch["next.observation"])
            candidates = self._candidates(batch, next_observation, noise, diffuses)
            next_q = self.target_critic(next_observation, candidates)
            target = latent_targets(batch["reward"], batch["discount"], next_q, config.choice)
        latent = batch["latent"].unsqueeze(-2)
        q = self.critic(self.normalized(batch["observation"]), latent).squeeze(-1)
        loss = weighted_loss(q, target, self._weights(batch, target), config.weighting)
        norm = self.optimizers["values"].descend(loss, config.max_norm)
        polyak(self.target_critic, self.critic, config.tau)
        error = (q - target).detach().square()
        chosen = smaller(next_q).amax(-1)
        least, most = chosen.amin(-1), chosen.amax(-1)
        self.chosen_range[..., 0].clamp_(max=least)
        self.chosen_range[..., 1].clamp_(min=most)
        metrics = {
            "values/loss": loss.detach().sum(-1),
            "values/td_error": error.sqrt().mean((-2, -1)),
            "values/q": q.detach().mean((-2, -1)),
            "values/chosen": chosen.mean(-1),
            "values/chosen_min": least,
            "values/chosen_max": most,
            "values/return_low": self.return_range[0],
            "values/return_high": self.return_range[1],
            "grad_norm/values": norm.amax(-1),
        }
        if config.priority:
            metrics["priority"] = (error.mean(-2) + PRIORITY_FLOOR).pow(config.priority)
        return metrics

    def _candidates(
        self, batch: dict[str, Tensor], next_observation: Tensor, noise: Noise, diffuses: bool
    ) -> Tensor:
        """Return candidates of the next states, `[*lead, N, C, Z]`: some of those stored, or fresh draws."""
        count = self.config.target_candidates
        if not self.config.stored:
            return self.actor.draw(next_observation, count, noise.normal, diffuses)
        stored = batch["candidates"].to(next_observation.dtype)
        if count >= self.config.stored:
            return stored
        lots = noise.uniform(next_observation.new_empty(*stored.shape[:-2], count))
        picked = (lots * self.config.stored).long().clamp(max=self.config.stored - 1).unsqueeze(-1)
        return stored.gather(-2, picked.expand(*picked.shape[:-1], stored.shape[-1]))

    def _weights(self, batch: dict[str, Tensor], target: Tensor) -> Tensor:
        """Return importance weights of the batch, `[*lead, N]`, whose exponent grows to 1 over the stage."""
        if not self.config.priority:
            return torch.ones_like(target[..., 0, :])
        first = self.config.correction
        done = self.actor.learnt[STAGES.index("values")].double() / self.config.values_updates
        exponent = first + (1 - first) * done.clamp(max=1.0)
        return importance_weights(batch["probability"], exponent).to(target)
