"""LEAST: end episodes early that have become uninformative (Liu et al. 2025, arXiv 2506.13672).

At step i of an episode its value estimate Q_i is compared to the median of the latest episodes at the same
step, times a weight below one where the critic still learns much there (a large TD error) and near one where
it does not. An episode that is stopped is truncated, never terminated: its last transition bootstraps from
its next observation.

Most stops come shortly before an episode would have ended anyway, and each takes a termination out of the
replay: without any the critic no longer learns what failing costs. So a share of the episodes that the rule
would stop runs on to its own end (`run_on`, our choice), and tells how many would have ended soon.

    stop = least.stop(q, squared_td_error, terminated, truncated)  # once per env step, one number per env

The paper's text leaves several rules open; what is our choice is said where it stands. Needs torch alone.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlsuite.blocks.noise import Source, uniform
from rlsuite.errors import ConfigError
from rlsuite.plugins.base import Plugin

logger = logging.getLogger(__name__)

ENTROPY_BINS = 20  # of the histogram of values, between their extremes; our choice
NOISE_SLOPE = 10.0  # of the sigmoid in the share of early stops; our choice
MIN_ERROR = 1e-8  # squared TD error below which the weight grows no more
RATE_EPISODES = 100  # episodes that the stop rate looks back on
SOON = 30  # env steps after a stop that was not made within which an end counts as soon; our choice
ALARM = 0.9  # share of episodes that would be stopped above which hardly any is finished
ALARM_EPISODES = 20  # fewer are no rate


@dataclass(frozen=True, slots=True, kw_only=True)
class LEASTConfig:
    """Fields of the plug-in `least`."""

    episodes: int = 250
    """Latest episodes that thresholds are medians of, at first."""
    min_episodes: int = 50
    """Bound of the window's adaptation."""
    max_episodes: int = 500
    """Bound of the window's adaptation."""
    resize: int = 50
    """Episodes by which the window grows or shrinks."""
    resize_every: int = 10_000
    """Env steps between such adaptations."""
    entropy_margin: float = 0.05
    """Relative change of the values' entropy that adapts the window."""
    start: float = 0.15
    """Share of the run before the first stop; 0.1 to 0.2 on MuJoCo in the paper."""
    run_on: float = 0.25
    """Probability that an episode runs on to its own end where it would be stopped, so that the replay keeps
    terminations; 0 stops always (the paper), 1 never (to see what would be stopped)."""
    min_index: int = 10
    """Steps of every episode that are never stopped."""
    min_values: int = 20
    """Episodes that must have reached a step before its median counts."""
    omega: float = 1.0
    """Factor on the weight median error / error."""
    clip: bool = True
    """Keep the weight within the two bounds below; the raw ratio stops nearly every episode at once."""
    omega_low: float = 0.3
    """Smallest weight."""
    omega_high: float = 0.6
    """Largest weight."""
    noise: bool = True
    """Act with more noise where episodes are often stopped early."""
    sigma: float = 0.1
    """The agent's own exploration noise: what the behaviour's std is a multiple of."""
    sigma_max: float = 0.3
    """Noise where every episode is stopped early; 0.3 for TD3, 0.2 for SAC."""
    noise_episodes: int = 20
    """Latest episodes whose early stops decide the noise."""
    early: float = 0.2
    """Share of the time limit before which a stop is early."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        if not 1 <= self.min_episodes <= self.episodes <= self.max_episodes:
            raise ConfigError(
                f"min_episodes, episodes, max_episodes = {self.min_episodes}, {self.episodes}, "
                f"{self.max_episodes}: must be at least 1 and in this order"
            )
        if not 0 < self.omega_low <= self.omega_high:
            raise ConfigError(
                f"omega_low, omega_high = {self.omega_low}, {self.omega_high}: must be in order"
            )
        if not 0 < self.sigma <= self.sigma_max:
            raise ConfigError(f"sigma, sigma_max = {self.sigma}, {self.sigma_max}: must be in order, above 0")
        for name in ("resize_every", "noise_episodes", "min_values"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("start", "early", "run_on"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be in [0, 1]")


def weight(median_error: Tensor, error: Tensor, config: LEASTConfig) -> Tensor:
    """Weight of the threshold: below one where the error is large, so that there is still much to learn."""
    ratio = config.omega * median_error / error.clamp(min=MIN_ERROR)
    return ratio.clamp(config.omega_low, config.omega_high) if config.clip else ratio


def threshold(median_value: Tensor, omega: Tensor) -> Tensor:
    """Value below which an episode is stopped: omega times the median, or over omega where it is negative."""
    return torch.where(median_value >= 0, omega * median_value, median_value / omega)


def median(values: Tensor, dim: int) -> Tensor:
    """Median of the numbers that are not NaN, the mean of the middle two; NaN where there is none."""
    return torch.nanquantile(values, 0.5, dim=dim)  # torch.nanmedian takes the lower of the two


def entropy(values: Tensor, bins: int = ENTROPY_BINS) -> Tensor:
    """Shannon entropy, in nats, of a histogram of the finite `values` between their extremes."""
    finite = values[values.isfinite()]
    if not finite.numel():
        return values.new_zeros(())
    low, high = finite.aminmax()
    place = ((finite - low) / (high - low).clamp(min=1e-12) * bins).long().clamp(max=bins - 1)
    share = torch.bincount(place, minlength=bins).to(values.dtype) / finite.numel()
    return torch.special.entr(share).sum()


def noise_level(early: Tensor, config: LEASTConfig) -> Tensor:
    """Exploration noise for a share of early stops: a sigmoid from `sigma` to `sigma_max`."""
    rise = torch.sigmoid(NOISE_SLOPE * (early - 0.5))
    return config.sigma + (config.sigma_max - config.sigma) * rise


class LEAST(nn.Module):
    """The stopping rule for any loop: numbers of one env step in, a mask of stopped envs out.

    All state is in buffers: `state_dict` and `load_state_dict` make a run resumable, together with the state
    of `generator`, which is its owner's to save. Groups (seeds) have windows, thresholds and draws of their
    own. Waits for the device once per env step, for whether an episode ended; where one did, for the envs
    concerned, each one's count of episodes, and the alarm; and at each adaptation of the window.

    Args:
        num_envs: envs stepped together, all groups.
        max_episode_steps: time limit of an episode.
        run_steps: env steps of the whole run, of each group.
        config: fields.
        groups: equal groups of envs, one after the other, that know nothing of each other.
        device: of the buffers.
        generator: decides which episodes run on: one, one for each group, or None for torch's global stream.

    Raises:
        ConfigError: the envs do not make equal groups, or there are other than one or `groups` generators.
    """

    values: Tensor
    errors: Tensor
    running: Tensor
    index: Tensor
    pushed: Tensor
    window: Tensor
    cut: Tensor
    early: Tensor
    steps: Tensor
    entropy_sum: Tensor
    entropy_count: Tensor
    stops: Tensor
    warned: Tensor
    start_step: Tensor
    runs_on: Tensor
    would_stop: Tensor
    ran_on: Tensor
    soon: Tensor

    def __init__(
        self,
        num_envs: int,
        max_episode_steps: int,
        run_steps: int,
        config: LEASTConfig | None = None,
        *,
        groups: int = 1,
        device: torch.device | str = "cpu",
        generator: Source = None,
    ) -> None:
        super().__init__()
        if num_envs % groups or num_envs < 1:
            raise ConfigError(f"{num_envs} envs do not make {groups} equal groups")
        if isinstance(generator, tuple) and len(generator) != groups:
            raise ConfigError(f"{len(generator)} random streams for {groups} groups: give one, or one each")
        self.config = config = LEASTConfig() if config is None else config
        self.limit, self.groups, self.each = max_episode_steps, groups, num_envs // groups
        self.generator = generator
        nan = math.nan
        shape = (groups, config.max_episodes, max_episode_steps)
        draws = uniform(torch.empty(groups, self.each, device=device), generator)
        buffers = {
            "values": torch.full(shape, nan),  # latest episodes, a ring
            "errors": torch.full(shape, nan),
            "running": torch.full((2, groups, self.each, max_episode_steps), nan),  # value, error
            "index": torch.zeros(groups, self.each, dtype=torch.int64),
            "pushed": torch.zeros(groups, dtype=torch.int64),
            "window": torch.full((groups,), config.episodes),
            "cut": torch.full((groups, RATE_EPISODES), nan),
            "early": torch.full((groups, config.noise_episodes), nan),
            "steps": torch.zeros((), dtype=torch.int64),
            "entropy_sum": torch.zeros(groups),
            "entropy_count": torch.zeros((), dtype=torch.int64),
            "stops": torch.zeros(groups, dtype=torch.int64),
            "warned": torch.zeros((), dtype=torch.bool),
            # In the state: a run that is made longer afterwards keeps when it began to stop.
            "start_step": torch.tensor(round(config.start * run_steps)),
            "runs_on": draws < config.run_on,  # whether the running episode would, drawn as it begins
            "would_stop": torch.full((groups, self.each), -1),  # index at which it did first, or -1
            "ran_on": torch.zeros(groups, dtype=torch.int64),  # episodes that did
            "soon": torch.full((groups, RATE_EPISODES), nan),  # whether these ended soon, a ring
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.to(device))
        self._steps = 0  # the host's copies of `steps` and `start_step`
        self._start_step = int(buffers["start_step"])

    @torch.no_grad()
    def stop(self, q: Tensor, error: Tensor, terminated: Tensor, truncated: Tensor) -> Tensor:
        """Record one env step of every env and say which episodes end here by our will.

        Args:
            q: value of the observation and action, as the actor maximises it, `[num_envs]`.
            error: squared TD error of the transition, `[num_envs]`.
            terminated: the episode ended by itself, `[num_envs]`.
            truncated: a time limit ended it, `[num_envs]`.

        Returns:
            mask `[num_envs]`: envs to be truncated and reset; never one that terminated.
        """
        shape = (self.groups, self.each)
        q, error = q.float().reshape(shape), error.float().reshape(shape)
        terminated, truncated = terminated.reshape(shape), truncated.reshape(shape)
        inside = self.index < self.limit  # an env without the limit it was said to have is left alone beyond
        column = self.index.clamp(max=self.limit - 1).unsqueeze(-1)
        for running, number in zip(self.running, (q, error), strict=True):
            kept = running.gather(-1, column)
            running.scatter_(-1, column, torch.where(inside.unsqueeze(-1), number.unsqueeze(-1), kept))
        if self._steps < self._start_step:
            stop = torch.zeros_like(terminated)
        else:
            below = self._below(q, error) & inside & ~terminated & ~truncated
            self.would_stop = torch.where(below & (self.would_stop < 0), self.index, self.would_stop)
            stop = below & ~self.runs_on
        self._count(self.each)
        ended = terminated | truncated | stop
        if bool(ended.any()):
            self._close(ended, stop)
        self.index = torch.where(ended, 0, self.index + 1)
        if self._steps // self.config.resize_every != (self._steps - self.each) // self.config.resize_every:
            self._adapt()
        return stop.flatten()

    def _below(self, q: Tensor, error: Tensor) -> Tensor:
        """Return whether values are below the threshold of their step, `[S, B]`."""
        config = self.config
        places = torch.arange(config.max_episodes, device=q.device)
        age = (self.pushed.unsqueeze(-1) - 1 - places) % config.max_episodes
        columns = self.index.clamp(max=self.limit - 1).unsqueeze(1).expand(-1, config.max_episodes, -1)
        old = (age >= self.window.unsqueeze(-1)).unsqueeze(-1)
        values = self.values.gather(-1, columns).masked_fill(old, math.nan)
        errors = self.errors.gather(-1, columns).masked_fill(old, math.nan)
        enough = values.isfinite().sum(1) >= config.min_values
        limit = threshold(median(values, 1), weight(median(errors, 1), error, config))
        return (q < limit) & enough & (self.index >= config.min_index)

    def _close(self, ended: Tensor, stop: Tensor) -> None:
        """Move ended episodes into the window, note how they ended, and draw whether the next ones run on."""
        for group, env in ended.nonzero().tolist():
            count = int(self.pushed[group])
            place = count % self.config.max_episodes
            self.values[group, place], self.errors[group, place] = self.running[:, group, env]
            early = stop[group, env] & (self.index[group, env] < self.config.early * self.limit)
            self.cut[group, count % RATE_EPISODES] = stop[group, env].float()
            self.early[group, count % self.config.noise_episodes] = early.float()
            self.pushed[group] += 1
            since = self.index[group, env] - self.would_stop[group, env]
            if bool(self.runs_on[group, env]) and int(self.would_stop[group, env]) >= 0:
                self.soon[group, int(self.ran_on[group]) % RATE_EPISODES] = (since <= SOON).float()
                self.ran_on[group] += 1
            self._begin(group, env)
        self.stops += stop.sum(-1)
        often = self.stop_rate > ALARM * (1 - self.config.run_on)
        if not bool(self.warned) and bool((often & (self.pushed >= ALARM_EPISODES)).any()):
            self.warned.fill_(True)
            logger.warning(
                "early stopping would end more than %.0f %% of the episodes: hardly any is finished. Later "
                "--least.start, smaller --least.omega-high or larger --least.min-index stop fewer.",
                100 * ALARM,
            )

    def _begin(self, group: int, env: int) -> None:
        """Forget an env's episode, and draw from its group's stream alone whether the next one runs on."""
        self.running[:, group, env] = math.nan
        self.would_stop[group, env] = -1
        stream = self.generator[group] if isinstance(self.generator, tuple) else self.generator
        draw = torch.rand((), generator=stream, device=self.index.device)
        self.runs_on[group, env] = draw < self.config.run_on

    def _adapt(self) -> None:
        """Widen the window where values are more diverse than usual, narrow it where less (our choice)."""
        config = self.config
        places = torch.arange(config.max_episodes, device=self.values.device)
        for group in range(self.groups):
            age = (self.pushed[group] - 1 - places) % config.max_episodes
            now = entropy(self.values[group, age < self.window[group]])
            if int(self.entropy_count):
                usual = self.entropy_sum[group] / self.entropy_count
                grows = (now > (1 + config.entropy_margin) * usual).long()
                shrinks = (now < (1 - config.entropy_margin) * usual).long()
                self.window[group] += config.resize * (grows - shrinks)
            self.entropy_sum[group] += now
        self.window.clamp_(config.min_episodes, config.max_episodes)
        self.entropy_count += 1

    def _count(self, steps: int) -> None:
        self._steps += steps
        self.steps.fill_(self._steps)

    @torch.no_grad()
    def forget(self, envs: Tensor | None = None) -> None:
        """Drop the running episodes of `envs` (mask `[num_envs]`, None: all), reset from outside."""
        mask = torch.ones_like(self.index, dtype=torch.bool) if envs is None else envs.view(self.index.shape)
        for group, env in (mask & (self.index > 0)).nonzero().tolist():
            self._begin(group, env)
        self.index = torch.where(mask, 0, self.index)

    @property
    def stop_rate(self) -> Tensor:
        """Share of the latest 100 episodes that were stopped, `[groups]`; 0 before the first."""
        return self.cut.nanmean(-1).nan_to_num(0.0)

    @property
    def ended_soon(self) -> Tensor:
        """Share of the latest 100 episodes that ran on and ended within 30 steps of where they would have
        been stopped, `[groups]`; NaN before the first."""
        return self.soon.nanmean(-1)

    @property
    def noise(self) -> Tensor:
        """Exploration noise by the share of early stops among the latest episodes, `[groups]`."""
        return noise_level(self.early.nanmean(-1).nan_to_num(0.0), self.config)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take back what `state_dict` gave.

        Raises:
            ConfigError: it lacks entries, as states of versions without `run_on` do, or has others.
        """
        if strict and (other := set(state) ^ set(self.state_dict())):
            raise ConfigError(
                f"a state of early stopping with other entries ({', '.join(sorted(other))}): it is of "
                "another version; begin a new run"
            )
        keys = super().load_state_dict(state, strict, assign)
        self._steps, self._start_step = int(self.steps), int(self.start_step)
        return keys


