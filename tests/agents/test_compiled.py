"""Compiled updates are the eager ones to rounding, for every agent; what copies and broken rows do."""

import copy
import dataclasses
import functools

import pytest
import torch
from helpers import NAMES, SPACES, random_batch, small_agent
from ldcq_helpers import small_ldcq, windows
from torch._dynamo.exc import BackendCompilerFailed

from rlsuite.agents.compiled import CompiledUpdate, compiled, obstacle
from rlsuite.blocks.noise import generators_of
from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.returns.stock import StockSpace

SAC = agent_class("sac")
OBSTACLE = obstacle(SAC, SAC.Config())
pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE)),
]

UPDATES = 100
ROWS = 16
TOLERANCE = 1e-10
TOLERANCES = {"a2pr": 1e-9}  # its autoencoder amplifies the last bit: 1.04e-10 with three seeds was measured
DROPS = {
    "bc": {"dropout": 0.2},
    "crossq": {"hidden_actor": (8,), "renorm_warmup": 50},
    "floq": {"copies": 2, "field_steps": 2},
    "iql": {"dropout": 0.2},
    "stac": {"dropout_actor": 0.2, "dropout_critic": 0.2},
}
STOCKED = dataclasses.replace(SPACES, discrete=True, stock=StockSpace(0.99, (-10.0,), (4.0,)))


@pytest.fixture(autouse=True)
def kernels(tmp_path_factory, monkeypatch):
    """One folder of kernels for all tests: what one has built the next one takes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))
    yield
    torch.compiler.reset()


@pytest.fixture
def traced(monkeypatch):
    """Graphs are made as always and then run as they are: seconds instead of a compiler's minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def agent_of(name, lead=(), **fields):
    """A tiny agent, with dropout where it has any and the statistics of some data where it takes them."""
    agent = small_agent(name, lead=lead, **{"hidden": (8, 8), **DROPS.get(name, {}), **fields})
    agent.adopt_statistics(
        torch.linspace(-1, 1, SPACES.observation), torch.linspace(1, 2, SPACES.observation)
    )
    return agent


def optimizers_of(agent):
    """The agent's optimisers, each once."""
    return {id(part.optimizer): part.optimizer for part in agent.parts() if part.optimizer}.values()


def moments_of(agent):
    """Every tensor of the optimisers by name."""
    return {
        f"{number}.{index}.{key}": tensor
        for number, optimizer in enumerate(optimizers_of(agent))
        for index, state in enumerate(optimizer.state.values())
        for key, tensor in state.items()
    }


def tensors_of(agent):
    """Every parameter, buffer and tensor of the optimisers by name."""
    return {**dict(agent.named_parameters()), **dict(agent.named_buffers()), **moments_of(agent)}


def difference(ours, theirs):
    """The greatest |a - b| / (|b| + 1e-5) of equally named tensors, and its name.

    A weight near zero has the rounding of the greater numbers that it is the difference of: with 1e-6, one
    last bit of a weight of one half was more than the tolerance.
    """
    assert ours.keys() == theirs.keys()
    gaps = {}
    for name, a in ours.items():
        a, b = a.detach().double(), theirs[name].detach().double()
        gaps[name] = ((a - b).abs() / (b.abs() + 1e-5)).max().item()
    worst = max(gaps, key=lambda name: (gaps[name] != gaps[name], gaps[name]))
    return gaps[worst], worst


def check_equal(update, eager, batches, tolerance=TOLERANCE):
    """Both take the same updates: tensors, metrics, counts and streams agree; return the difference."""
    agent = update.agent
    for batch in batches:
        metrics, expected = update(batch), eager.update(batch)
        gap, name = difference(metrics, expected)
        assert gap <= 1e-6, name  # a loss near zero is the difference of greater numbers
    gap, name = difference(tensors_of(agent), tensors_of(eager))
    assert gap <= tolerance, name
    assert agent.update_count == eager.update_count
    streams = (generators_of(each.generators["learn"]) for each in (agent, eager))
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(*streams, strict=True))
    return gap


