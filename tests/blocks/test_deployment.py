"""Real-time iteration and composition against numbers worked out by hand."""

import importlib.util
from pathlib import Path

import pytest
import torch

from rlsuite.blocks.deployment import Parent, composed, real_time_plans, shifted
from rlsuite.blocks.diffusion import Denoiser, ancestral, implied_noise, make_schedule

EXAMPLE = Path(__file__).parents[2] / "examples" / "deploy_diffusion.py"
NEW, OLD = torch.tensor([True]), torch.tensor([False])


def drift(plan, time):
    """A step that says when it was taken."""
    return plan + time


def test_a_plan_is_shifted_by_a_row():
    plan = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    assert shifted(plan).flatten().tolist() == [2, 3, 4, 4]


def test_all_steps_from_noise_are_the_whole_sampler():
    """To the bit that of LDCQ's sampler, with a trained denoiser's shapes."""
    generator = torch.Generator().manual_seed(0)
    net = Denoiser(3, 8, (16, 8), 16, generator=generator)
    schedule, observation = make_schedule(5, "cosine"), torch.randn(2, 3, generator=generator)
    start = torch.randn(2, 1, 8, generator=generator)
    predict = net.predictor(observation)
    whole = ancestral(schedule, predict, start, noise=torch.zeros_like)

    def step(plan, time):
        kept, before, beta = schedule.kept[time], schedule.kept[time - 1], schedule.beta[time]
        latent = plan.flatten(-2).unsqueeze(-2)
        clean = predict(latent, time)
        after = (before.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - before) * latent) / (1 - kept)
        return after.squeeze(-2).unflatten(-1, (4, 2))

    begin = start.squeeze(-2).unflatten(-1, (4, 2))
    for again, new in ((1, torch.tensor([True, True])), (5, torch.tensor([False, False]))):
        last = torch.cat([begin[:, :1], begin[:, :-1]], 1)  # shifted, but for its last row, this is `begin`
        last = torch.full_like(begin, 7.0) if new.all() else last
        plan = real_time_plans(step, last, begin, new=new, steps=5, again=again)
        if new.all():
            assert torch.equal(plan, whole.squeeze(-2).unflatten(-1, (4, 2)))
        else:
            assert torch.equal(plan, by_hand(step, shifted(last), range(5, 0, -1)))


def by_hand(step, plan, times):
    for time in times:
        plan = step(plan, time)
    return plan


def test_a_plan_in_real_time_asks_the_network_three_times_and_a_new_one_a_hundred():
    plan, calls = torch.zeros(1, 4, 1), []

    def step(plan, time):
        calls.append(time)
        return plan

    real_time_plans(step, plan, plan, new=NEW, steps=100, again=3)
    assert len(calls) == 100
    calls.clear()
    real_time_plans(step, plan, plan, new=OLD, steps=100, again=3)
    assert calls == [3, 2, 1]


def test_an_env_that_begins_anew_changes_nobody_elses_plan():
    last, start = torch.arange(8.0).view(2, 4, 1), torch.full((2, 4, 1), 100.0)
    both = real_time_plans(drift, last, start, new=torch.tensor([True, False]), steps=10, again=2)
    alone = real_time_plans(drift, last[1:], start[1:], new=OLD, steps=10, again=2)
    assert torch.equal(both[1:], alone)
    assert both[0].flatten().tolist() == [155.0] * 4  # 100 + (10 + ... + 1)
    assert both[1].flatten().tolist() == [8.0, 9.0, 10.0, 10.0]  # 5, 6, 7, 7 and 2 + 1


