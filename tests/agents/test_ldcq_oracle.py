"""LDCQ's stages equal a program written from their equations: a hundred updates of each, float64, 1e-12."""

import pytest
import torch
from ldcq_helpers import small_ldcq, windows
from ldcq_reference import Denoiser, Q, Skills, Values, schedule

pytestmark = pytest.mark.usefixtures("float64")

UPDATES = 100
COUNTS = {f"{stage}_updates": UPDATES for stage in ("skills", "prior", "values")}
RATES = {"lr_skills": 1e-3, "lr_prior": 1e-3, "lr_values": 1e-3, "decay": (), "state_dropout": 0.0}
RELEASED = {
    "networks": "released",
    "std_min": 0.0,
    "successor": "last",
    "short_windows": False,
    "indexing": "released",
    "normalize_latents": False,
    "window_discount": False,
    "weighting": "mean",
    "priority": 0.6,
}


def check(weights, module, member=None):
    """All tensors agree."""
    for name, p in module.named_parameters():
        own = p if member is None else p[member]
        distance = (own - weights.of[name]).norm() / weights.of[name].norm()
        assert distance.item() <= 1e-12, name


@pytest.mark.parametrize("fields", [{}, RELEASED], ids=["ours", "released"])
def test_a_hundred_updates_of_every_stage(fields):
    agent = small_ldcq(**COUNTS, **RATES, widths=(8, 6, 4), encoder_layers=2, **fields)
    c, shape = agent.config, agent.windows
    data = windows(short=shape.short, inner=shape.inner)
    stream = torch.Generator()
    stream.set_state(agent.generators["learn"].get_state())
    skills, denoiser, values = Skills(agent.skills, c), Denoiser(agent.denoiser, c), Values(agent)
    adams = {"skills": skills.adam(c.lr_skills), "prior": denoiser.adam(c.lr_prior)}
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    for stage in ("skills", "prior", "values"):
        for _ in range(UPDATES):
            agent.prepare(data)
            assert agent.stage == stage
            batch = data.sample()
            metrics = agent.update(batch)
            if stage == "skills":
                rows = (batch["observation"], batch["action"], batch["mask"], batch["next", "observation"])
                adams[stage].descend(skills.loss(*rows, stream))
            elif stage == "prior":
                z = (batch["latent"] - agent.actor.latent_mean) / agent.actor.latent_std
                adams[stage].descend(denoiser.loss(z, batch["observation"], stream))
            else:
                priority = values.update(batch, stream)
                torch.testing.assert_close(metrics["priority"], priority, rtol=1e-9, atol=0)
                data.reprioritise(batch["index"], metrics["priority"])
        whole = data.steps(torch.arange(len(data)))
        if stage == "skills":
            check(skills, agent.skills)
            agent.prepare(data)
            means = skills.encode(whole["observation"], whole["action"], whole["mask"])[0]
            torch.testing.assert_close(data.columns["latent"], means.detach(), rtol=0, atol=1e-12)
        elif stage == "prior":
            check(denoiser, agent.denoiser)
            agent.prepare(data)
            drawn = torch.Generator().manual_seed(int(agent.candidate_seed))
            with torch.no_grad():
                z = denoiser.sample(whole["next", "observation"], c.stored, drawn)
            z = agent.actor.latent_mean + agent.actor.latent_std * z
            torch.testing.assert_close(data.columns["candidates"].double(), z, rtol=1e-3, atol=1e-3)
    for member in (0, 1):
        check(values.critics[member], agent.critic, member)
        check(values.targets[member], agent.target_critic, member)
    moved = [(p - before[name]).norm() / before[name].norm() for name, p in agent.named_parameters()]
    assert min(moved).item() >= 5e-4
    assert torch.equal(stream.get_state(), agent.generators["learn"].get_state())


@pytest.mark.parametrize("networks", ["ours", "released"])
def test_networks_of_the_published_sizes(networks, monkeypatch):
    """In single precision, as they are trained, within 1e-5."""
    torch.set_default_dtype(torch.float32)  # the fixture puts it back
    agent = small_ldcq(networks=networks, hidden=256, encoder_layers=4, latent=16, widths=(128, 32, 16, 8),
                       features=256, critic_scale=1.0, std_min=0.0, diffusion_steps=100)  # fmt: skip
    g = torch.Generator().manual_seed(1)
    s, a = torch.randn(5, 30, 4, generator=g), torch.rand(5, 30, 2, generator=g) * 2 - 1
    z, t = torch.randn(5, 3, 16, generator=g), torch.tensor([1, 2, 50, 99, 100])
    with torch.no_grad():
        posterior = agent.skills.encoder(s, a, torch.ones(5, 30))
        mean, std = Skills(agent.skills, agent.config).encode(s, a, torch.ones(5, 30))
        torch.testing.assert_close(posterior.mean[:, 0], mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(posterior.std[:, 0], std, rtol=0, atol=1e-5)
        found = agent.denoiser(z, t, agent.denoiser.contexts(s[:, 0]))
        expected = Denoiser(agent.denoiser, agent.config)(z, t.float(), s[:, 0])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        q = agent.critic(s[:, 0], z)
        for member in (0, 1):
            tiled = s[:, :1].expand(-1, 3, -1)
            torch.testing.assert_close(q[member], Q(agent.critic, member)(tiled, z), rtol=0, atol=1e-5)


@pytest.mark.parametrize("indexing", ["standard", "released"])
def test_the_schedule_of_the_program_is_the_agents(indexing):
    agent = small_ldcq(indexing=indexing, diffusion_steps=100)
    beta, kept = schedule(agent.config)
    torch.testing.assert_close(agent.noise_schedule.beta[1:], beta[1:], rtol=1e-6, atol=0)
    torch.testing.assert_close(agent.noise_schedule.kept, kept, rtol=1e-6, atol=0)
    assert torch.equal(agent.actor.schedule.kept, agent.noise_schedule.kept)
