"""Batches and small agents for the tests of all agents."""

import torch
from tensordict import TensorDict

from rlsuite.agents.base import Agent, OnPolicyAgent, Spaces, StagedAgent, make_generators
from rlsuite.registry import agent_class, agent_names


def is_tested(name: str) -> bool:
    """Whether it is an agent of ours that learns from replayed transitions; other packages test theirs."""
    cls = agent_class(name)
    return cls.__module__.startswith("rlsuite.") and not issubclass(cls, StagedAgent | OnPolicyAgent)


NAMES = tuple(filter(is_tested, agent_names()))
WITH_CRITICS = tuple(name for name in NAMES if agent_class(name).values is not Agent.values)
WITH_TARGETS = tuple(name for name in WITH_CRITICS if name not in ("crossq", "floq"))  # of `critic`
# Observations are normalised by a data set's statistics.
FROM_DATA = tuple(name for name in NAMES if agent_class(name).adopts_statistics)


def with_field(field: str) -> tuple[str, ...]:
    """Names of the agents whose `Config` has a field."""
    return tuple(name for name in NAMES if field in agent_class(name).Config.__dataclass_fields__)


# What makes an agent's noiseless behaviour its evaluation's action, where the two differ by design.
MODE_FIELDS = {
    "floq": {"evaluation": "mode"},
    "fql": {"evaluation": "mode"},
    "quantile_dsac": {"evaluation": "mode"},
    "stac": {"evaluation": "mode", "dropout_actor": 0.0},
}
SPACES = Spaces(observation=4, action=2, half_range=(2.0, 0.5))


def random_batch(rows: int = 32, lead: tuple[int, ...] = (), seed: int = 0, spaces: Spaces = SPACES):
    """Rows as the replay gives them, a tenth of them terminated and a tenth truncated, with every column
    that an agent may ask for."""
    g = torch.Generator().manual_seed(seed)
    shape = (*lead, rows)

    def normal(size):
        return torch.randn(*shape, size, generator=g)

    terminated = torch.rand(*shape, 1, generator=g) < 0.1
    truncated = torch.rand(*shape, 1, generator=g) < 0.1
    usual = TensorDict(
        {
            "observation": normal(spaces.observation),
            "action": torch.rand(*shape, spaces.action, generator=g) * 2 - 1,
            "next": TensorDict(
                {
                    "observation": normal(spaces.observation),
                    "reward": normal(1),
                    "terminated": terminated,
                    "truncated": truncated,
                    "done": terminated | truncated,
                },
                shape,
            ),
        },
        shape,
    )
    usual["next", "action"] = torch.rand(*shape, spaces.action, generator=g) * 2 - 1
    usual["return"] = 10 * normal(1)
    usual["expert"] = (torch.arange(rows) >= rows // 2).unsqueeze(-1).expand(*shape, 1).clone()
    return usual


def small_agent(
    name: str, *, seed: int = 0, lead: tuple[int, ...] = (), spaces: Spaces = SPACES, **fields
) -> Agent:
    """An agent with two hidden layers of 16."""
    kind = agent_class(name)
    widths = {key: (16, 16) for key in ("hidden", "hidden_actor") if key in kind.Config.__dataclass_fields__}
    config = kind.Config(**{**widths, **fields})
    return kind(spaces, config, make_generators(seed), lead=lead)


def check_loss_module(module, agent: Agent, batch: TensorDict) -> None:
    """The LossModule's gradients of all losses together equal those of the agent's update on `batch`."""
    losses = module(batch)
    sum(losses[key] for key in module.out_keys).backward()
    agent.update(batch)
    for part in agent.parts():
        if part.optimizer is None:
            continue
        for name, parameter in part.module.named_parameters():
            if part.name == "alpha":
                found = module.log_alpha.grad
            else:
                found = getattr(module, f"{part.name}_params")[tuple(name.split("."))].grad
            assert parameter.grad.abs().sum() > 0
            torch.testing.assert_close(found, parameter.grad, rtol=1e-10, atol=1e-13)
