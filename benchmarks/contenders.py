"""Runs the contenders of `throughput.py` that need this project: one process each.

    python benchmarks/contenders.py NAME --threads N    # started and spoken to by throughput.py (turns.py)

Names are the keys of `CONTENDERS`. What a contender imports it imports itself: the race reads the names
alone. Every contender starts from seed 0.
"""

import argparse
import dataclasses
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turns import Gate, Unavailable, answer, claim_output, turns

if TYPE_CHECKING:
    from rlsuite.training.assembly import OnlineRun

TASK = "HalfCheetah-v5"
WARM_UP = 1_000  # env steps before the first update of whole training
SETTLE = 500  # env steps with updates before the first turn: allocators, and compilers, are then done
FOREVER = 10**9  # env steps: no race gets there
ROLLOUT = 2_048  # env steps of all envs that PPO learns from at once; a turn is whole ones
PPO_ENVS = (8, 64)
AGENTS = ("sac", "td3", "dsac_t", "stac")


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """How a contender is run.

    Attributes:
        run: builds, then does what `turns` asks for; takes the number of threads.
        grain: units that belong together: updates between two steps of a delayed actor.
    """

    run: Callable[[int], None]
    grain: int = 1


def update_function(agent: Any, compile_it: bool) -> Callable[[Any], Any]:
    """Return the agent's update, or its compiled form.

    Raises:
        Unavailable: it cannot be compiled here.
    """
    from rlsuite.agents.compiled import compiled
    from rlsuite.errors import ConfigError

    if not compile_it:
        update: Callable[[Any], Any] = agent.update
        return update
    try:
        return compiled(agent)
    except ConfigError as error:
        raise Unavailable(str(error)) from error


def draw(replay: Any) -> Callable[[], Any]:
    """Return what draws the next batch as training does."""
    return lambda: replay.batches(1)[0]


def loop(update: Callable[[Any], Any], sample: Callable[[], Any]) -> None:
    """Answer turns with samples and updates, one each a unit."""
    for _ in range(4):  # both halves of a delayed update, and its compilation
        update(sample())
    for count in turns():
        for _ in range(count):
            update(sample())


def updates(agent_name: str, threads: int, *, compile_it: bool, **fields: Any) -> None:
    """Sample transitions of HalfCheetah's sizes and update one of our agents."""
    from workload import SPACES, filled_replay

    from rlsuite.agents.base import make_generators
    from rlsuite.registry import agent_class

    kind = agent_class(agent_name)
    agent = kind(SPACES, kind.Config(**fields), make_generators(0))
    loop(update_function(agent, compile_it), draw(filled_replay()))


def first_update(agent_name: str, threads: int) -> None:
    """Compile an agent's update: a unit is the first updates of a new process, compiler and all."""
    from workload import SPACES, filled_replay

    from rlsuite.agents.base import make_generators
    from rlsuite.registry import agent_class

    kind = agent_class(agent_name)
    agent, sample = kind(SPACES, kind.Config(), make_generators(0)), draw(filled_replay(1_000))
    update = update_function(agent, True)
    for _ in turns():
        for _ in range(agent.period):  # one graph each
            update(sample())


def skills(stage: str, threads: int, *, compile_it: bool) -> None:
    """Sample windows of PointMaze's sizes and update one stage of LDCQ, preset small."""
    from ldcq_speed import new_agent, preset_config, random_windows

    config = preset_config("small")
    data = random_windows(config, 128)
    agent = new_agent(dataclasses.replace(config, stages=(stage,)))  # type: ignore[arg-type]
    agent.prepare(data)
    update = update_function(agent, compile_it)

    def reprioritised(batch: Any) -> None:
        priority = update(batch).get("priority")
        if priority is not None:
            data.reprioritise(batch["index"], priority)

    loop(reprioritised, data.sample)


def peer_iql(name: str, threads: int) -> None:
    """IQL as a plain single file, or as a loop over TorchRL's loss."""
    import offline_speed

    work = getattr(offline_speed, name)().work
    work(4)
    for count in turns():
        work(count)


