"""Callbacks: code of the user's own beside a run, told of its start, log lines, evaluations, saves and end.

A callback looks on and may ask the run to end; it changes nothing of what is learnt. What looks into single
updates or ends episodes is a plug-in (`rlsuite.plugins.base`).
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, DataError
from rlsuite.targets import load_target
from rlsuite.training.evaluate import chosen_stocks, evaluate, frame_of

if TYPE_CHECKING:
    from rlsuite.agents.base import Agent
    from rlsuite.envs.base import VectorEnv
    from rlsuite.runs.config import LearnConfig
    from rlsuite.training.assembly import Run
    from rlsuite.training.loop import TrainResult
    from rlsuite.training.recorder import Recorder

VIDEO_KEY = "eval/video"


@dataclass(frozen=True)
class Start:
    """What `Callback.on_start` is told.

    Attributes:
        folder: the run folder.
        config: the run's fields.
        step: env steps done already (updates offline); 0 in a new run.
        goal: env steps at which it ends.
    """

    folder: Path
    config: "LearnConfig"
    step: int
    goal: int
    _run: "Run" = field(repr=False)

    @property
    def agent(self) -> "Agent":
        """The agent, of all seeds."""
        return self._run.agent

    def check_film(self) -> None:
        """Raise ConfigError where no film can be made: no video package, no pictures of this environment."""
        try:
            import imageio.v2  # noqa: F401
        except ImportError as error:
            raise ConfigError('videos need imageio: pip install "rlsuite[video]"') from error
        env = film_env(self._run)
        try:
            env.reset()
            frame_of(env, 0)
        finally:
            env.close()


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, and the agent that was evaluated.

    With `eval_beside` training has gone on meanwhile: the numbers are of `step`, while `policy`, `act` and
    `film` are of the agent as it is when this is told.

    Attributes:
        step, updates: where the run is.
        number: 1 for the first evaluation of the run.
        metrics: what was measured, `eval/return_mean` and others, for every seed.
    """

    step: int
    updates: int
    number: int
    metrics: tuple[Mapping[str, float], ...]
    _run: "Run" = field(repr=False)
    _recorder: "Recorder" = field(repr=False)

    @property
    def return_mean(self) -> float:
        """The mean return, over episodes and seeds."""
        return sum(line["eval/return_mean"] for line in self.metrics) / len(self.metrics)

    @property
    def policy(self) -> TensorDictModuleBase:
        """The TorchRL policy, observations `[N, O]` to actions in [-1, 1]; of S seeds in S equal groups."""
        return self._run.policy

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Return evaluation actions `[N, A]`, float32, in the environment's units.

        Args:
            observation: vectors `[N, O]`; with S seeds N is a multiple of S, and each has its group.
        """
        rows = torch.as_tensor(np.asarray(observation), dtype=torch.float32, device=self._run.device)
        td = self._run.policy(TensorDict({"observation": rows}, [len(rows)]))
        env, action = self._run.eval_env, td.get("action").double().cpu().numpy()
        return (np.array(env.middle) + np.array(env.half_range) * action).astype(np.float32)

    def film(self, path: Path, *, seed_index: int = 0) -> Path:
        """Play the first episode again, film it, hand it to the loggers that take one; return the file.

        Args:
            path: the mp4 file; its folder is made.
            seed_index: which agent of a run with several seeds.

        Raises:
            ConfigError: no film can be made.
        """
        from rlsuite.training.assembly import env_seeds

        run = self._run
        env = film_env(run)
        try:
            before = (self.number - 1) * run.config.eval_episodes
            firsts = env_seeds([seed + before for seed in run.streams.seeds("eval")], 1)
            envs, begin = range(seed_index, seed_index + 1), chosen_stocks(run.agent, env)
            evaluate(run.policy, env, seeds=firsts, video=path, video_envs=envs, begin=begin)
        finally:
            env.close()
        self._recorder.video(self.step, VIDEO_KEY, path)
        return path


class Callback:
    """Base of all callbacks: does nothing.

    Called in the process of the run, in the order in which callbacks were given. An exception ends the run,
    whose newest checkpoint stays.
    """

    def on_start(self, start: Start) -> None:
        """See the run begin, or go on; `load_state_dict` was called before."""

    def on_log(self, line: Mapping[str, float]) -> None:
        """See a line of `metrics.jsonl`, of one seed, less what a clock measures: step, updates, metrics."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """See an evaluation, with the policy; what is drawn here moves none of the run's random streams."""

    def on_checkpoint(self, path: Path) -> None:
        """See a checkpoint that was written.

        It holds the state of before this call; a run that goes on from it is called again. Signals and the
        end of a run save, too.
        """

    def on_end(self, result: "TrainResult") -> None:
        """See the run end, after its last checkpoint: finished, stopped by a callback, or interrupted."""

    def stop(self) -> bool | str:
        """Return whether the run should end now, or why; asked after every line and at the start."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes while training: tensors and JSON values by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class Callbacks:
    """The callbacks of one run, as its session calls them."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        """Name each by its class; those of one class are counted.

        Raises:
            ConfigError: something else than a callback.
        """
        self.named: dict[str, Callback] = {}
        self._begun = False
        self._absent: tuple[dict[str, Tensor], dict[str, Any]] = ({}, {})
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise ConfigError(f"{callback!r:.80} is no callback: derive its class from rlsuite.Callback")
            name = type(callback).__name__
            count = sum(type(other) is type(callback) for other in self.named.values())
            self.named[f"{name}-{count + 1}" if count else name] = callback

    def start(self, start: Start, saved: Path | None) -> None:
        """Tell of the start, once, and of the checkpoint that the run goes on from."""
        if self._begun:  # recorded data, then envs: one run
            return
        self._begun = True
        for callback in self.named.values():
            callback.on_start(start)
        if saved is not None:
            self.saved(saved)

    def log(self, line: Mapping[str, float]) -> None:
        """Tell of a line."""
        for callback in self.named.values():
            callback.on_log(line)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Tell of an evaluation; the random streams are put back to where they were."""
        if not self.named:
            return
        streams = evaluation._run.streams
        before = streams.state_dict()
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            for callback in self.named.values():
                callback.on_evaluation(evaluation)
        streams.load_state_dict(before)

    def saved(self, path: Path) -> None:
        """Tell of a checkpoint."""
        for callback in self.named.values():
            callback.on_checkpoint(path)

    def end(self, result: "TrainResult") -> None:
        """Tell of the end."""
        for callback in self.named.values():
            callback.on_end(result)

    def reason(self) -> str:
        """Return who asks the run to end, and why; "" for nobody."""
        for name, callback in self.named.items():
            if answer := callback.stop():
                return f"{name}: {answer}" if isinstance(answer, str) else name
        return ""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values of all states, those of callbacks that were not given again, too."""
        tensors, values = dict(self._absent[0]), dict(self._absent[1])
        for name, callback in self.named.items():
            state = callback.state_dict()
            tensors |= {f"{name}/{key}": value for key, value in state.items() if isinstance(value, Tensor)}
            values[name] = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        return tensors, values

    def load(self, tensors: Mapping[str, Tensor], values: Any) -> list[str]:
        """Put saved states into the callbacks; return the names of those that are not there.

        Raises:
            DataError: malformed.
        """
        if not isinstance(values, Mapping) or not all(
            isinstance(state, Mapping) for state in values.values()
        ):
            raise DataError(f"the saved states of callbacks are malformed: {values!r:.40}")
        absent = [name for name in values if name not in self.named]
        self._absent = (
            {key: tensor for key, tensor in tensors.items() if key.partition("/")[0] in absent},
            {name: values[name] for name in absent},
        )
        for name, callback in self.named.items():
            if name in values:
                prefix = f"{name}/"
                own_tensors = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
                callback.load_state_dict({**values[name], **own_tensors})
        return absent


@dataclass(slots=True)
class Hooks:
    """What a caller hangs on a run; nothing of it changes what is learnt.

    Attributes:
        callbacks: told of what happens.
        console: False shows no progress, True a bar, None what fits the terminal.
        pause: env steps at which the run saves and ends as interrupted.
        trace: handed the run and the metrics of every update.
    """

    callbacks: Callbacks = field(default_factory=Callbacks)
    console: bool | None = None
    pause: int | None = None
    trace: "Callable[[Run, Mapping[str, Tensor]], None] | None" = None


def load_callbacks(targets: Sequence[str]) -> list[Callback]:
    """Make callbacks from MODULE:CLASS, or MODULE:CLASS,KEY=VALUE,... with values as in TOML.

    Raises:
        ConfigError: no such class, not a callback, or arguments that it does not take.
    """
    made = []
    for text in targets:
        target, _, rest = text.partition(",")
        cls = load_target(target, "--callbacks")
        if not (isinstance(cls, type) and issubclass(cls, Callback)):
            raise ConfigError(f"--callbacks {target}: derive the class from rlsuite.Callback")
        try:
            made.append(cls(**tomllib.loads(f"values = {{{rest}}}")["values"]))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"--callbacks {text}: write MODULE:CLASS,KEY=VALUE with values as in TOML, e.g. "
                "rlsuite:StopWhen,at_least=-200"
            ) from error
        except TypeError as error:
            raise ConfigError(f"--callbacks {text}: {error}") from error
    return made


def film_env(run: "Run") -> "VectorEnv":
    """Return an environment that has pictures, of one env for every seed."""
    from rlsuite.training.assembly import eval_engine

    config = run.config
    return make_env(
        run.eval_env.env_id,
        len(run.seeds),
        engine=eval_engine(config.engine),
        device=run.device,
        render=True,
        observation_keys=config.observation_keys or None,
        options=config.env_options,
        legacy_margin=config.legacy_margin,
    )