def test_equal_observations_in_a_row_leave_the_first_action_within_the_samplers_noise():
    """Plans of one state are a constant, N(0.5, 1), and the denoiser is exact: a new draw is another one."""
    rows, envs, schedule = 4, 500, make_schedule(20, "cosine", dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def step(plan, time):  # DDIM; of a plan's rows only their mean tells the constant
        kept = schedule.kept[time]
        off = (plan - kept.sqrt() * 0.5).mean((-2, -1), keepdim=True)
        clean = (0.5 + rows * kept.sqrt() * off / (rows * kept + 1 - kept)).expand_as(plan)
        noise, after = implied_noise(schedule, plan, clean, time), schedule.kept[time - 1]
        return after.sqrt() * clean + (1 - after).sqrt() * noise

    def planned(last, again, new):
        start = torch.randn(envs, rows, 1, generator=generator, dtype=torch.float64)
        return real_time_plans(step, last, start, new=new.expand(envs), steps=20, again=again)

    first = planned(torch.zeros(envs, rows, 1).double(), 3, NEW)
    following, fresh = planned(first, 3, OLD), planned(first, 3, NEW)
    moved, drawn = ((each - first)[:, 0].square().mean().sqrt() for each in (following, fresh))
    assert drawn.item() == pytest.approx(2**0.5, rel=0.2)  # of two draws of deviation 1
    assert moved < 0.1 * drawn


def test_an_exact_denoiser_of_one_plan_ends_at_it_from_anywhere():
    schedule, wanted = make_schedule(20, "cosine", dtype=torch.float64), torch.randn(1, 4, 2).double()

    def step(plan, time):  # DDIM
        kept = schedule.kept[time - 1]
        noise = implied_noise(schedule, plan, wanted, time)
        return kept.sqrt() * wanted + (1 - kept).sqrt() * noise

    for new in (NEW, OLD):
        anywhere = 5 * torch.randn(1, 4, 2).double()
        plan = real_time_plans(step, anywhere, anywhere, new=new, steps=20, again=3)
        assert torch.allclose(plan, wanted, atol=1e-12)


def test_what_is_kept_is_bounded():
    plan = torch.tensor([[[5.0, -5.0], [5.0, -5.0]]])
    kept = real_time_plans(
        lambda plan, _: plan, plan, plan, new=OLD, steps=2, again=1, limit=torch.tensor([1.0, 9.0])
    )
    assert kept.tolist() == [[[1.0, -5.0], [1.0, -5.0]]]
    with pytest.raises(ValueError, match="from 1 to steps = 2"):
        real_time_plans(lambda plan, _: plan, plan, plan, new=OLD, steps=2, again=3)


def gaussian(mean, variance, kept):
    """The exact noise of a diffused Gaussian."""

    def predict(x, time):
        share = kept[time]
        score = (share.sqrt() * mean - x) / (share * variance + 1 - share)
        return -((1 - share).sqrt()) * score

    return predict


@pytest.mark.parametrize(
    ("first", "second", "weight", "mean", "variance"),
    [((0.0, 1.0), (2.0, 1.0), 0.25, 1.5, 1.0), ((0.0, 1.0), (2.0, 0.25), 0.5, 1.6, 0.4)],
)
def test_composed_gaussians_are_their_product(first, second, weight, mean, variance):
    """Scores are weighted by precision: where it is 0, and how steep it is there."""
    kept = torch.tensor([1.0, 1 - 1e-10], dtype=torch.float64)
    parents = [Parent(gaussian(*each, kept), kept, "noise") for each in (first, second)]
    predict = composed(parents, (weight, 1 - weight))
    at = torch.tensor([0.0, 1.0], dtype=torch.float64)
    below, above = (-predict(at, 1) / (1 - kept[1]).sqrt()).tolist()  # the score
    slope = above - below
    assert -1 / slope == pytest.approx(variance, abs=1e-6)
    assert -below / slope == pytest.approx(mean, abs=1e-6)


def test_shares_of_unit_noises():
    kept = torch.ones(3)
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    parents = [Parent(lambda *_: east, kept), Parent(lambda *_: north, kept)]
    plan = torch.zeros(2)
    assert composed(parents, (0.3, 0.7))(plan, 1).tolist() == pytest.approx([0.3, 0.7])
    assert torch.equal(composed(parents, (0.3, 0.7))(plan, 1), composed(parents[::-1], (0.7, 0.3))(plan, 1))
    assert composed(parents, (1.0, 0.0))(plan, 1) is east


def test_parents_that_do_not_fit_are_refused():
    kept = torch.ones(3)
    one, other = Parent(drift, kept), Parent(drift, kept * 0.9)
    for parents, weights, message in (
        ((one, other), (0.5, 0.5), "different schedules"),
        ((one, one._replace(predicts="noise")), (0.5, 0.5), "different schedules"),
        ((one, one), (0.5, 0.6), "1 together"),
        ((one, one), (-0.5, 1.5), "not be negative"),
        ((one, one), (1.0,), "each denoiser one"),
    ):
        with pytest.raises(ValueError, match=message):
            composed(parents, weights)


def test_the_example_learns_and_plans_in_real_time():
    spec = importlib.util.spec_from_file_location("deploy_diffusion", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.ENVS = 3
    places, plans = example.walks(2, 0.5, seed=1)
    assert plans.shape == (len(places), 16)
    assert torch.equal(plans[0, 2:], plans[1, :-2])  # a place's plan goes on as its follower's
    for model in ("flow", "diffusion"):
        net = example.learn((places, plans), model, 3, seed=0)
        success, steps, _ = example.evaluate(
            lambda place, net=net, model=model: example.sampler(example.predictor(net, place), model), 1
        )
        assert 0 <= success <= 1
        assert 0 < steps <= 100
