"""Updates in one launch: admitted only when they equal eager ones; few launches stand beside them."""

import json
import logging
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import whole_runs as runs
from tensordict import TensorDict
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent.parent / "agents"))
from helpers import NAMES as AGENTS
from helpers import SPACES, small_agent

from rlsuite.agents.base import make_generators
from rlsuite.registry import agent_class
from rlsuite.replay.batch import columns_of
from rlsuite.replay.uniform import UniformReplay
from rlsuite.training import learning, state, updates
from rlsuite.training.assembly import Clock
from rlsuite.training.callbacks import Hooks
from rlsuite.training.graphs import GraphedUpdates, chain_of
from rlsuite.training.guard import LearnerGuard
from rlsuite.training.updates import EAGER, Updates

# Without those that learn from columns which a ring of online transitions lacks.
NAMES = [name for name in AGENTS if not any(agent_class(name).columns(agent_class(name).Config()))]
FREE = {  # operations that launch nothing
    "view", "_unsafe_view", "reshape", "select", "slice", "split", "split_with_sizes", "unbind", "unsqueeze",
    "squeeze", "expand", "t", "transpose", "permute", "detach", "alias", "as_strided", "empty", "empty_like",
    "new_empty", "new_empty_strided", "empty_strided", "lift_fresh", "unfold", "view_as", "_reshape_alias",
}  # fmt: skip


class Launches(TorchDispatchMode):
    """Counts the operations that would launch a kernel on a device."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in FREE:
            self.names[name] += 1
        return function(*args, **(kwargs or {}))

    @property
    def total(self):
        return sum(self.names.values())


class DeviceReplay(UniformReplay):
    """Samples as on a CUDA device, on the CPU."""

    _counts = False


def a_replay(n_step=1, seeds=1, envs=8, steps=20, batch=16, device="cpu", invalid=()):
    source = tuple(torch.Generator(device).manual_seed(9 + s) for s in range(seeds))
    kind = DeviceReplay if device == "cpu" else UniformReplay
    replay = kind(
        envs * 15,
        num_envs=envs,
        batch_size=batch,
        n_step=n_step,
        device=device,
        generator=source[0] if seeds == 1 else source,
    )
    g = torch.Generator().manual_seed(0)
    for step in range(steps):
        no = torch.zeros(envs, 1, dtype=torch.bool)
        ended = torch.rand(envs, 1, generator=g) < 0.1
        valid = torch.ones(envs, 1, dtype=torch.bool)
        valid[[env for at, env in invalid if at == step]] = False
        after = {
            "observation": torch.randn(envs, 4, generator=g),
            "reward": torch.randn(envs, 1, generator=g),
            "terminated": ended,
            "truncated": no,
            "done": ended,
            "valid": valid,
        }
        action = torch.rand(envs, 2, generator=g) * 2 - 1
        rows = {"observation": torch.randn(envs, 4, generator=g), "action": action}
        replay.extend(TensorDict({**rows, "next": TensorDict(after, [envs])}, [envs]).to(device))
    return replay


def graphs_of(agent, replay, guard=None, record=None, sums=None):
    chain = chain_of(agent, agent.update, replay, sums or state.RunningSums(), guard, nullcontext)
    graphs = GraphedUpdates(chain)
    graphs.record = standing_in(chain, record)
    return graphs


def standing_in(chain, fault):
    """Return a recorder for the CPU: recording changes nothing, a replay does the work again."""

    def record(work, generators, pool):
        before = {name: t.clone() for name, t in chain.tensors().items()}
        streams = [g.get_state() for g in generators]
        work()
        for name, tensor in chain.tensors().items():
            with torch.no_grad():
                tensor.copy_(before[name])
        for generator, saved in zip(generators, streams, strict=True):
            generator.set_state(saved)

        def replay():
            if fault is not None:
                fault(chain)
            names = chain.sums._graphed.copy()
            work()
            chain.sums._graphed = names

        return replay

    return record


def everything(agent, replay):
    tensors = {**state.agent_tensors(agent), **state.optimizer_tensors(agent)}
    generators = {name: g.get_state() for name, g in agent.generators.items()}
    generators["sample"] = replay.generator.get_state()
    return {k: v.clone() for k, v in {**tensors, **generators}.items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


# Faults that a graph may have.


def stale(chain):
    """Something else writes to the agent's weights."""
    with torch.no_grad():
        # Every second weight: a common factor is nothing to networks of unit norm.
        max(chain.agent.parameters(), key=torch.numel).flatten()[::2].mul_(1.02)


