"""Any finite decision process as an environment of discrete actions.

Legend: B envs, S states, O observation, A actions, m reward components.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.base import EnvFacts, Outcome, VectorEnv, take
from rlsuite.envs.discrete import chosen_action
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.seeding import WORDS, Seeds, make_generators, pack_generators, unpack_generators
from rlsuite.errors import DataError
from rlsuite.returns.mdp import MDP, State
from rlsuite.returns.table import tabulate


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """Facts about a table besides its numbers.

    Attributes:
        env_id: the name that makes this environment again.
        features: what is shown of a state, the same number of numbers for every state.
        horizon: env steps after which the process has ended by itself: the time limit is later.
        return_range: least and greatest return, where known.
        return_gamma: discount of stocks; 1 for processes whose horizon ends the return.
    """

    env_id: str
    features: Callable[[State], Sequence[float]]
    horizon: int
    return_range: tuple[float, float] | None = None
    return_gamma: float = 1.0


class TableEnv(VectorEnv):
    """B copies of an MDP; see `VectorEnv` for the contract. The episode ends in a state without actions.

    Rewards that are vectors are summed in `reward`; `Outcome.rewards` has their components.

    Args:
        mdp: the process.
        table: its name, and what is shown of it.
        num_envs: B.
        options: see `EnvOptions`; a horizon that ends the return is part of the state, and no time limit.
    """

    def __init__(self, mdp: MDP, table: TableFacts, num_envs: int, options: EnvOptions) -> None:
        tabulated = tabulate(mdp)
        shown = np.array([list(table.features(state)) for state in tabulated.states], np.float64)
        ones = np.ones(tabulated.probability.shape[1])
        facts = EnvFacts(
            env_id=table.env_id,
            engine_name="none",
            num_envs=num_envs,
            observation_size=shown.shape[-1],
            action_low=-ones,
            action_high=ones,
            max_episode_steps=options.max_episode_steps or table.horizon + 1,
            packages=(),
            discrete=True,
            return_range=table.return_range,
            return_gamma=table.return_gamma,
            reward_size=mdp.reward_size,
        )
        super().__init__(facts, options)
        self.mdp, self.table = mdp, tabulated
        self._shown = shown
        self._limits = tabulated.probability.cumsum(-1).numpy()
        self._starts = tabulated.start.cumsum(-1).numpy()
        self._reward, self._next = tabulated.reward.numpy(), tabulated.next_state.numpy()
        self._terminal = tabulated.terminal.numpy()
        self._place = np.zeros(num_envs, np.int64)
        self._set_seed(options.seed)

    def states(self) -> list[State]:
        """Return the state of every env."""
        return [self.table.states[place] for place in self._place]

    def frame(self, index: int = 0) -> np.ndarray:
        """Return a picture of one env, uint8 `[height, width, 3]`: its features as grey cells."""
        cells = self._shown[self._place[index]].clip(0, 1)
        return np.repeat(np.repeat((255 * cells).astype(np.uint8)[None, :, None], 3, 2), 20, 0).repeat(20, 1)

    def _set_seed(self, seed: Seeds) -> None:
        self._generators = make_generators(seed, self.num_envs)

    def _advance(self, action: np.ndarray) -> Outcome:
        where = self._place, chosen_action(action)
        draw = np.array([[generator.random()] for generator in self._generators])
        # The last outcome takes what rounding left of the probability.
        outcome = (draw >= self._limits[where][:, :-1]).sum(-1)
        reward = self._reward[(*where, outcome)]
        self._place = self._next[(*where, outcome)]
        rewards = None if reward.ndim == 1 else reward
        return Outcome(
            self._shown[self._place],
            reward if rewards is None else rewards.sum(-1),
            self._terminal[self._place],
            rewards=rewards,
        )

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        for index in np.flatnonzero(mask):
            draw = self._generators[index].random()
            self._place[index] = int((draw >= self._starts[:-1]).sum())
        return self._shown[self._place]

    def _own_state(self) -> dict[str, Tensor]:
        return {
            "place": torch.from_numpy(self._place.copy()),
            "generators": pack_generators(self._generators),
        }

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        place = take(state, "place", self._place.shape)
        if place.dtype != torch.int64 or not bool(((place >= 0) & (place < len(self.table.states))).all()):
            raise DataError(f"environment state place: not among the {len(self.table.states)} states")
        self._generators = unpack_generators(take(state, "generators", (self.num_envs, WORDS)))
        self._place = place.numpy().copy()
