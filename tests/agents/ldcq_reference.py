"""A plain program of LDCQ's three stages and of both kinds of its networks, written from their equations.

Weights are those of an agent by name; nothing else is the agent's. Windows come as tensors, chance from a
random stream in the agent's order.
"""

import torch
from references import Adam, draw, gelu, normal_log_density, softplus


def relu(x):
    return x.clamp(min=0)


class Weights:
    """Tensors by name, of one member where networks are stacked."""

    def __init__(self, module, member=None):
        self.of = {}
        for name, p in module.named_parameters():
            own = p.detach() if member is None else p.detach()[member]
            self.of[name] = own.clone().requires_grad_()

    def linear(self, name, x):
        return x @ self.of[f"{name}.weight"].T + self.of[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.of[f"{name}.weight"] + self.of[f"{name}.bias"]

    def adam(self, rate):
        return Adam(self.of.values(), torch.tensor(rate, dtype=torch.float32).item())


# The skill model


class Skills(Weights):
    def __init__(self, module, c):
        super().__init__(module)
        self.c = c

    def gaussian(self, name, x):
        """Two heads of one hidden layer."""
        mean, raw = (
            self.linear(f"{name}.{part}.2", relu(self.linear(f"{name}.{part}.0", x)))
            for part in ("mean", "raw_std")
        )
        return mean, softplus(raw) + self.c.std_min

    def network(self, name, x):
        """Two hidden layers, then the heads."""
        hidden = relu(self.linear(f"{name}.trunk.2", relu(self.linear(f"{name}.trunk.0", x))))
        return self.gaussian(f"{name}.head", hidden)

    def gru(self, x, layer, direction):
        """Cho et al. 2014 as torch has it: reset, update, candidate."""
        names = ("input_weight", "input_bias", "hidden_weight", "hidden_bias")
        wi, bi, wh, bh = (self.of[f"encoder.gru.{name}_{layer}"][direction] for name in names)
        h = torch.zeros(len(x), wh.shape[0])
        states = {}
        order = range(x.shape[1]) if direction == 0 else reversed(range(x.shape[1]))
        for t in order:
            ir, iz, i_n = (x[:, t] @ wi + bi).chunk(3, -1)
            hr, hz, hn = (h @ wh + bh).chunk(3, -1)
            reset, update = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
            h = (1 - update) * torch.tanh(i_n + reset * hn) + update * h
            states[t] = h
        return torch.stack([states[t] for t in range(x.shape[1])], 1)

    def encode(self, s, a, mask):
        """q(z | window): forward features at the last step, backward ones at the first or there too."""
        embedded = relu(self.linear("encoder.embed.2", relu(self.linear("encoder.embed.0", s))))
        x = torch.cat((embedded, a), -1) * mask[..., None]
        for layer in range(self.c.encoder_layers):
            x = torch.cat([self.gru(x, layer, direction) for direction in (0, 1)], -1)
        rows, last = torch.arange(len(x)), mask.sum(-1).long() - 1
        ahead, back = x.chunk(2, -1)
        back = back[rows, last] if self.c.networks == "released" else back[:, 0]
        return self.gaussian("encoder.head", torch.cat((ahead[rows, last], back), -1))

    def loss(self, s, a, mask, s_end, stream):
        """mean_t -log pi + (beta KL(q || p) - log p(s_H | s_0, z)) / H."""
        mean, std = self.encode(s, a, mask)
        z = mean + std * draw(mean[:, None], stream)[:, 0]
        log_pi = torch.zeros(s.shape[:2])
        tiled = z[:, None].expand(-1, s.shape[1], -1)
        for i in range(a.shape[-1]):
            mu, sigma = self.network(f"decoder.members.{i}", torch.cat((s, tiled, a[..., :i]), -1))
            log_pi = log_pi + normal_log_density(a[..., i : i + 1], mu, sigma)[..., 0]
        prior_mean, prior_std = self.network("state_prior", s[:, 0])
        q, p = torch.distributions.Normal(mean, std), torch.distributions.Normal(prior_mean, prior_std)
        kl = torch.distributions.kl_divergence(q, p).sum(-1)
        reached = self.network("dynamics", torch.cat((s[:, 0], z.detach()), -1))
        final = normal_log_density(s_end, *reached).sum(-1)
        steps = -log_pi[mask == 1].mean()
        return steps + (self.c.beta * kl.mean() - final.mean()) / self.c.horizon


# The diffusion prior


def schedule(c):
    """beta_t and alpha bar_t for t = 0 ... T, linear; the authors' product takes beta_1 at t = 0 as well."""
    beta = [1e-4 + (0.02 - 1e-4) * k / (c.diffusion_steps - 1) for k in range(c.diffusion_steps)]
    kept = [1 - beta[0] if c.indexing == "released" else 1.0]
    for b in beta:
        kept.append(kept[-1] * (1 - b))
    return torch.tensor([beta[0], *beta]), torch.tensor(kept)


class Denoiser(Weights):
    """Predicts z_0 of `z` `[N, C, Z]` at times `[N]` and states `[N, O]`."""

    def __init__(self, module, c):
        super().__init__(module)
        self.c, self.depth = c, len(c.widths)
        self.released = c.networks == "released"

    def embed(self, name, x):
        x = gelu(self.norm(f"{name}.1", self.linear(f"{name}.0", x)))
        x = self.linear(f"{name}.3", x)
        return gelu(self.norm(f"{name}_norm", x) if self.released else x)

    def block(self, name, x, t, s):
        """LN(W s) beside x; linear, LN, FiLM by t, GELU; linear, LN, GELU; and x itself."""
        first, second, third = (f"{name}.norms.{0 if self.released else k}" for k in range(3))
        scale, shift = self.linear(f"{name}.film", t).chunk(2, -1)
        context = self.norm(first, self.linear(f"{name}.project", s)).expand(*x.shape[:2], -1)
        h = self.norm(second, self.linear(f"{name}.first", torch.cat((x, context), -1)))
        h = gelu(h * (scale + 1) + shift)
        return gelu(self.norm(third, self.linear(f"{name}.second", h))) + x

    def times(self, t):
        half = 64
        lowest = half - 1 if self.released else half
        angles = t[:, None] * torch.tensor([10_000.0 ** (-k / lowest) for k in range(half)])
        return torch.cat((angles.sin(), angles.cos()), -1)

    def __call__(self, z, t, s):
        t_e, s_e = self.embed("time", self.times(t))[:, None], self.embed("state", s)[:, None]
        x = self.linear("enter", z)
        return self.linear("leave", self.theirs(x, t_e, s_e) if self.released else self.ours(x, t_e, s_e))

    def ours(self, x, t, s):
        skips = []
        for k in range(self.depth):
            if k:
                skips.append(x)
                x = self.linear(f"narrow.{k - 1}", x)
            x = self.block(f"down.{k}", x, t, s)
        for k in range(self.depth - 1, -1, -1):
            x = self.block(f"up.{k}", x, t, s)
            if k:
                x = torch.cat((self.linear(f"widen.{k - 1}", x), skips.pop()), -1)
                x = self.linear(f"join.{k - 1}", x)
        return x

    def theirs(self, x, t, s):
        stem, levels = x, []
        for k in range(self.depth):
            if k:
                x = gelu(self.norm(f"norms.{k}", self.linear(f"narrow.{k - 1}", x)))
            x = self.block(f"down.{k}", x, t, s)
            levels.append(x)
        for k in range(self.depth - 2, -1, -1):
            x = gelu(self.norm(f"norms.{k}", self.linear(f"widen.{k}", x))) + levels[k]
            x = self.block(f"up.{k}", x, t, s)
        return self.block("final", x + stem, t, s)

    def loss(self, z, s, stream):
        """mean min(SNR(t), 5) (z_0 - f)^2 at t uniform in 1 ... T."""
        _, kept = schedule(self.c)
        lots = torch.empty(len(z), 2).uniform_(generator=stream)
        t = (1 + lots[:, 0] * self.c.diffusion_steps).long()
        noisy = kept[t].sqrt()[:, None] * z + (1 - kept[t]).sqrt()[:, None] * draw(z, stream)
        weight = (kept[t] / (1 - kept[t])).clamp(max=5)
        keep = (lots[:, 1:] >= self.c.state_dropout).double()
        assert bool(keep.all()), "the program knows all states"
        error = (z - self(noisy[:, None], t.double(), s)[:, 0]) ** 2
        return (weight[:, None] * error).mean()

    def sample(self, s, count, stream):
        """Ho et al. 2020, algorithm 2, in terms of z_0; then the last step again, as often as asked for."""
        beta, kept = schedule(self.c)
        z = draw(torch.empty(len(s), count, self.c.latent), stream)
        for t in [*range(self.c.diffusion_steps, 0, -1), *[1] * self.c.extra_steps]:
            clean = self(z, torch.full((len(s),), float(t)), s)
            eps = (z - kept[t].sqrt() * clean) / (1 - kept[t]).sqrt()
            z = (z - eps * beta[t] / (1 - kept[t]).sqrt()) / (1 - beta[t]).sqrt()
            if t > 1:
                z = z + beta[t].sqrt() * draw(z, stream)
        return z


# Values


class Q(Weights):
    def branch(self, name, norm, x):
        x = gelu(self.norm(f"{name}.1", self.linear(f"{name}.0", x)))
        return gelu(self.norm(norm, self.linear(f"{name}.3", x)))

    def __call__(self, s, z):
        """Q(s, z) of one member, [N]."""
        x = torch.cat((self.branch("state", "norms.0", s), self.branch("latent", "norms.1", z)), -1)
        x = gelu(self.norm("joint.1", self.linear("joint.0", x)))
        x = gelu(self.norm("joint.4", self.linear("joint.3", x)))
        return self.linear("joint.6", x)[..., 0]


class Values:
    """Double Q-learning among latents: the other target critic picks, the smaller of both values counts."""

    def __init__(self, agent):
        self.c, self.k = agent.config, 0
        self.critics = [Q(agent.critic, member) for member in (0, 1)]
        self.targets = [Q(agent.critic, member) for member in (0, 1)]
        self.adams = [critic.adam(self.c.lr_values) for critic in self.critics]

    def update(self, batch, stream):
        """One step of both; returns the priorities."""
        c, s, s_end, candidates = (
            self.c,
            batch["observation"],
            batch["next", "observation"],
            batch["candidates"],
        )
        if c.target_candidates < c.stored:
            lots = torch.empty(len(s), c.target_candidates).uniform_(generator=stream)
            picked = (lots * c.stored).long()
            candidates = candidates[torch.arange(len(s))[:, None], picked]
        candidates, rows = candidates.double(), torch.arange(len(s))
        exponent = c.correction + (1 - c.correction) * min(1, self.k / c.values_updates)
        weight = batch["probability"] ** -exponent
        weight = weight / weight.max()
        errors = []
        with torch.no_grad():
            tiled = s_end[:, None].expand(-1, candidates.shape[1], -1)
            of = [target(tiled, candidates) for target in self.targets]
            best = [of[1].argmax(-1), of[0].argmax(-1)]
        for critic, adam, z in zip(self.critics, self.adams, best, strict=True):
            worth = torch.minimum(of[0], of[1])[rows, z]
            y = batch["reward"].double() + batch["discount"].double() * worth
            error = (critic(s, batch["latent"]) - y) ** 2
            if c.weighting == "mean":  # [N, 1] times [N], as it was released
                loss = (error[:, None] * weight).mean()
            else:
                loss = (error * weight).mean()
            gradients = torch.autograd.grad(loss, adam.parameters)
            norm = sum((g**2).sum() for g in gradients).sqrt()
            adam.step([g * min(1.0, c.max_norm / norm.item()) for g in gradients])
            errors.append(error.detach())
        for target, critic in zip(self.targets, self.critics, strict=True):
            for name, own in target.of.items():
                own.data.copy_((1 - c.tau) * own + c.tau * critic.of[name])
        self.k += 1
        return ((errors[0] + errors[1]) / 2 + 5e-6) ** c.priority