def still(chain):
    """The random streams of updates stand still."""
    for generator in chain.agent.generators.values():
        generator.manual_seed(0)


def same_rows(chain):
    chain.replay.generator.manual_seed(0)


def broken(chain):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", [None, stale, broken])
def test_the_comparison_leaves_no_trace(name, fault):
    agents, replays = [small_agent(name) for _ in range(2)], [a_replay() for _ in range(2)]
    for agent, replay in zip(agents, replays, strict=True):
        for _ in range(2):
            agent.update(replay.batch())
    graphs = graphs_of(agents[0], replays[0], record=fault)
    graphs._admit(("key",), agents[0].update_count, 3)
    assert bool(graphs.refusal) == (fault is not None)
    assert equal(everything(agents[0], replays[0]), everything(agents[1], replays[1]))


@pytest.mark.parametrize("name", NAMES)
def test_launches_are_the_updates_of_an_eager_loop(name):
    """Same weights, moments, streams and sums as batch after batch; graphs differ by place in the period."""
    ours, theirs = small_agent(name), small_agent(name)
    replays, sums = [a_replay(n_step=3) for _ in range(2)], [state.RunningSums() for _ in range(2)]
    graphs = graphs_of(ours, replays[0], sums=sums[0])
    number = 0
    for count in (3, 3, 1):
        number += count
        assert graphs.launch(count, number)
        for batch in replays[1].batches(count):
            sums[1].add(theirs.update(batch))
    assert not graphs.refusal and ours.update_count == 7 and int(graphs.chain.number) == 7
    assert equal(everything(ours, replays[0]), everything(theirs, replays[1]))
    (left,), (right,) = sums[0].take(), sums[1].take()
    assert left == pytest.approx(right, rel=1e-5) and sums[0].take() == [{}]


@pytest.mark.parametrize("fault", [stale, still, same_rows, broken])
@pytest.mark.parametrize("name", ["sac", "td3", "dsac_t", "stac"])
def test_a_faulty_graph_is_refused(name, fault, caplog):
    agent, replay = small_agent(name), a_replay()
    graphs = graphs_of(agent, replay, record=fault)
    with caplog.at_level(logging.WARNING):
        assert not graphs.launch(2, 2)
    assert "updates stay eager" in caplog.text and agent.update_count == 0
    assert not graphs.launch(2, 2)


def test_a_graph_is_told_of_the_streams_that_it_draws_from_alone():
    agent, replay = small_agent("sac"), a_replay()
    graphs, told = graphs_of(agent, replay), []
    record = graphs.record
    graphs.record = lambda work, streams, pool: told.extend(streams) or record(work, streams, pool)
    assert graphs.launch(2, 2)
    assert told == [agent.generators["learn"], replay.generator]


