"""The hyper-parameters of LDCQ and LDGC."""

import math
from dataclasses import dataclass
from typing import Literal

from rlsuite.agents.base import check_range
from rlsuite.agents.ldcq.diffusion import ScheduleKind
from rlsuite.agents.ldcq.values import Choice

Stage = Literal["skills", "prior", "values"]
STAGES: tuple[Stage, ...] = ("skills", "prior", "values")


@dataclass(frozen=True, slots=True, kw_only=True)
class LDCQConfig:
    """Hyper-parameters of LDCQ; the defaults are the paper's, where it and the authors' code differ."""

    goal: bool = False
    """LDGC: no values; one draw of the prior is decoded. For data whose observation shows the goal."""
    stages: tuple[Stage, ...] = ()
    """Stages of this run; empty: all that the variant has."""
    prior: Literal["diffusion", "gaussian"] = "diffusion"
    """Where latents come from: diffusion, or the skill model's Gaussian prior, as an ablation."""

    horizon: int = 30
    """Env steps of a skill, H."""
    stride: int = 1
    """Rows between the starts of neighbouring windows."""
    short_windows: bool = True
    """Windows that the end of an episode cuts count, too; without them nothing near an end is learnt."""
    latent: int = 16
    """Length of a skill's latent, Z."""
    hidden: int = 256
    """Width of the skill model's layers."""
    encoder: Literal["gru", "transformer"] = "gru"
    """Bidirectional GRU, or a transformer with a token for the latent."""
    encoder_layers: int = 4
    """Layers of the encoder."""
    beta: float = 0.05
    """Weight of the KL between posterior and prior."""
    state_prior: bool = True
    """The skill model's prior reads the first state; else it is N(0, 1)."""
    std_min: float = 0.01
    """Least deviation of the skill model's Gaussians; our choice, for actions in [-1, 1]."""
    normalize_observations: bool = False
    """Feed all networks observations in deviations from the mean, both of the data set."""

    diffusion_steps: int = 200
    """Steps of the diffusion, T."""
    schedule: ScheduleKind = "linear"
    """How its variances grow; cosine ends in pure noise with few steps, too."""
    widths: tuple[int, ...] = (128, 32, 16, 8)
    """Widths of the denoiser's hourglass."""
    features: int = 256
    """Length of the denoiser's embeddings of state and time."""
    snr_limit: float = 5.0
    """Limit of the signal-to-noise ratio as a weight of the loss (Min-SNR)."""
    state_dropout: float = 0.1
    """Share of rows whose state is left out, for guidance."""
    guidance: float = 0.0
    """Weight of the guidance when latents are drawn."""
    normalize_latents: bool = True
    """Diffuse latents in deviations from their mean; our choice: the skill model leaves their scale open."""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """How latents are drawn."""
    ddim_steps: int = 10
    """Denoiser calls of the sampler ddim."""
    extra_steps: int = 5
    """Repetitions of the ancestral sampler's last step."""

    gamma: float = 0.995
    """Discount per env step."""
    tau: float = 0.005
    """Polyak rate of the target critics."""
    window_discount: bool = True
    """Rewards inside a window are discounted; the authors' code leaves them as they are."""
    bootstrap: Literal["window", "step"] = "window"
    """Discount of the bootstrap: gamma to the window's length (paper), or gamma (authors' code, mazes)."""
    ends: Literal["terminated", "reward"] = "terminated"
    """What ends the future: termination, or also a reward (authors' code, mazes: the goal is the end)."""
    choice: Choice = "other"
    """Who picks the next latent: the other critic's target (authors' code), or the smaller value (paper)."""
    critic_scale: float = 1.0
    """Multiplies the widths of the critics, 256 for the state, 128 for the latent, then 128 and 32."""
    stored: int = 100
    """Candidates drawn once for the state after every window (paper 500, authors' code 1,000); 0 draws them
    for every update."""
    stored_mib: int = 4_096
    """Bound of the stored candidates' memory, in MiB."""
    target_candidates: int = 100
    """Candidates of the maximum in the target, out of those stored."""
    max_norm: float = 1.0
    """Bound of each critic's gradient norm."""
    priority: float = 0.7
    """Exponent of the priorities, Schaul's alpha; 0 draws windows uniformly."""
    correction: float = 0.3
    """First exponent of the importance weights, Schaul's beta; it grows to 1 over the stage."""

    candidates: int = 500
    """Latents drawn for a plan, of which the best is decoded."""
    execute: int = 30
    """Env steps of a plan, at most the horizon."""

    skills_updates: int = 500_000
    """Updates of the stage skills."""
    prior_updates: int = 500_000
    """Updates of the stage prior."""
    values_updates: int = 300_000
    """Updates of the stage values."""
    lr_skills: float = 5e-5
    """Learning rate of the skill model."""
    lr_prior: float = 2e-4
    """Learning rate of the denoiser."""
    lr_values: float = 5e-4
    """Learning rate of the critics."""
    decay: tuple[Stage, ...] = ("prior",)
    """Stages whose rate falls to 0 along half a cosine; the authors' rises and falls with a period."""

    def __post_init__(self) -> None:
        """Raise ValueError for values outside their range, or that contradict one another."""
        for name in ("horizon", "stride", "latent", "hidden", "encoder_layers", "diffusion_steps"):
            check_range(name, getattr(self, name), 1, math.inf)
        for name in ("ddim_steps", "features", "target_candidates", "candidates", "stored_mib"):
            check_range(name, getattr(self, name), 1, math.inf)
        for name in ("skills_updates", "prior_updates", "values_updates"):
            check_range(name, getattr(self, name), 1, math.inf)
        for name in ("beta", "guidance", "extra_steps", "stored"):
            check_range(name, getattr(self, name), 0, math.inf)
        for name in (
            "std_min",
            "snr_limit",
            "max_norm",
            "critic_scale",
            "lr_skills",
            "lr_prior",
            "lr_values",
        ):
            check_range(name, getattr(self, name), 0, math.inf, open_low=True)
        for name in ("gamma", "priority", "correction"):
            check_range(name, getattr(self, name), 0, 1)
        check_range("tau", self.tau, 0, 1, open_low=True)
        check_range("state_dropout", self.state_dropout, 0, math.nextafter(1, 0))
        check_range("execute", self.execute, 1, self.horizon)
        check_range("ddim_steps", self.ddim_steps, 1, self.diffusion_steps)
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths = {self.widths}: name at least one, each at least 1")
        if self.guidance and not self.state_dropout:
            raise ValueError(f"guidance = {self.guidance} needs state_dropout above 0")
        wrong = [stage for stage in self.stages if stage not in self.offered]
        if wrong or [*self.stages] != sorted(set(self.stages), key=STAGES.index):
            raise ValueError(
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

    def updates_of(self, stage: Stage) -> int:
        """Updates of one stage."""
        return int(getattr(self, f"{stage}_updates"))

    @property
    def updates(self) -> int:
        """Updates of this run."""
        return sum(self.updates_of(stage) for stage in self.order)
