"""What LDCQ promises as an agent: stages, complete state, plans that travel with their rows."""

from itertools import pairwise

import pytest
import torch
from ldcq_helpers import TINY, learn, small_ldcq, windows
from skills import BIMODAL, bimodal_actions, inside
from tensordict import TensorDict
from test_agents import content, same, walk
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.ldcq import LDCQConfig
from rlsuite.agents.ldcq.agent import LOOK_EVERY
from rlsuite.errors import ConfigError
from rlsuite.training import state

ALL = TINY["skills_updates"] + TINY["prior_updates"] + TINY["values_updates"]


def tensors(agent):
    return {**state.agent_tensors(agent), **state.optimizer_tensors(agent)}


def observe(rows=7, lead=(), seed=0):
    g = torch.Generator().manual_seed(seed)
    return TensorDict({"observation": torch.randn(*lead, rows, 4, generator=g)}, [*lead, rows])


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_every_stage_moves_its_own_networks_alone(encoder):
    agent, data = small_ldcq(encoder=encoder), windows()
    moved = {"skills": "skills.", "prior": "denoiser.", "values": ("critic.", "target_critic.")}
    before = {name: t.clone() for name, t in state.agent_tensors(agent).items()}
    for stage, prefix in moved.items():
        assert agent.stage == stage
        learn(agent, data, TINY[f"{stage}_updates"])
        after = {name: t.clone() for name, t in state.agent_tensors(agent).items()}
        networks = [n for n in after if n.startswith(("skills.", "denoiser.", "critic.", "target_critic."))]
        changed = {name for name in networks if not torch.equal(before[name], after[name])}
        assert changed and all(name.startswith(prefix) for name in changed)
        before = after
    assert agent.actor.learnt.tolist() == [3, 3, 4]
    learn(agent, data, 2)
    assert agent.actor.learnt.tolist() == [3, 3, 6]  # the last stage goes on


@pytest.mark.parametrize("updates", [2, 5, 9])
def test_everything_that_an_update_changes_is_saved(updates):
    """In each of the stages, once its optimiser has its state."""
    agent, data = small_ldcq(), windows()
    learn(agent, data, updates)
    before = {path: content(leaf) for path, leaf in walk(agent)}
    learn(agent, data, 1)
    with set_exploration_type(ExplorationType.RANDOM):
        agent.policy(observe())
    saved = {t.data_ptr() for t in tensors(agent).values()}
    gradients = {p.grad.data_ptr() for p in agent.parameters() if p.grad is not None}
    changed = [path for path, leaf in walk(agent) if not same(before.get(path), content(leaf))]
    leaves = dict(walk(agent))
    for path in changed:
        leaf = leaves[path]
        if isinstance(leaf, torch.Tensor):
            kept = leaf.data_ptr() in saved | gradients or path.endswith("found_inf")
        elif isinstance(leaf, torch.Generator):
            kept = any(leaf is g for g in agent.generators.values())
        else:
            kept = path.endswith(".update_count")
        assert kept, path
    assert len(changed) > 10


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("done", [1, 3, 4, 6, 8])
def test_a_restored_learner_goes_on_bit_for_bit(done, lead):
    agent, data = small_ldcq(lead=lead), windows(lead)
    learn(agent, data, done)
    other, again = small_ldcq(99, lead), windows(lead, seed=99)
    state.load_agent_tensors(other, state.agent_tensors(agent))
    state.load_optimizer_tensors(other, state.optimizer_tensors(agent))
    again.load(data.state_dict(), (chunk.rows for chunk in data.chunks()))
    streams = [(agent.generators[name], other.generators[name]) for name in agent.generators]
    for ours, theirs in [*streams, (data.generator, again.generator)]:
        pairs = zip(ours, theirs, strict=True) if lead else [(ours, theirs)]
        for one, two in pairs:
            two.set_state(one.get_state())
    ours, theirs = learn(agent, data, ALL - done), learn(other, again, ALL - done)
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(t, tensors(other)[name]) for name, t in tensors(agent).items())


def test_seeds_do_not_feel_one_another():
    pair, data = small_ldcq(3, (2,)), windows((2,))
    learn(pair, data, ALL)
    other, disturbed = small_ldcq(3, (2,)), windows((2,))
    disturbed.generator[0].manual_seed(77)  # the first seed draws other windows
    learn(other, disturbed, ALL)
    for name, tensor in pair.named_parameters():
        found = dict(other.named_parameters())[name]
        assert torch.equal(tensor[1], found[1]), name
    assert not torch.equal(pair.skills.decoder.members[0].trunk[0].weight[0],
                           other.skills.decoder.members[0].trunk[0].weight[0])  # fmt: skip


