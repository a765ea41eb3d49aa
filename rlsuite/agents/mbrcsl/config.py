"""The hyper-parameters of MBRCSL."""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlsuite.agents.optimizers import OptimizerConfig
from rlsuite.blocks.diffusion import ScheduleKind
from rlsuite.blocks.mlp import Activation
from rlsuite.bounds import (
    AtLeastOne,
    Bounds,
    PolyakRate,
    Positive,
    UnitInterval,
    Widths,
    check_bounds,
)
from rlsuite.errors import ConfigError

Stage = Literal["dynamics", "behaviour", "clone"]
STAGES: tuple[Stage, ...] = ("dynamics", "behaviour", "clone")


@dataclass(frozen=True, slots=True, kw_only=True)
class MBRCSLConfig(OptimizerConfig):
    """Hyper-parameters of MBRCSL; the defaults are those of the authors' code for PointMaze."""

    stages: tuple[Stage, ...] = ()
    """Stages of this run; empty: all."""
    normalize_observations: bool = True
    """Show behaviour and clone observations standardised by mean and std of the data set; our choice."""

    dynamics_hidden: Widths = (200, 200, 200, 200)
    """Widths of the hidden layers of each model of the dynamics."""
    members: AtLeastOne = 7
    """Models of the dynamics."""
    elites: AtLeastOne = 5
    """Models that imagine: those of least error on held-out rows."""
    dynamics_decay: Annotated[tuple[float, ...], Bounds(0)] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    """Weight decay of the models' layers; the last one holds for all that follow."""
    held_out: UnitInterval = 0.2
    """Share of the rows that no model learns from."""
    held_out_rows: AtLeastOne = 1000
    """Held-out rows, at most."""
    look_every: AtLeastOne = 500
    """Updates between two looks at the held-out rows; the best weights of each model are kept."""
    standardise_targets: bool = False
    """Models predict standardised changes and rewards; the authors' see them as they are."""

    widths: Widths = (256, 128, 64)
    """Widths of the behaviour policy's denoiser; our choice, the authors' is a U-Net up to 1,024."""
    features: AtLeastOne = 256
    """Length of its embeddings of observation and time."""
    diffusion_steps: AtLeastOne = 10
    """Steps of the diffusion."""
    schedule: ScheduleKind = "cosine"
    """How its variances grow."""
    snr_limit: Positive = 5.0
    """Limit of the signal-to-noise ratio as a weight of its loss (Min-SNR); our choice."""
    ema: PolyakRate = 0.005
    """Rate of the average of its weights that acts; our choice, the authors' falls with the updates."""

    horizon: AtLeastOne = 200
    """Env steps of a roll-out."""
    imagined: AtLeastOne = 200
    """Roll-outs that are imagined at a time."""
    rounds: AtLeastOne = 1000
    """Times, at most."""
    kept: AtLeastOne = 100
    """Roll-outs that the clone learns from."""
    bar: UnitInterval = 1.0
    """Quantile of the recorded returns that a kept roll-out is above; 1 is the best of them."""

    leaves_data: bool = False
    """Keep roll-outs that leave the range of the recorded observations, and rewards as the models draw them,
    as the authors' code does. Our default drops the first and cuts the second to the recorded range."""

    hidden: Widths = (1024, 1024)
    """Widths of the clone's hidden layers."""
    activation: Activation = "relu"
    """Activation of the clone's hidden layers."""
    weight_decay: Annotated[float, Bounds(0)] = 0.1
    """Of the clone, decoupled from its gradients (AdamW's)."""

    dynamics_updates: AtLeastOne = 40_000
    """Updates of the stage dynamics; the authors stop it by the held-out rows."""
    behaviour_updates: AtLeastOne = 39_000
    """Updates of the stage behaviour; 50 epochs of the authors' data."""
    clone_updates: AtLeastOne = 7_800
    """Updates of the stage clone; 100 epochs of the kept roll-outs."""
    lr_dynamics: Positive = 1e-3
    """Learning rate of the models."""
    lr_behaviour: Positive = 1e-4
    """Learning rate of the behaviour policy."""
    lr_clone: Positive = 5e-5
    """Learning rate of the clone."""
    decay: tuple[Stage, ...] = ("behaviour",)
    """Stages whose rate falls to 0 along half a cosine."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range, or that contradict one another."""
        check_bounds(self)
        if self.elites > self.members:
            raise ConfigError(f"elites = {self.elites}: must be at most members = {self.members}")
        for name in ("widths", "dynamics_decay"):
            if not getattr(self, name):
                raise ConfigError(f"{name} = (): name at least one")
        offered = ",".join(STAGES)
        for name in ("stages", "decay"):
            given = getattr(self, name)
            if [*given] != sorted(set(given), key=STAGES.index):
                raise ConfigError(f"{name} = {','.join(given)}: some of {offered}, in this order, once")

    @property
    def order(self) -> tuple[Stage, ...]:
        """The stages of this run."""
        return self.stages or STAGES

    def updates_of(self, stage: Stage) -> int:
        """Updates of one stage."""
        return {
            "dynamics": self.dynamics_updates,
            "behaviour": self.behaviour_updates,
            "clone": self.clone_updates,
        }[stage]

    @property
    def updates(self) -> int:
        """Updates of this run."""
        return sum(self.updates_of(stage) for stage in self.order)