def training(agent_name: str, threads: int, *, compile_it: bool = True, seeds: int = 1) -> None:
    """Whole training as `rlsuite train` runs it, without evaluations and checkpoints; a unit is an env step.

    Of every seed: a step of all seeds counts as many units.
    """
    from rlsuite.registry import agent_class
    from rlsuite.runs.config import TrainConfig
    from rlsuite.runs.runfolder import RunFolder
    from rlsuite.training.assembly import build
    from rlsuite.training.online import act_and_learn

    kind = agent_class(agent_name)
    config = TrainConfig(
        env=TASK,
        steps=FOREVER,
        seeds=seeds,
        warmup_steps=WARM_UP,
        eval_every=0,
        eval_episodes=1,
        checkpoint_every=0,
        threads=threads,
        device="cpu",
        compile="auto" if compile_it else "off",
    )
    run = build(kind, kind.Config(), config)
    with (
        tempfile.TemporaryDirectory() as place,
        RunFolder.create(Path(place) / "run", {"train": {"env": TASK}}, {}) as folder,
    ):
        stop = _Turnstile(run, seeds)
        act_and_learn(run, folder, FOREVER, stop, resume=False, loaded=None)  # type: ignore[arg-type]


def training_ppo(num_envs: int, threads: int, *, compile_it: bool) -> None:
    """Whole training of PPO with its default preset but for the envs; a unit is an env step of any env."""
    from rlsuite.agents.ppo import PPO, PPOConfig
    from rlsuite.runs.config import TrainConfig
    from rlsuite.runs.runfolder import RunFolder
    from rlsuite.training.assembly import build
    from rlsuite.training.online import act_and_learn

    config = TrainConfig(
        env=TASK,
        steps=FOREVER,
        num_envs=num_envs,
        warmup_steps=0,
        replay_size=ROLLOUT,
        batch_size=64,
        epochs=10,
        eval_every=0,
        eval_episodes=1,
        checkpoint_every=0,
        threads=threads,
        device="cpu",
        compile="on" if compile_it else "off",
    )
    run = build(PPO, PPOConfig(), config)
    with (
        tempfile.TemporaryDirectory() as place,
        RunFolder.create(Path(place) / "run", {"train": {"env": TASK}}, {}) as folder,
    ):
        stop = _Turnstile(run, 1, 2 * ROLLOUT)
        act_and_learn(run, folder, FOREVER, stop, resume=False, loaded=None)  # type: ignore[arg-type]


def acting(agent_name: str, threads: int) -> None:
    """What training does beside updates, one env: policy, env step, store, sums; a unit is an env step."""
    import torch
    from torchrl.envs.utils import ExplorationType, set_exploration_type

    from rlsuite.registry import agent_class
    from rlsuite.runs.config import TrainConfig
    from rlsuite.training.assembly import build
    from rlsuite.training.online import vector_step

    cls = agent_class(agent_name)
    config = TrainConfig(env=TASK, steps=FOREVER, warmup_steps=WARM_UP, threads=threads, device="cpu")
    run = build(cls, cls.Config(), config)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        for _ in range(WARM_UP + SETTLE):
            vector_step(run, None)
        for count in turns():
            for _ in range(count):
                vector_step(run, None)


def physics(threads: int) -> None:
    """Step the task as Gymnasium has it, with actions drawn beforehand; a unit is an env step."""
    import gymnasium

    env = gymnasium.make(TASK)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(SETTLE)]
    step = 0
    for count in turns():
        for _ in range(count):
            result = env.step(actions[step % SETTLE])
            step += 1
            if result[2] or result[3]:
                env.reset()


class _Turnstile:
    """What the loop takes for its stop flag: asked after every step, it lets the loop wait between turns."""

    def __init__(self, run: "OnlineRun", seeds: int, before: int | None = None) -> None:
        self.run, self.seeds = run, seeds
        self.gate = Gate((WARM_UP + SETTLE if before is None else before) * seeds)

    @property
    def stop(self) -> int | None:
        """None while turns go on."""
        return None if self.gate.passed(self.run.clock.env_steps * self.seeds) else signal.SIGTERM


Product = tuple[int, int, int, int]
"""Batch, rows, inner and columns of one product: members `[b, n, k] @ [b, k, m]`."""


