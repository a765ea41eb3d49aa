"""Any finite decision process as an environment of discrete actions.

Legend: B worlds, S states, O observation, A actions, m reward components.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.base import Outcome, VectorEnv, take
from rlsuite.envs.discrete import chosen_action
from rlsuite.envs.seeding import WORDS, Seeds, make_generators, pack_generators, unpack_generators
from rlsuite.errors import DataError
from rlsuite.returns.mdp import MDP, State
from rlsuite.returns.table import tabulate


class TableWorld(VectorEnv):
    """B copies of an MDP; see `VectorEnv` for the contract. The episode ends in a state without actions.

    Rewards that are vectors are summed in `reward`; `vector_reward` has their components.

    Args:
        env_id: the name that makes this environment again.
        mdp: the process.
        features: what is shown of a state, the same number of numbers for every state.
        num_envs: B.
        device: where tensors are handed out; all worlds are simulated on the CPU.
        seed: of world 0, world i using seed + i; or one for every world.
        dtype: of observations, rewards and actions.
        max_episode_steps: a time limit; a horizon that ends the return is part of the state.
        return_range: least and greatest return, where known.
        return_gamma: discount of stocks; 1 for processes whose horizon ends the return.
    """

    def __init__(
        self,
        env_id: str,
        mdp: MDP,
        features: Callable[[State], Sequence[float]],
        num_envs: int = 1,
        *,
        device: torch.device | str = "cpu",
        seed: Seeds = 0,
        dtype: torch.dtype = torch.float32,
        max_episode_steps: int | None = None,
        return_range: tuple[float, float] | None = None,
        return_gamma: float = 1.0,
    ) -> None:
        table = tabulate(mdp)
        shown = torch.tensor([list(features(state)) for state in table.states], dtype=torch.float64)
        ones = np.ones(table.probability.shape[1])
        super().__init__(
            env_id=env_id,
            engine_name="none",
            num_envs=num_envs,
            observation_size=shown.shape[-1],
            action_low=-ones,
            action_high=ones,
            max_episode_steps=max_episode_steps,
            packages=(),
            device=device,
            dtype=dtype,
        )
        self.discrete = True
        self.return_range, self.return_gamma = return_range, return_gamma
        self.mdp, self.table = mdp, table
        self._shown = shown
        self._limits = table.probability.cumsum(-1)
        self._starts = table.start.cumsum(-1)
        self._place = torch.zeros(num_envs, dtype=torch.int64)
        if mdp.reward_size is not None:
            self.vector_reward = torch.zeros(num_envs, mdp.reward_size, dtype=torch.float64)
        self._set_seed(seed)

    def states(self) -> list[State]:
        """Return the state of every world."""
        return [self.table.states[place] for place in self._place.tolist()]

    def frame(self, world: int = 0) -> np.ndarray:
        """Return a picture of one world, uint8 `[height, width, 3]`: its features as grey cells."""
        cells = self._shown[self._place[world]].clamp(0, 1).numpy()
        return np.repeat(np.repeat((255 * cells).astype(np.uint8)[None, :, None], 3, 2), 20, 0).repeat(20, 1)

    def _set_seed(self, seed: Seeds) -> None:
        self._generators = make_generators(seed, self.num_envs)

    def _advance(self, action: Tensor) -> Outcome:
        where = self._place, chosen_action(action)
        draw = torch.tensor([[generator.random()] for generator in self._generators], dtype=torch.float64)
        # The last outcome takes what rounding left of the probability.
        limits = self._limits[where][:, :-1]
        outcome = (draw >= limits).sum(-1)
        reward = self.table.reward[(*where, outcome)]
        self._place = self.table.following[(*where, outcome)]
        if reward.ndim > 1:
            self.vector_reward, reward = reward, reward.sum(-1)
        return Outcome(self._shown[self._place], reward, self.table.terminal[self._place])

    def _restart(self, mask: Tensor) -> Tensor:
        self._place = self._place.clone()  # the old one has been handed out
        for world in mask.nonzero().flatten().tolist():
            draw = self._generators[world].random()
            self._place[world] = int((draw >= self._starts[:-1]).sum())
        return self._shown[self._place]

    def _own_state(self) -> dict[str, Tensor]:
        return {"place": self._place.clone(), "generators": pack_generators(self._generators)}

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        place = take(state, "place", self._place.shape)
        if place.dtype != torch.int64 or not bool(((place >= 0) & (place < len(self.table.states))).all()):
            raise DataError(f"environment state place: not among the {len(self.table.states)} states")
        self._generators = unpack_generators(take(state, "generators", (self.num_envs, WORDS)))
        self._place = place.clone()
