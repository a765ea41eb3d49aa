"""LDCQ's policy: latents from the prior, the best by the critics, decoded for h env steps, then anew.

Legend: B worlds, C candidates, Z latent, O observation, A action. Leading axes are independent seeds.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type

from rlsuite.agents.ldcq.config import STAGES, LDCQConfig, Stage
from rlsuite.agents.ldcq.model import Noise, SkillModel
from rlsuite.agents.ldcq.values import LatentCritic, choose
from rlsuite.blocks.diffusion import Hourglass, ancestral, ddim
from rlsuite.blocks.noise import Source, normal

FIXED_PLANS = 64  # plans of an episode until evaluations meet the first one's noise again


class Plan(NamedTuple):
    """Candidates `[*lead, B, C, Z]`, the number of the best `[*lead, B]`, and that one `[*lead, B, Z]`."""

    candidates: Tensor
    best: Tensor
    latent: Tensor


class SkillPolicy(nn.Module):
    """Observation, and what is left of the last plan, to an action in [-1, 1].

    The plan of a world is state that travels with its row: the latent (`skill`) and the env steps since the
    episode began (`skill_age`). A missing age, and one at step 0 of an episode (`step_count`), begin a new
    plan. With exploration latents and actions are drawn from `generator`. Without, latents are drawn with
    noise that is the same for all worlds and depends on the number of the plan alone, and actions are means:
    an action then depends on its own world alone, and on no random stream.

    Args:
        skills: the skill model.
        denoiser: of the diffusion prior, of either kind.
        critic: values of latents.
        config: hyper-parameters.
        normalizer: of the observations, or None.
        generator: behaviour noise.
        lead: leading axes of independent seeds.
        device: where everything lives.
    """

    exploration_scale: Tensor
    learnt: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        skills: SkillModel,
        denoiser: Hourglass,
        critic: LatentCritic,
        config: LDCQConfig,
        *,
        normalizer: nn.Module | None,
        generator: Source,
        lead: tuple[int, ...],
        device: torch.device,
    ) -> None:
        super().__init__()
        self.skills, self.denoiser, self.critic, self.normalizer = skills, denoiser, critic, normalizer
        self.config, self.generator = config, generator
        self.schedule = config.noise_schedule(device)
        self.register_buffer("exploration_scale", torch.ones((), device=device))
        self.register_buffer("latent_mean", torch.zeros(*lead, config.latent, device=device))
        self.register_buffer("latent_std", torch.ones(*lead, config.latent, device=device))
        # Updates of every stage. The host reads it to decide what acting does: it stays there.
        self.register_buffer("learnt", torch.zeros(len(STAGES), dtype=torch.int64, device="cpu"))
        fixed = torch.Generator().manual_seed(0)
        size = (FIXED_PLANS, config.candidates, config.latent)
        self.fixed = torch.randn(*size, generator=fixed).to(device)

    def has(self, stage: Stage) -> bool:
        """Return whether anything was learnt in a stage."""
        return bool(self.learnt[STAGES.index(stage)] > 0)

    def diffuses(self) -> bool:
        """Return whether latents come from the diffusion prior; else from the skill model's Gaussian."""
        return self.config.prior != "gaussian" and self.has("prior")

    @torch.no_grad()
    def draw(self, observation: Tensor, count: int, noise: Noise, diffuses: bool | None = None) -> Tensor:
        """Draw latents `[*lead, B, count, Z]` at normalised states `[*lead, B, O]`.

        From the diffusion prior, or where there is none (yet) from the skill model's Gaussian; `diffuses`
        says which, for callers that must not ask the device.
        """
        config = self.config
        start = noise(observation.new_empty(*observation.shape[:-1], count, config.latent))
        if not (self.diffuses() if diffuses is None else diffuses):
            gaussian = self.skills.prior(observation)
            return gaussian.mean.unsqueeze(-2) + gaussian.std.unsqueeze(-2) * start
        predict = self.denoiser.predictor(observation, config.guidance)
        if config.sampler == "ddim":
            latent = ddim(self.schedule, predict, start, config.ddim_steps)
        else:
            latent = ancestral(self.schedule, predict, start, noise, config.extra_steps)
        return self.latent_mean[..., None, None, :] + self.latent_std[..., None, None, :] * latent

    @torch.no_grad()
    def plan(self, observation: Tensor, noise: Noise) -> Plan:
        """Draw candidates at normalised states `[*lead, B, O]` and take that of the best smaller value.

        Without values (LDGC, or before that stage) there is one candidate.
        """
        valued = self.has("values") and not self.config.goal
        candidates = self.draw(observation, self.config.candidates if valued else 1, noise)
        if valued:
            index = choose(self.critic(observation, candidates))
        else:
            index = torch.zeros(candidates.shape[:-2], dtype=torch.int64, device=candidates.device)
        where = index[..., None, None].expand(*index.shape, 1, candidates.shape[-1])
        return Plan(candidates, index, candidates.gather(-2, where).squeeze(-2))

    def forward(
        self,
        observation: Tensor,
        skill: Tensor | None = None,
        age: Tensor | None = None,
        step_count: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions `[*lead, B, A]`, `skill` `[*lead, B, Z]` and `skill_age` `[*lead, B, 1]`."""
        random = exploration_type() == ExplorationType.RANDOM
        state = observation if self.normalizer is None else self.normalizer(observation)
        if skill is None or age is None:
            skill = state.new_zeros(*state.shape[:-1], self.config.latent)
            age = torch.zeros(*state.shape[:-1], 1, dtype=torch.int64, device=state.device)
        if step_count is not None:
            age = torch.where(step_count == 0, 0, age)
        due = (age % self.config.execute == 0).squeeze(-1)
        # The one question a step asks the device: planning in every step would cost h times as much.
        if bool(due.any()):
            skill = self._renewed(state, skill, age.squeeze(-1) // self.config.execute, due, random)
        draws: Noise | None = None
        if random:
            draws = lambda like: normal(like, self.generator) * self.exploration_scale  # noqa: E731
        return self.skills.decoder.act(state, skill, draws), skill, age + 1

    def _renewed(self, state: Tensor, skill: Tensor, number: Tensor, due: Tensor, random: bool) -> Tensor:
        """Replace the latents of the worlds in `due`; `number` counts their plans."""
        if state.dim() > 2:  # groups of seeds stay whole
            noise = self._noise(number, random)
            return torch.where(due.unsqueeze(-1), self.plan(state, noise).latent, skill)
        rows = due.nonzero().squeeze(-1)
        planned = self.plan(state[rows], self._noise(number[rows], random)).latent
        return skill.index_copy(0, rows, planned)

    def _noise(self, number: Tensor, random: bool) -> Noise:
        """Return noise for the plans `number` `[*lead, B]`."""
        if random:
            return lambda like: normal(like, self.generator)
        calls = 0

        def fixed(like: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return self.fixed[(number + calls - 1) % FIXED_PLANS, : like.shape[-2]]

        return fixed