def batches_of(count, lead=(), n_step=False):
    """Random batches, which may bring a discount each."""
    for k in range(count):
        batch = random_batch(ROWS, lead=lead, seed=k)
        if n_step:
            batch["discount"] = 0.99 ** (1 + torch.arange(ROWS) % 3).expand(*lead, ROWS).unsqueeze(-1)
        yield batch


def pair_of(name, lead=(), **fields):
    """A compiled update and an eager agent that began as the same."""
    return compiled(agent_of(name, lead, **fields)), agent_of(name, lead, **fields)


def check(record_property, name, lead=(), n_step=False, **fields):
    """A hundred compiled updates are a hundred eager ones."""
    batches = batches_of(UPDATES, lead, n_step)
    gap = check_equal(*pair_of(name, lead, **fields), batches, TOLERANCES.get(name, TOLERANCE))
    record_property("difference", gap)
    print(f"{name} {lead} {fields}: {gap:.1e}")


@pytest.mark.parametrize(
    ("name", "lead", "normalize"),
    [
        ("sac", (), False),
        ("stac", (), False),
        pytest.param("td3", (3,), False, marks=pytest.mark.long),
        pytest.param("dsac_t", (), True, marks=pytest.mark.long),
    ],
)
def test_compiled_updates_are_the_eager_ones(record_property, name, lead, normalize):
    check(record_property, name, lead, normalize_observations=normalize)


def test_what_torch_cannot_compile_is_said_in_one_line(monkeypatch):
    def failing(*_, **__):
        def graph(*_):
            raise BackendCompilerFailed(
                lambda: None, RuntimeError("Output:\nx.cpp:1: error: conflicting"), None
            )

        return graph

    agent = small_agent("sac")
    update = compiled(agent)
    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(ConfigError, match=r"update of SAC \(x.cpp:1: error: conflicting\): --compile off"):
        update(random_batch())


@pytest.mark.long
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_updates_of_every_agent_are_the_eager_ones(record_property, name, lead, normalize):
    check(record_property, name, lead, normalize_observations=normalize)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sac", {"network": "bronet"}),
        ("sac", {"alpha_step": "sgd", "actor_std": "softplus", "layer_norm": True, "layer_norm_actor": True}),
        ("sac", {"n_step": True}),
        ("sac", {"critics": 5, "target_subset": 2, "actor_value": "mean", "delay": 4, "lead": (2,)}),
        ("sac", {"layer_norm": True, "dropout_critic": 0.1, "actor_value": "mean", "delay": 4}),
        ("stac", {"critics": 2, "beta": 0.0, "delay": 2}),
        ("dsac_t", {"critic_loss": "release"}),
        ("iql", {"order": "corl", "deterministic": True, "actor_lr_decay": 50}),
        ("bc", {"loss": "likelihood"}),
        ("iql", {"value_loss": "gumbel", "critic_loss": "huber", "random_actions": 1}),
        ("iql", {"value_loss": "chi2", "value_layer_norm": True}),
        ("iql", {"value_loss": "tv", "order": "torchrl"}),
        ("famo2o", {"dropout": 0.1, "lead": (2,)}),
        ("fql", {"aggregate": "min", "normalize_q": False}),
        ("floq", {"aggregate": "min", "field_steps": 1, "at_zero": True}),
        ("odice", {"gradient": "semi", "twin": False}),
        ("odice", {"gradient": "true", "value_layer_norm": False, "tanh_mean": True}),
        ("d_eta_n", {"utility": "lower", "spaces": STOCKED, "normalize_observations": True}),
        ("d_eta_n", {"utility": "lower", "spaces": STOCKED, "shaped": True, "average_ties": True}),
    ],
)
def test_compiled_updates_of_variants_are_the_eager_ones(record_property, name, fields):
    check(record_property, name, **fields)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gru", "transformer", "released"])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_compiled_stages_are_the_eager_ones(record_property, lead, kind):
    check_stages(record_property, lead, kind, each=40)