def test_a_seed_of_two_is_the_run_of_that_seed_up_to_rounding():
    pair, data = small_ldcq(3, (2,)), windows((2,))
    learn(pair, data, 4)
    alone, own = small_ldcq(4), windows(seed=2)
    learn(alone, own, 4)
    cut = state.cut_seed(state.agent_tensors(pair), 1, alone)
    for name, tensor in state.agent_tensors(alone).items():
        torch.testing.assert_close(cut[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("done", [0, 3, 6])
def test_a_gradient_that_is_not_finite_moves_no_weight(done):
    agent, data = small_ldcq(), windows()
    learn(agent, data, done + 1)
    if done == 0:
        agent.update_count = 0
    names = ("skills.", "denoiser.", "critic.")
    before = {n: t.clone() for n, t in state.agent_tensors(agent).items() if n.startswith(names)}
    batch = data.sample()
    batch["observation"][0] = torch.nan
    metrics = agent.update(batch)
    assert not any(value.isfinite() for name, value in metrics.items() if name.startswith("grad_norm/"))
    assert all(torch.equal(t, state.agent_tensors(agent)[n]) for n, t in before.items())
    assert all(t.isfinite().all() for t in state.optimizer_tensors(agent).values())
    if data.priorities is not None:
        data.reprioritise(batch["index"], metrics["priority"])
        assert data.priorities.all().isfinite().all()


@pytest.mark.parametrize("fields", [{}, {"goal": True}, {"prior": "gaussian"}, {"sampler": "ddim"}])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_a_plan_is_kept_for_its_time_and_belongs_to_its_world(lead, fields):
    agent = small_ldcq(lead=lead, **fields)
    agent.actor.learnt[:] = 1
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        first = agent.policy(observe(lead=lead))
        assert first["skill"].shape == (*lead, 7, 3) and (first["skill_age"] == 1).all()
        td, skills = first.clone(), [first["skill"]]
        for step in range(1, 5):
            td["observation"] = observe(lead=lead, seed=step)["observation"]
            td = agent.policy(td.clone())
            skills.append(td["skill"])
        kept = [torch.equal(a, b) for a, b in pairwise(skills)]
        assert kept == [True, True, False, True]  # execute = 3
        again = agent.policy(observe(lead=lead))
        assert torch.equal(again["action"], first["action"])
        alone = observe(lead=lead)[..., 2:3].clone()
        torch.testing.assert_close(agent.policy(alone)["skill"], first["skill"][..., 2:3, :])
        assert (first["action"].abs() <= 1).all()


def test_a_reset_world_makes_a_new_plan():
    """An environment says so by its step count; where all worlds are reset at once, it keeps other keys."""
    agent = small_ldcq()
    agent.actor.learnt[:] = 1
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        td = agent.policy(observe())
        td["observation"] = observe(seed=5)["observation"]
        td["step_count"] = torch.ones(7, 1, dtype=torch.int64)
        td["step_count"][3] = 0
        after = agent.policy(td.clone())
    assert after["skill_age"].flatten().tolist() == [2, 2, 2, 1, 2, 2, 2]
    same_skill = (after["skill"] == td["skill"]).all(-1)
    assert same_skill.tolist() == [True] * 3 + [False] + [True] * 3


def test_only_behaviour_draws_random_numbers():
    agent = small_ldcq()
    agent.actor.learnt[:] = 1
    before = {name: g.get_state() for name, g in agent.generators.items()}
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        agent.policy(observe())
    assert all(torch.equal(before[name], g.get_state()) for name, g in agent.generators.items())
    with set_exploration_type(ExplorationType.RANDOM):
        one, two = agent.policy(observe()), agent.policy(observe())
    assert not torch.equal(one["skill"], two["skill"])
    assert torch.equal(before["learn"], agent.generators["learn"].get_state())


def test_the_released_target_differs_from_the_papers():
    """Discount gamma instead of gamma^H, and a reward ends the future."""
    paper, released = windows(), windows()
    learn(small_ldcq(), paper, 7)
    learn(small_ldcq(bootstrap="step", ends="reward", window_discount=False), released, 7)
    lengths = paper.lengths.float()
    ended = paper.terminated()
    torch.testing.assert_close(paper.columns["discount"], torch.where(ended, 0, 0.995**lengths))
    assert (released.columns["discount"] == 0).all()  # every window has a reward
    assert (released.columns["reward"] > paper.columns["reward"]).sum() > 50
    other = windows()
    other.rows["next", "reward"].zero_()
    learn(small_ldcq(bootstrap="step", ends="reward"), other, 7)
    assert sorted(set(other.columns["discount"].tolist())) == pytest.approx([0.0, 0.995])


def test_stored_candidates_are_bounded_and_said():
    agent, data = small_ldcq(stored_mib=1, stored=200_000), windows()
    learn(agent, data, 6)
    with pytest.raises(ConfigError, match=r"stored-mib"):
        agent.prepare(data)
    agent, data = small_ldcq(), windows()
    learn(agent, data, 6)
    assert "stored candidates" in agent.prepare(data)
    assert data.columns["candidates"].shape == (78, 7, 3)
    assert data.columns["candidates"].dtype == torch.float16
    fresh, data = small_ldcq(stored=0), windows()
    learn(fresh, data, ALL)
    assert "candidates" not in data.columns


def test_values_beyond_the_returns_of_the_data_are_said():
    agent, data = small_ldcq(), windows()
    learn(agent, data, ALL)
    assert agent.chosen_range.isfinite().all()
    low, high = agent.return_range.tolist()
    agent.update_count = LOOK_EVERY
    agent.chosen_range.copy_(torch.tensor([low, high]))
    assert agent.prepare(data) is None
    agent.chosen_range.copy_(torch.tensor([low, 2 * high]))
    assert "warning" in agent.prepare(data)
    assert not agent.chosen_range.isfinite().any()  # until the next look


def test_a_stage_needs_those_before_it():
    with pytest.raises(ConfigError, match="builds on skills, prior"):
        small_ldcq(stages=("values",)).prepare(windows())
    with pytest.raises(ConfigError, match="builds on skills"):
        small_ldcq(stages=("values",), prior="gaussian").prepare(windows())


def test_later_stages_go_on_from_an_earlier_run():
    parent, data = small_ldcq(stages=("skills", "prior")), windows()
    learn(parent, data, 6)
    child = small_ldcq(5, stages=("values",))
    child.inherit(parent.config, state.agent_tensors(parent))
    assert torch.equal(child.denoiser.enter.weight, parent.denoiser.enter.weight)
    assert torch.equal(child.actor.latent_std, parent.actor.latent_std)
    assert child.update_count == 0 and child.stage == "values"
    learn(child, windows(), 4)
    assert child.actor.learnt.tolist() == [3, 3, 4]
    with pytest.raises(ConfigError, match="horizon"):
        small_ldcq(stages=("values",), horizon=4).inherit(parent.config, state.agent_tensors(parent))
    with pytest.raises(ConfigError, match="size"):
        small_ldcq(stages=("values",), latent=4).inherit(parent.config, state.agent_tensors(parent))
    with pytest.raises(ConfigError, match="begins with skills"):
        small_ldcq().inherit(parent.config, state.agent_tensors(parent))
    fresh = small_ldcq(stages=("skills",))
    with pytest.raises(ConfigError, match="has not learnt skills"):
        child.inherit(fresh.config, state.agent_tensors(fresh))


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_updates_in_mixed_precision_stay_near_those_in_full(encoder):
    full, mixed = small_ldcq(encoder=encoder), small_ldcq(encoder=encoder)
    expected = learn(full, windows(), ALL)
    found = learn(mixed, windows(), ALL, mixed=True)
    for number, name in ((0, "skills/loss"), (3, "prior/loss")):
        torch.testing.assert_close(found[number][name], expected[number][name], rtol=0.1, atol=0.1)
        assert not torch.equal(found[number][name], expected[number][name])
    for name, tensor in mixed.named_parameters():
        assert tensor.dtype == torch.float32 and tensor.isfinite().all(), name


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"goal": True, "stages": ("values",)}, "stages"),
        ({"prior": "gaussian", "stages": ("prior",)}, "stages"),
        ({"stages": ("prior", "skills")}, "in this order"),
        ({"execute": 31}, "execute"),
        ({"guidance": 1.0, "state_dropout": 0.0}, "guidance"),
        ({"widths": ()}, "widths"),
        ({"gamma": 1.5}, "gamma"),
        ({"lr_prior": 0.0}, "lr_prior"),
        ({"ddim_steps": 0}, "ddim_steps"),
    ],
)
def test_config_refuses_what_means_nothing(fields, words):
    with pytest.raises(ValueError, match=words):
        LDCQConfig(**fields)


def test_the_variants_have_their_stages():
    assert LDCQConfig().order == ("skills", "prior", "values")
    assert LDCQConfig(goal=True).order == ("skills", "prior")
    assert LDCQConfig(prior="gaussian").order == ("skills", "values")
    assert LDCQConfig(stages=("values",), values_updates=7).updates == 7


@pytest.mark.long
def test_diffusion_stays_inside_a_bimodal_behaviour_and_a_gaussian_does_not():
    found = bimodal_actions(0, BIMODAL)
    assert inside(found["recorded"], 0.0) == 1.0
    assert inside(found["diffusion"]) >= 0.95
    assert inside(found["gaussian"]) <= 0.85
