"""The hyper-parameters of LDCQ and LDGC."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from rlsuite.agents.ldcq.values import Choice, Ends, Weighting, WindowReward
from rlsuite.agents.optimizers import OptimizerConfig
from rlsuite.blocks.diffusion import Schedule, ScheduleKind, make_schedule
from rlsuite.bounds import (
    AtLeastOne,
    Bounds,
    DropoutRate,
    NotNegative,
    PolyakRate,
    Positive,
    UnitInterval,
    check_bounds,
)
from rlsuite.errors import ConfigError

Stage = Literal["skills", "prior", "values"]
STAGES: tuple[Stage, ...] = ("skills", "prior", "values")


@dataclass(frozen=True, slots=True, kw_only=True)
class LDCQConfig(OptimizerConfig):
    """Hyper-parameters of LDCQ; the defaults are the paper's, where it and the authors' code differ."""

    goal: bool = False
    """LDGC: no values; one draw of the prior is decoded. For data whose observation shows the goal."""
    stages: tuple[Stage, ...] = ()
    """Stages of this run; empty: all that the variant has."""
    prior: Literal["diffusion", "gaussian"] = "diffusion"
    """Where latents come from: diffusion, or the skill model's Gaussian prior, as an ablation."""

    horizon: AtLeastOne = 30
    """Env steps of a skill, H."""
    stride: AtLeastOne = 1
    """Rows between the starts of neighbouring windows."""
    short_windows: bool = True
    """Windows that the end of an episode cuts count, too; without them nothing near an end is learnt."""
    latent: AtLeastOne = 16
    """Length of a skill's latent, Z."""
    hidden: AtLeastOne = 256
    """Width of the skill model's layers."""
    encoder: Literal["gru", "transformer"] = "gru"
    """Bidirectional GRU, or a transformer with a token for the latent."""
    encoder_layers: AtLeastOne = 4
    """Layers of the encoder."""
    networks: Literal["ours", "released"] = "ours"
    """Encoder and denoiser: ours, or those of the authors' code (docs/ldcq.md has the differences)."""
    beta: Annotated[float, Bounds(0)] = 0.05
    """Weight of the KL between posterior and prior."""
    state_prior: bool = True
    """The skill model's prior reads the first state; else it is N(0, 1)."""
    std_min: Annotated[float, Bounds(0)] = 0.01
    """Least std of the skill model's Gaussians; our choice, for actions in [-1, 1]. The authors' has none."""
    successor: Literal["after", "last"] = "after"
    """The state that a window leads to: the one after it, or its last one (authors' code)."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by mean and std of the data set."""

    diffusion_steps: AtLeastOne = 200
    """Steps of the diffusion, T."""
    schedule: ScheduleKind = "linear"
    """How its variances grow; cosine ends in pure noise with few steps, too."""
    indexing: Literal["standard", "released"] = "standard"
    """Cumulative product of the schedule; the authors' has its first variance twice."""
    widths: tuple[int, ...] = (128, 32, 16, 8)
    """Widths of the denoiser's hourglass."""
    features: AtLeastOne = 256
    """Length of the denoiser's embeddings of state and time."""
    snr_limit: Positive = 5.0
    """Limit of the signal-to-noise ratio as a weight of the loss (Min-SNR)."""
    state_dropout: DropoutRate = 0.1
    """Share of rows whose state is left out, for guidance."""
    guidance: Annotated[float, Bounds(0)] = 0.0
    """Weight of the guidance when latents are drawn."""
    normalize_latents: bool = True
    """Diffuse latents standardised; our choice: the skill model leaves their scale open."""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """How latents are drawn."""
    ddim_steps: AtLeastOne = 10
    """Denoiser calls of the sampler ddim."""
    extra_steps: NotNegative = 5
    """Repetitions of the ancestral sampler's last step."""

    gamma: UnitInterval = 0.995
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the target critics."""
    window_discount: bool = True
    """Rewards inside a window are discounted; the authors' code leaves them as they are."""
    bootstrap: Literal["window", "step"] = "window"
    """Discount of the bootstrap: gamma to the window's length (paper), or gamma (authors' code, mazes)."""
    window_reward: WindowReward = "sum"
    """What a window brings: its rewards; 1 at every step of a window that reaches a reward, behind which its
    episode has no more windows (authors' code, AntMaze); or their increments (authors' code, kitchen)."""
    reward_scale: Positive = 1.0
    """Multiplies the rewards of windows; 0.1 in the authors' code for locomotion."""
    ends: Ends = "terminated"
    """What ends the future: termination; also a reward (authors' code, mazes: the goal is the end); or
    nothing (authors' code, kitchen)."""
    choice: Choice = "other"
    """Who picks the next latent: the other critic's target (authors' code), or the smaller value (paper)."""
    critic_scale: Positive = 1.0
    """Multiplies the widths of the critics, 256 for the state, 128 for the latent, then 128 and 32."""
    stored: NotNegative = 100
    """Candidates drawn once for the state after every window (paper 500, authors' code 1,000); 0 draws them
    for every update."""
    stored_mib: AtLeastOne = 4_096
    """Bound of the stored candidates' memory, in MiB."""
    target_candidates: AtLeastOne = 100
    """Candidates of the maximum in the target, out of those stored."""
    max_norm: Positive = 1.0
    """Bound of each critic's gradient norm."""
    priority: UnitInterval = 0.7
    """Exponent of the priorities, Schaul's alpha; 0 draws windows uniformly."""
    correction: UnitInterval = 0.3
    """First exponent of the importance weights, Schaul's beta; it grows to 1 over the stage."""

    weighting: Weighting = "rows"
    """Importance weights of the loss: of each row, or their mean for all rows alike, as the authors' code has
    it by a product of [N] with [N, 1]."""

    candidates: AtLeastOne = 500
    """Latents drawn for a plan, of which the best is decoded."""
    execute: AtLeastOne = 30
    """Env steps of a plan, at most the horizon."""

    skills_updates: AtLeastOne = 500_000
    """Updates of the stage skills."""
    prior_updates: AtLeastOne = 500_000
    """Updates of the stage prior."""
    values_updates: AtLeastOne = 300_000
    """Updates of the stage values."""
    lr_skills: Positive = 5e-5
    """Learning rate of the skill model."""
    lr_prior: Positive = 2e-4
    """Learning rate of the denoiser."""
    lr_values: Positive = 5e-4
    """Learning rate of the critics."""
    decay: tuple[Stage, ...] = ("prior",)
    """Stages whose rate falls to 0 along half a cosine; the authors' rises and falls with a period."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range, or that contradict one another."""
        check_bounds(self)
        for name, limit in (("execute", self.horizon), ("ddim_steps", self.diffusion_steps)):
            if getattr(self, name) > limit:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be in [1, {limit}]")
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"widths = {self.widths}: name at least one, each at least 1")
        if self.networks == "released" and self.encoder != "gru":
            raise ConfigError(f"encoder = {self.encoder}: networks = released has the authors' gru alone")
        if self.window_reward == "goal" and not self.priority:
            raise ConfigError(
                "window_reward = goal leaves windows out by their priority: priority = 0 has none"
            )
        if self.guidance and not self.state_dropout:
            raise ConfigError(f"guidance = {self.guidance} needs state_dropout above 0")
        wrong = [stage for stage in self.stages if stage not in self.offered]
        if wrong or [*self.stages] != sorted(set(self.stages), key=STAGES.index):
            raise ConfigError(
                f"stages = {','.join(self.stages)}: some of {','.join(self.offered)}, in this order, once"
            )

    @property
    def offered(self) -> tuple[Stage, ...]:
        """The stages that this variant has."""
        without = ("values",) * self.goal + ("prior",) * (self.prior == "gaussian")
        return tuple(stage for stage in STAGES if stage not in without)

    @property
    def order(self) -> tuple[Stage, ...]:
        """The stages of this run."""
        return self.stages or self.offered

    def noise_schedule(self, device: torch.device) -> Schedule:
        """Return the schedule of the diffusion."""
        released = self.indexing == "released"
        return make_schedule(self.diffusion_steps, self.schedule, released_indexing=released, device=device)

    def updates_of(self, stage: Stage) -> int:
        """Updates of one stage."""
        return int(getattr(self, f"{stage}_updates"))

    @property
    def updates(self) -> int:
        """Updates of this run."""
        return sum(self.updates_of(stage) for stage in self.order)