@pytest.mark.usefixtures("traced")
def test_a_stage_is_one_graph(record_property):
    check_stages(record_property, (), "released", each=2)


def check_stages(record_property, lead, kind, each):
    fields = {f"{stage}_updates": each for stage in ("skills", "prior", "values")}
    fields |= {"networks": kind, "weighting": "mean"} if kind == "released" else {"encoder": kind}
    agents = [small_ldcq(lead=lead, **fields) for _ in "ab"]
    sides = [(agents[0], compiled(agents[0]), windows(lead)), (agents[1], agents[1].update, windows(lead))]
    for stage in agents[0].stages:
        for _ in range(each):
            metrics = []
            for agent, update, data in sides:
                agent.prepare(data)
                assert agent.stage == stage
                batch = data.sample()
                metrics.append(update(batch))
                if data.priorities is not None:
                    data.reprioritise(batch["index"], metrics[-1]["priority"])
            gap, name = difference(*metrics)
            assert gap <= 1e-6, name
        gap, name = difference(*(tensors_of(agent) for agent in agents))
        record_property(stage, gap)
        print(f"ldcq {lead} {kind} {stage}: {gap:.1e}")
        assert gap <= TOLERANCE, name
        # What the next stage learns from is encoded by these networks: each begins with equal ones, so that
        # the gap is of a stage's own updates.
        agents[0].load_state_dict(agents[1].state_dict())


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", NAMES)
def test_an_update_of_every_agent_is_one_graph(name):
    check_equal(*pair_of(name), batches_of(3))


@pytest.mark.parametrize("name", ["sac"])
def test_rows_that_are_not_finite_move_no_weight_moment_or_count(name):
    update, eager = pair_of(name)
    agent = update.agent
    check_equal(update, eager, batches_of(3))
    learnt = [p for optimizer in optimizers_of(agent) for p in optimizer.parameters]
    before = [t.detach().clone() for t in (*learnt, *moments_of(agent).values())]
    broken = random_batch(ROWS, seed=9)
    broken["next", "reward"][3] = float("inf")
    broken["observation"][5] = float("nan")
    metrics = [step(broken) for step in (update, eager.update)]
    for side in metrics:
        norms = [norm for key, norm in side.items() if key.startswith("grad_norm/")]
        assert norms and not any(norm.isfinite() for norm in norms)
    after = (*learnt, *moments_of(agent).values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    check_equal(update, eager, batches_of(3))  # targets and streams have gone the same way


def test_a_copy_steps_itself():
    update, eager = pair_of("sac")
    batches = list(batches_of(4))
    check_equal(update, eager, batches[:2])
    still = {name: tensor.detach().clone() for name, tensor in tensors_of(update.agent).items()}
    twin = copy.deepcopy(update)
    assert isinstance(twin, CompiledUpdate) and twin.agent is not update.agent
    check_equal(twin, copy.deepcopy(eager), batches[2:])
    assert difference(tensors_of(update.agent), still)[0] == 0
    check_equal(update, eager, batches[2:])


@pytest.mark.usefixtures("traced")
def test_many_agents_of_one_process_have_graphs_of_their_own():
    """Eight graphs of one code object are torch's limit."""
    for width in range(4, 16):
        check_equal(*pair_of("bc", hidden=(width,)), batches_of(2))


@pytest.mark.usefixtures("traced")
def test_phases_and_batches_of_other_shapes_are_graphs_of_one_agent():
    """Two phases at five sizes of batches are ten graphs, which one agent has, too."""
    update, eager = pair_of("td3")
    for rows in range(4, 9):
        check_equal(update, eager, [random_batch(rows, seed=k) for k in range(2)])