def sac_products(
    observation: int = 17, action: int = 6, width: int = 256, batch: int = 256, members: int = 2
) -> Iterator[Product]:
    """Yield the matrix products of one SAC update with two hidden layers, in their order.

    Forward a layer is `[N, in] @ [in, out]`; backward its weight costs `[out, N] @ [N, in]` and its input
    `[N, out] @ [out, in]`. Observations and recorded actions want no gradient, and the critics' weights none
    in the actor's step.
    """
    actor = (observation, width, width, 2 * action)
    critic = (observation + action, width, width, 1)

    def forward(count: int, widths: tuple[int, ...]) -> Iterator[Product]:
        for inputs, outputs in pairwise(widths):
            yield count, batch, inputs, outputs

    def backward(
        count: int, widths: tuple[int, ...], *, weights: bool, first_input: bool
    ) -> Iterator[Product]:
        for layer in range(len(widths) - 2, -1, -1):
            inputs, outputs = widths[layer], widths[layer + 1]
            if weights:
                yield count, outputs, batch, inputs
            if layer or first_input:
                yield count, batch, outputs, inputs

    yield from forward(1, actor)  # the target's action
    yield from forward(members, critic)  # and its value
    yield from forward(members, critic)  # the critics' loss
    yield from backward(members, critic, weights=True, first_input=False)
    yield from forward(1, actor)  # the actor's loss
    yield from forward(members, critic)
    yield from backward(members, critic, weights=False, first_input=True)
    yield from backward(1, actor, weights=True, first_input=False)


def limit(threads: int) -> None:
    """The products of a SAC update and nothing else, into memory that is there: no update can be faster."""
    import torch

    ready = []
    for count, rows, inner, outputs in sac_products():
        stacked = (count,) if count > 1 else ()
        left = torch.randn(*stacked, rows, inner)
        right = torch.randn(*stacked, inner, outputs)
        ready.append((torch.bmm if stacked else torch.mm, left, right, torch.empty(*stacked, rows, outputs)))
    for count in turns():
        for _ in range(count):
            for product, left, right, out in ready:
                product(left, right, out=out)


def _agents() -> Mapping[str, Way]:
    """Return every agent of the update race, eager and compiled; grains cover delayed actors."""
    ways = {}
    for name in AGENTS:
        for compile_it in (False, True):
            run = partial(updates, name, compile_it=compile_it)
            ways[f"{name} compiled" if compile_it else name] = Way(run, grain=2)
    return ways


CONTENDERS: Mapping[str, Way] = {
    "products alone": Way(limit),
    **_agents(),
    "plain iql": Way(partial(peer_iql, "plain_contender")),
    "torchrl iql": Way(partial(peer_iql, "torchrl_contender")),
    "iql": Way(partial(updates, "iql", compile_it=False, hidden=(256, 256))),
    "iql compiled": Way(partial(updates, "iql", compile_it=True, hidden=(256, 256))),
    "iql corl": Way(partial(updates, "iql", compile_it=False, hidden=(256, 256), order="corl")),
    "iql corl compiled": Way(partial(updates, "iql", compile_it=True, hidden=(256, 256), order="corl")),
    **{
        f"ldcq {stage}{' compiled' if compile_it else ''}": Way(partial(skills, stage, compile_it=compile_it))
        for stage in ("skills", "prior", "values")
        for compile_it in (False, True)
    },
    "training sac": Way(partial(training, "sac", compile_it=False)),
    "training sac compiled": Way(partial(training, "sac", compile_it=True)),
    **{
        f"training sac, {seeds} seeds{' compiled' if compile_it else ''}": Way(
            partial(training, "sac", compile_it=compile_it, seeds=seeds), grain=seeds
        )
        for seeds in (4, 8)
        for compile_it in (False, True)
    },
    "acting sac": Way(partial(acting, "sac")),
    "gymnasium steps": Way(physics),
    **{f"first update {name}": Way(partial(first_update, name)) for name in (*AGENTS, "iql")},
    **{
        f"training ppo, {count} envs{' compiled' if compile_it else ''}": Way(
            partial(training_ppo, count, compile_it=compile_it), grain=ROLLOUT
        )
        for count in PPO_ENVS
        for compile_it in (False, True)
    },
}


def main() -> None:
    """Run one contender until its input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--threads", type=int, default=1)
    line = parser.parse_args()
    claim_output()
    import torch

    torch.set_num_threads(line.threads)
    try:
        CONTENDERS[line.name].run(line.threads)
    except Unavailable as error:
        answer({"unavailable": str(error)})


if __name__ == "__main__":
    main()