def rounded(chain):
    """Sums in another order: the last bits of all weights are others."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in chain.agent.parameters():
            p.mul_(1 + 2.0**-23 * torch.randn(p.shape, generator=g))


@pytest.mark.parametrize("name", NAMES)
def test_rounding_is_admitted(name):
    for seed in range(3):
        graphs = graphs_of(small_agent(name, seed=seed), a_replay(), record=rounded)
        assert graphs.launch(4, 4), graphs.refusal


def a_run(name, replay, plugins=None, **fields):
    agent = small_agent(name, **fields)
    updates = Updates(agent, EAGER, graphs=True)
    updates.captures = True
    run = SimpleNamespace(agent=agent, replay=replay, updates=updates, clock=Clock(), plugins=plugins or {})
    run.hooks = Hooks()
    run.sums, run.device, run.config = (
        state.RunningSums(),
        torch.device("cpu"),
        SimpleNamespace(mixed_precision=False),
    )
    return run


def with_stand_in(run, guard):
    graphs = run.updates.graphs(run.replay, run.sums, guard, nullcontext)
    graphs.record = standing_in(graphs.chain, None)
    return graphs


def test_the_loop_launches_many_updates_at_once_and_counts_them(tmp_path):
    run, guard = a_run("td3", a_replay()), LearnerGuard(tmp_path)
    graphs = with_stand_in(run, guard)
    learning.update(run, guard, learning.LAUNCHED_TOGETHER + 3)
    assert run.clock.updates == run.agent.update_count == learning.LAUNCHED_TOGETHER + 3
    assert {key[0] for key in graphs._graphs} == {learning.LAUNCHED_TOGETHER, 3}
    assert run.updates.mode == "graph of eager code"


def test_updates_that_a_plugin_watches_run_by_themselves():
    class Plugin:
        seen, watched = [], [2, 3]

        def watches(self, number):
            return number in self.watched

        def after_update(self, agent):
            self.seen.append(agent.update_count)
            return {"plugin/one": torch.tensor(1.0)}

    plugin = Plugin()
    run = a_run("sac", a_replay(), {"p": plugin})
    graphs = with_stand_in(run, None)
    launched = []
    original = GraphedUpdates.launch

    def launch(self, count, number):
        launched.append(number)
        return original(self, count, number)

    GraphedUpdates.launch = launch
    try:
        learning.update(run, None, 4)
    finally:
        GraphedUpdates.launch = original
    assert plugin.seen == [1, 2, 3, 4] and launched == [1, 4] and not graphs.refusal
    assert run.sums.take()[0]["plugin/one"] == 1


def test_a_run_by_launches_is_the_run_without(tmp_path, monkeypatch):
    """Weights, moments, lines and resumption; lines and meta.json say how updates ran, and why."""

    def stood_in(chain):
        graphs = GraphedUpdates(chain)
        graphs.record = standing_in(chain, None)
        return graphs

    runs.train(tmp_path / "plain", "td3", num_envs=4, updates_per_step=0.75)
    monkeypatch.setattr(updates, "GraphedUpdates", stood_in)
    monkeypatch.setattr(
        Updates, "captures", property(lambda self: True, lambda self, value: None), raising=False
    )
    runs.train(tmp_path / "graphs", "td3", num_envs=4, updates_per_step=0.75)
    ours, theirs = runs.weights(tmp_path / "graphs"), runs.weights(tmp_path / "plain")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = runs.lines(tmp_path / "graphs")
    graphed = [line.pop("updates/graphed") for line in lines if "updates/graphed" in line]
    assert graphed[-1] == 1 and len(graphed) >= 8
    for line, plain in zip(lines, runs.lines(tmp_path / "plain"), strict=True):
        assert line == pytest.approx(plain, rel=1e-4, abs=1e-7)
    assert json.loads((tmp_path / "graphs" / "meta.json").read_text())["updates"] == "graph of eager code"

    monkeypatch.setattr(updates, "GraphedUpdates", lambda chain: GraphedUpdates(chain, refusal="too odd"))
    runs.train(tmp_path / "refused", "td3", steps=400, updates_per_step=0.75)
    assert json.loads((tmp_path / "refused" / "meta.json").read_text())["updates"] == "eager: too odd"
    assert {
        line["updates/graphed"] for line in runs.lines(tmp_path / "refused") if "env/nan_resets" in line
    } == {0}


def test_few_launches_stand_outside_the_graph(tmp_path):
    """Once admitted, what the host queues for eight updates is fewer operations than one update has."""
    run, guard = a_run("sac", a_replay(n_step=3), normalize_observations=True), LearnerGuard(tmp_path)
    graphs = with_stand_in(run, guard)
    learning.update(run, guard, 8)
    for key, (_, names) in graphs._graphs.items():
        graphs._graphs[key] = (lambda: None), names  # a replay is one launch
    no = torch.zeros(8, dtype=torch.bool)
    with Launches() as launches:
        rows = torch.randn(8, 4), torch.zeros(8, 2), torch.zeros(8), torch.randn(8, 4)
        run.replay.extend_arrays(*rows, no, no, no, ~no)
        learning.update(run, guard, 8)
    assert 1 + launches.total <= 25, launches.names
    assert run.clock.updates == 16


@pytest.mark.parametrize("seeds", [1, 2])
def test_sampling_several_batches_takes_few_operations(seeds):
    replay = a_replay(n_step=3, seeds=seeds)
    replay.batches(8)
    with Launches() as launches:
        replay.batches(8)
    assert launches.total <= (25 if seeds == 1 else 28), launches.names


def test_all_draws_of_a_device_are_valid_and_near_uniform():
    bad = [(7, 2), (9, 3), (12, 0)]
    replay = a_replay(seeds=2, batch=20_000, invalid=bad)
    index = replay._draw_index((2,))
    assert index.shape == (2, 2, 20_000)
    assert (replay.packed[:, -1][index] == 1).all()
    for seed in range(2):
        drawn = index[:, seed].flatten()
        assert ((drawn % 8) // 4 == seed).all()
        counts = torch.bincount(drawn, minlength=120).float()
        possible = (replay.packed[:, -1] == 1) & ((torch.arange(120) % 8) // 4 == seed)
        expected = 40_000 / possible.sum()
        assert (counts[possible] - expected).abs().max() < 6 * expected.sqrt()


def test_device_sampling_of_n_steps_is_the_hosts():
    """The same places give the same batch, before the ring is full and after it wrapped."""
    for steps in (5, 14, 15, 23):
        replay = a_replay(n_step=3, steps=steps, invalid=[(3, 1)])
        index = replay._draw_index((4,))
        device = replay._gather(index)
        replay.__class__ = UniformReplay
        host = replay._gather(index)
        ours, theirs = columns_of(device), columns_of(host)
        assert ours.keys() == theirs.keys() and len(ours) > 5
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_guard_of_a_launch_dumps_the_first_bad_batch(tmp_path):
    """In a graph the number of the update is on the device."""
    guard, number = LearnerGuard(tmp_path), torch.zeros(1, dtype=torch.int64)
    for loss in (0.5, float("nan"), float("nan")):
        number += 1
        guard.check({"loss": torch.tensor(loss)}, {"observation": torch.full((2,), float(number))}, number)
    assert int(guard.tensors()["0.update"]) == 2 and guard.tensors()["0.observation"].eq(2).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_graphs_equal_eager_updates(name, tmp_path):
    kind = agent_class(name)
    agent = kind(SPACES, kind.Config(), make_generators(0, "cuda"), device="cuda")
    replay, guard, sums = a_replay(n_step=3, device="cuda"), LearnerGuard(tmp_path), state.RunningSums()
    graphs = GraphedUpdates(chain_of(agent, agent.update, replay, sums, guard, nullcontext))
    for number in (4, 8, 12):
        assert graphs.launch(4, number), graphs.refusal
    guard.read()
    assert agent.update_count == 12 and sums.take()[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_launch_never_waits_for_the_device(tmp_path):
    kind = agent_class("sac")
    agent = kind(SPACES, kind.Config(), make_generators(0, "cuda"), device="cuda")
    replay, guard = a_replay(n_step=3, device="cuda"), LearnerGuard(tmp_path)
    graphs = GraphedUpdates(chain_of(agent, agent.update, replay, state.RunningSums(), guard, nullcontext))
    assert graphs.launch(4, 4), graphs.refusal
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(8, 400, 4):
            assert graphs.launch(4, number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