class LEASTPlugin(Plugin):
    """Stops episodes of our agents early, by their own critics; evaluations are never stopped.

    The value is what `agent.values` calls `q` (the smaller of twins), the error its squared TD error. What
    these draw comes from the stream "plugin", never from the agent's own.
    """

    Config: ClassVar[type] = LEASTConfig

    def __init__(self, config: LEASTConfig, agent: Any, source: Source) -> None:
        super().__init__(config, agent, source)
        self.seeds = agent.lead[0] if agent.lead else 1
        self.least: LEAST | None = None  # until there are envs
        policy = agent.policy.module
        if config.noise and self.seeds > 1:
            policy.exploration_scale = policy.exploration_scale.new_ones(self.seeds)

    def begin(self, num_envs: int, max_episode_steps: int | None, env_steps: int) -> None:
        """Make the windows for these envs; ConfigError without a time limit."""
        if max_episode_steps is None:
            raise ConfigError(
                "plug-in least compares equal steps of episodes and needs a time limit: give the environment "
                "one, e.g. --env-option max_episode_steps=1000"
            )
        device = self.agent.policy.module.exploration_scale.device
        self.least = LEAST(
            num_envs,
            max_episode_steps,
            env_steps,
            self.config,
            groups=self.seeds,
            device=device,
            generator=self.source,
        )

    @torch.no_grad()
    def stop_mask(self, step: Any) -> Tensor | None:
        """Value the envs' newest step and say which episodes end here."""
        assert self.least is not None, "the loop calls begin first"
        batch = step.reshape(self.seeds, -1) if self.seeds > 1 else step
        with _drawing(self.agent, self.source):
            try:
                values = self.agent.values(batch)
            except NotImplementedError as error:
                raise ConfigError(f"plug-in least needs critics: {error}") from error
        next_td = step.get("next")
        flags = (next_td.get(key).flatten() for key in ("terminated", "truncated"))
        mask = self.least.stop(values.get("q"), values.get("td_error").square(), *flags)
        if self.config.noise:
            scale = self.agent.policy.module.exploration_scale
            scale.copy_((self.least.noise / self.config.sigma).view(scale.shape))
        return mask

    def numbers(self) -> list[dict[str, float]]:
        """Return stop rate, stops so far, window and noise of every seed.

        Beside them, as soon as an episode has run on, the share of these that ended within 30 steps.
        """
        if self.least is None:
            return []
        least = self.least
        columns = [least.stop_rate, least.stops.float(), least.window.float(), least.noise, least.ended_soon]
        names = ("stop_rate", "stops", "window", "noise", "ended_within_30")
        return [
            {f"least/{name}": value for name, value in zip(names, seed, strict=True) if not math.isnan(value)}
            for seed in torch.stack(columns, -1).tolist()
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the windows; empty before there are envs."""
        return {} if self.least is None else dict(self.least.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        if self.least is not None:
            self.least.load_state_dict(state)


@contextmanager
def _drawing(agent: Any, source: Source) -> Iterator[None]:
    """Let the agent draw from `source` instead of its stream for updates."""
    for_updates = agent.generators["learn"]
    agent.generators["learn"] = source
    try:
        yield
    finally:
        agent.generators["learn"] = for_updates
