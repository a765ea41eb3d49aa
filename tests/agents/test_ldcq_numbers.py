"""LDCQ held to numbers: schedules, samplers, divergence, returns, targets, shapes."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from ldcq_helpers import TINY, small_ldcq
from ldcq_helpers import rows as recorded
from torch import Tensor

from rlsuite.agents.ldcq.model import Decoder, GRUEncoder, TransformerEncoder, kl_divergence, skill_loss
from rlsuite.agents.ldcq.values import (
    choose,
    importance_weights,
    latent_targets,
    weighted_loss,
    window_targets,
)
from rlsuite.blocks.diffusion import (
    Denoiser,
    Schedule,
    ancestral,
    ddim,
    ddim_times,
    denoising_loss,
    implied_noise,
    make_schedule,
    min_snr_weight,
    noised,
)
from rlsuite.blocks.heads import Gaussian
from rlsuite.replay.windows import WindowReplay


def double(steps: int, **fields) -> Schedule:
    return make_schedule(steps, dtype=torch.float64, **fields)


def test_the_released_schedule_counts_its_first_variance_twice():
    ours, theirs = double(100), double(100, released_indexing=True)
    assert ours.beta[1].item() == pytest.approx(1e-4) and ours.beta[100].item() == pytest.approx(0.02)
    for time, kept in ((1, 0.99980001), (50, 0.777102), (100, 0.363527)):
        assert theirs.kept[time].item() == pytest.approx(kept, abs=5e-7)
        assert ours.kept[time].item() == pytest.approx(theirs.kept[time].item() / 0.9999, rel=1e-12)
    assert double(200, released_indexing=True).kept[200].item() == pytest.approx(0.132170, abs=5e-7)
    assert ours.kept[0] == 1 and theirs.kept[0].item() == pytest.approx(1 - 1e-4)


def test_min_snr_weights():
    weight = min_snr_weight(double(100, released_indexing=True), 5.0)
    assert (weight[1:43] == 5).all() and weight[43] < 5
    assert weight[50].item() == pytest.approx(3.48636, abs=5e-6)
    assert weight[100].item() == pytest.approx(0.571158, abs=5e-7)
    longer = min_snr_weight(double(200, released_indexing=True), 5.0)
    assert (longer[1:60] == 5).all() and longer[60] < 5
    assert min_snr_weight(double(100), 5.0)[0] == 5  # nothing was added: the ratio is infinite


@pytest.mark.parametrize("kind", ["linear", "quadratic", "cosine"])
def test_every_schedule_only_loses_signal(kind):
    schedule = double(20, name=kind)
    assert schedule.steps == 20
    assert (schedule.kept.diff() < 0).all() and schedule.kept[-1] >= 0
    if kind == "cosine":
        assert schedule.kept[-1] < 1e-3


def test_noise_and_latent_say_the_same():
    schedule = double(100, released_indexing=True)
    one, half = torch.ones(1, dtype=torch.float64), torch.full((1,), -0.5, dtype=torch.float64)
    noisy = noised(schedule, one, torch.tensor(50), half)
    assert noisy.item() == pytest.approx(0.645473, abs=1e-6)
    assert schedule.kept[50].sqrt().item() == pytest.approx(0.881534, abs=1e-6)
    assert implied_noise(schedule, noisy, one, 50).item() == pytest.approx(-0.5, abs=1e-12)


def drawn(schedule: Schedule, truth: Tensor, extra: int) -> Tensor:
    g = torch.Generator().manual_seed(0)
    start = torch.randn(truth.shape, generator=g, dtype=torch.float64)

    def noise(like):
        return torch.randn(like.shape, generator=g, dtype=torch.float64)

    return ancestral(schedule, lambda latent, time: truth, start, noise, extra)


@pytest.mark.parametrize("extra", [0, 3])
def test_a_perfect_denoiser_is_reached_exactly(extra):
    truth = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert (drawn(double(30), truth, extra) - truth).abs().max() < 1e-12
    for count in (1, 4, 30):
        assert (ddim(double(30), lambda latent, time: truth, -truth, count) - truth).abs().max() < 1e-12


def test_the_released_indexing_halves_the_distance_only():
    truth = torch.zeros(5, 1, 2, dtype=torch.float64)
    schedule = double(30, released_indexing=True)
    gaps = [drawn(schedule, truth, extra).abs() for extra in range(4)]
    for before, after in pairwise(gaps):
        torch.testing.assert_close(after / before, torch.full_like(before, 0.5), rtol=0, atol=1e-3)


def test_ancestral_draws_have_the_spread_of_their_target():
    """With the exact posterior mean of N(0, 0.5^2) as denoiser, samples are spread 0.5 again."""
    schedule, variance = double(200, name="cosine"), 0.25

    def posterior_mean(latent, time):
        kept = schedule.kept[time]
        return kept.sqrt() * variance / (kept * variance + 1 - kept) * latent

    g = torch.Generator().manual_seed(0)
    start = torch.randn(20_000, 1, 1, generator=g, dtype=torch.float64)
    found = ancestral(
        schedule, posterior_mean, start, lambda x: torch.randn(x.shape, generator=g, dtype=torch.float64)
    )
    assert found.std().item() == pytest.approx(0.5, rel=0.05)
    assert ddim(schedule, posterior_mean, start, 100).std().item() == pytest.approx(0.5, rel=0.05)


def test_ddim_times_end_before_clean():
    assert ddim_times(100, 4) == [100, 75, 50, 25]
    assert ddim_times(6, 6) == [6, 5, 4, 3, 2, 1]


def test_denoising_loss_weighs_rows():
    clean, predicted = torch.zeros(2, 3), torch.tensor([[1.0, 1, 1], [2, 2, 2]])
    assert denoising_loss(clean, predicted, torch.tensor([5.0, 0.5])).item() == pytest.approx((5 + 2) / 2)


def test_divergence_and_its_share_of_the_loss():
    left = Gaussian(torch.ones(1, 16, dtype=torch.float64), torch.full((1, 16), 0.5, dtype=torch.float64))
    right = Gaussian(torch.zeros_like(left.mean), torch.ones_like(left.mean))
    kl = kl_divergence(left, right)
    assert (kl / 16).item() == pytest.approx(0.818147, abs=5e-7)
    none = torch.zeros(1, 30, dtype=torch.float64)
    loss, parts = skill_loss(none, torch.ones_like(none), kl, torch.zeros(1, dtype=torch.float64), 0.05, 30)
    assert loss.item() == pytest.approx(0.0218173, abs=5e-8)
    assert parts["skills/kl"].item() == pytest.approx(13.0904, abs=5e-5)


def test_what_lies_beyond_a_window_is_no_loss():
    log_prob, mask = torch.tensor([[-1.0, -3.0, -100.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    loss, _ = skill_loss(log_prob, mask, torch.zeros(1), torch.zeros(1), 0.05, 3)
    assert loss.item() == 2.0


A, B = [1.0, 3.0, 2.0], [4.0, 0.5, 2.5]  # of both target critics at three candidates


@pytest.mark.parametrize(
    ("discount", "expected"), [(0.995**10, [2.951110, 2.475555]), (0.995, [2.995, 2.4975]), (0.0, [2.0, 2.0])]
)
def test_targets_of_the_released_choice(discount, expected):
    next_q = torch.tensor([A, B], dtype=torch.float64).unsqueeze(-2)  # [2, N = 1, C = 3]
    reward, left = torch.full((1,), 2.0, dtype=torch.float64), torch.full((1,), discount, dtype=torch.float64)
    found = latent_targets(reward, left, next_q, "other").squeeze(-1)
    assert found.tolist() == pytest.approx(expected, abs=5e-7)


def test_targets_of_the_papers_choice_are_the_best_smaller_value():
    next_q = torch.tensor([A, B]).unsqueeze(-2)
    found = latent_targets(torch.tensor([2.0]), torch.tensor([0.5]), next_q, "smaller").squeeze(-1)
    assert found.tolist() == [3.0, 3.0]  # min(A, B) = [1, 0.5, 2]
    assert choose(next_q).item() == 2


def test_importance_weights_and_their_loss():
    weight = importance_weights(torch.tensor([0.20777, 0.31491, 0.47732]), 0.3)
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.88270, 0.77916]), rtol=0, atol=2e-5)
    q, target = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.zeros(2, 3)
    loss = weighted_loss(q, target, torch.tensor([1.0, 0.5, 0.0]))
    assert loss.tolist() == [1.0, 0.0]


def test_the_released_weights_correct_for_nothing():
    """A product of [N, 1] and [N] is [N, N]: its mean is that of the losses times that of the weights."""
    g = torch.Generator().manual_seed(0)
    q, target, weight = (
        torch.randn(2, 7, generator=g),
        torch.randn(2, 7, generator=g),
        torch.rand(7, generator=g),
    )
    squared = (q - target).square()
    broadcast = torch.stack([(member.unsqueeze(-1) * weight).mean() for member in squared])
    torch.testing.assert_close(weighted_loss(q, target, weight, "mean"), broadcast)
    torch.testing.assert_close(broadcast, squared.mean(-1) * weight.mean())
    assert not torch.allclose(weighted_loss(q, target, weight), broadcast)


REWARDS = [0, 0, 1, 2, 2, 0, 5, 0, 0, 0, 0, 3, 0]  # of one episode; the other's are 0 but for its fourth


def two_episodes(**fields) -> WindowReplay:
    """Windows of four steps, of two episodes of 13 rows; the first one terminates."""
    rows, _ = recorded()
    rows = rows[:26].clone()
    reward = torch.zeros(26)
    reward[:13], reward[16] = torch.tensor(REWARDS).float(), 1.0
    rows["next", "reward"] = reward.unsqueeze(-1)
    episodes = torch.tensor([[0, 13], [13, 26]])
    return WindowReplay(rows, episodes, horizon=4, short=False, batch_size=8, **fields)


TARGETS = {"gamma": 0.9, "window_gamma": 1.0, "bootstrap": "step", "window_reward": "sum", "scale": 1.0}


def by_hand(data, of):
    """`of` the rewards of every window, as numpy has them."""
    reward = data.rows["next", "reward"].squeeze(-1)
    return [of(reward[start : start + 4].numpy()) for start in data.starts.tolist()]


def test_windows_of_the_released_antmaze():
    data = two_episodes()
    found = window_targets(data, ends="reward", **{**TARGETS, "window_reward": "goal"})
    assert found.reward.tolist() == by_hand(data, lambda rewards: 4.0 * (rewards > 0).any())
    assert found.kept.tolist() == [True] + [False] * 9 + [True] + [False] * 9  # rows 0 to 3 and 13 to 16
    assert found.discount.tolist() == pytest.approx([0.9 * (r == 0) for r in found.reward.tolist()])
    assert found.range == (0.0, 4.0)
    data.start_priorities(found.kept)
    drawn = {int(i) for _ in range(20) for i in data.sample()["index"]}
    assert drawn == {0, 10}


def test_windows_of_the_released_kitchen():
    data = two_episodes()
    found = window_targets(data, ends="never", **{**TARGETS, "window_reward": "increments"})
    assert found.reward.tolist() == by_hand(data, lambda rewards: np.diff(rewards, prepend=rewards[0]).sum())
    assert found.discount.tolist() == pytest.approx([0.9] * 20)
    assert found.range == pytest.approx((-50.0, 30.0), rel=1e-6)  # 0 to 0 behind the 5, 2 to 5 before it


def test_windows_of_the_released_locomotion():
    data = two_episodes()
    fields = {**TARGETS, "bootstrap": "window", "scale": 0.1}
    found = window_targets(data, ends="terminated", **fields)
    assert found.reward.tolist() == pytest.approx(by_hand(data, lambda rewards: rewards.sum() / 10))
    assert found.kept.all()
    terminal = data.starts == 9  # the window that ends with the first episode
    assert found.discount.tolist() == pytest.approx(torch.where(terminal, 0.0, 0.9**4).tolist())


def test_a_window_may_lead_to_its_own_last_state():
    ours, released = two_episodes(), two_episodes(inner=True)
    index = torch.arange(len(ours))
    for content in ("steps", "ends"):
        after = getattr(ours, content)(index)["next", "observation"]
        last = getattr(released, content)(index)["next", "observation"]
        assert torch.equal(after, ours.rows["next", "observation"][ours.starts + 3])
        assert torch.equal(last, ours.rows["observation"][ours.starts + 3])


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_shapes_of_the_skill_model(lead, kind):
    fields = {"std_min": 0.01, "lead": lead, "generator": None}
    if kind == "gru":
        encoder = GRUEncoder(4, 2, 3, 8, 2, **fields)
    else:
        encoder = TransformerEncoder(4, 2, 3, 8, 2, horizon=5, **fields)
    observation, action = torch.randn(*lead, 6, 5, 4), torch.rand(*lead, 6, 5, 2)
    mask = torch.ones(*lead, 6, 5)
    mask[..., 0, 3:] = 0
    posterior = encoder(observation, action, mask)
    assert posterior.mean.shape == posterior.std.shape == (*lead, 6, 1, 3)
    other = observation.clone()
    other[..., 0, 3:, :] = 100.0
    torch.testing.assert_close(encoder(other, action, mask).mean, posterior.mean)  # beyond the window's end
    other[..., 0, 2, :] = 100.0
    assert not torch.allclose(encoder(other, action, mask).mean[..., 0, :, :], posterior.mean[..., 0, :, :])
    decoder = Decoder(4, 2, 3, 8, **fields)
    assert decoder.log_prob(observation, action, posterior.mean).shape == (*lead, 6, 5)


def test_the_decoder_says_one_action_after_the_other():
    decoder = Decoder(4, 2, 3, 8, std_min=0.01)
    observation, latent = torch.randn(7, 4), torch.randn(7, 3)
    found = decoder.act(observation, latent)
    first = decoder.members[0](torch.cat((observation, latent), -1))
    second = decoder.members[1](torch.cat((observation, latent, found[:, :1]), -1))
    torch.testing.assert_close(found[:, :1], first.mean.clamp(-1, 1))
    torch.testing.assert_close(found[:, 1:], second.mean.clamp(-1, 1))
    log_prob = decoder.log_prob(observation.unsqueeze(1), found.unsqueeze(1), latent.unsqueeze(1))
    by_hand = sum(
        -0.5 * ((found[:, [i]] - g.mean) / g.std).square() - g.std.log() - 0.5 * math.log(2 * math.pi)
        for i, g in enumerate((first, second))
    )
    torch.testing.assert_close(log_prob, by_hand)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_candidates_and_choice(lead):
    agent = small_ldcq(lead=lead)
    agent.actor.learnt[:] = 1
    state = torch.randn(*lead, 6, 4)
    plan = agent.actor.plan(state, torch.randn_like)
    count = TINY["candidates"]
    assert plan.candidates.shape == (*lead, 6, count, 3)
    assert plan.best.shape == (*lead, 6) and (plan.best >= 0).all() and (plan.best < count).all()
    q = agent.critic(state, plan.candidates).amin(-3)
    assert torch.equal(plan.best, q.argmax(-1))
    taken = plan.candidates.gather(-2, plan.best[..., None, None].expand(*lead, 6, 1, 3)).squeeze(-2)
    assert torch.equal(plan.latent, taken)


def test_guidance_leaves_the_unconditional_prediction_behind():
    denoiser = Denoiser(4, 3, (8, 4), 8, generator=torch.Generator().manual_seed(0))
    state, latent = torch.randn(2, 4), torch.randn(2, 5, 3)
    with torch.no_grad():
        plain, guided = denoiser.predictor(state)(latent, 3), denoiser.predictor(state, 0.5)(latent, 3)
        unknown = denoiser.contexts(torch.zeros(2, 4), torch.zeros(2))
        without = denoiser(latent, torch.full((1,), 3.0), unknown)
    torch.testing.assert_close(guided, plain + 0.5 * (plain - without))
    assert not torch.allclose(plain, without)
