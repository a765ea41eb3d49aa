"""Gymnasium's MuJoCo tasks as the tests go through them, and where its last digits depend on the machine."""

import math

import numpy as np

NAMES = (
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
)
# Gymnasium refuses Pusher-v4 on MuJoCo 3.
IDS = tuple(
    (name, version) for name in NAMES for version in ("v5", "v4") if (name, version) != ("Pusher", "v4")
)

WITH_POSITIONS = {"exclude_current_positions_from_observation": False}
# Constructor arguments that change what the defaults leave alone; every option is in one of them.
OPTIONS: tuple[tuple[str, dict], ...] = (
    ("Ant-v5", {"healthy_z_range": (0.35, 0.9), "contact_force_range": (-3, 2), "contact_cost_weight": 0.1}),
    ("Ant-v5", {"healthy_z_range": (0.45, 0.9), "terminate_when_unhealthy": False, "healthy_reward": 3.0}),
    ("Ant-v5", {"include_cfrc_ext_in_observation": False, **WITH_POSITIONS}),
    ("Ant-v5", {"main_body": "aux_1", "forward_reward_weight": 2.0, "ctrl_cost_weight": 0.0}),
    ("Ant-v5", {"main_body": 4, "frame_skip": 2, "reset_noise_scale": 0.3, "xml_file": "ant.xml"}),
    ("Ant-v4", {"use_contact_forces": True, "contact_cost_weight": 0.2, "contact_force_range": (-2, 2)}),
    ("Ant-v4", {"healthy_z_range": (0.45, 0.9), "terminate_when_unhealthy": False, "healthy_reward": 0.5}),
    ("Ant-v4", {"healthy_z_range": (0.45, 0.9), "reset_noise_scale": 0.2, **WITH_POSITIONS}),
    ("Ant-v4", {"ctrl_cost_weight": 0.1, "xml_file": "ant.xml"}),
    ("HalfCheetah-v5", {"forward_reward_weight": 0.3, "ctrl_cost_weight": 2.0, "frame_skip": 3}),
    ("HalfCheetah-v5", {"reset_noise_scale": 0.0, **WITH_POSITIONS}),
    ("HalfCheetah-v4", {"forward_reward_weight": 0.3, **WITH_POSITIONS}),
    ("HalfCheetah-v4", {"ctrl_cost_weight": 2.0, "reset_noise_scale": 0.3}),
    (
        "Hopper-v5",
        {"healthy_z_range": (1.0, 1.4), "healthy_angle_range": (-0.05, 0.3), "healthy_reward": 2.0},
    ),
    ("Hopper-v5", {"healthy_state_range": (-2.0, 3.0), "ctrl_cost_weight": 0.7, "frame_skip": 5}),
    ("Hopper-v5", {"terminate_when_unhealthy": False, "forward_reward_weight": 0.1}),
    ("Hopper-v5", {"reset_noise_scale": 0.1, **WITH_POSITIONS}),
    ("Hopper-v4", {"terminate_when_unhealthy": False, "healthy_reward": 2.0, **WITH_POSITIONS}),
    ("Hopper-v4", {"healthy_state_range": (-2.0, 3.0), "healthy_reward": 5.0, "ctrl_cost_weight": 0.7}),
    ("Hopper-v4", {"healthy_z_range": (1.0, 1.4), "forward_reward_weight": 2.0}),
    ("Hopper-v4", {"healthy_angle_range": (-0.05, 0.3), "reset_noise_scale": 0.01}),
    ("Humanoid-v5", {"include_cinert_in_observation": False, "include_cvel_in_observation": False}),
    ("Humanoid-v5", {"include_qfrc_actuator_in_observation": False, "frame_skip": 2}),
    ("Humanoid-v5", {"include_cfrc_ext_in_observation": False, "reset_noise_scale": 0.05}),
    ("Humanoid-v5", {"contact_cost_weight": 0.01, "contact_cost_range": (0.5, 3.0), "ctrl_cost_weight": 1.0}),
    (
        "Humanoid-v5",
        {"terminate_when_unhealthy": False, "healthy_z_range": (1.2, 1.5), "healthy_reward": 1.0},
    ),
    ("Humanoid-v5", {"forward_reward_weight": 3.0, **WITH_POSITIONS}),
    ("Humanoid-v4", {"healthy_z_range": (1.2, 1.5), "reset_noise_scale": 0.05, **WITH_POSITIONS}),
    ("Humanoid-v4", {"terminate_when_unhealthy": False, "healthy_reward": 1.0}),
    ("Humanoid-v4", {"forward_reward_weight": 3.0, "ctrl_cost_weight": 1.0}),
    ("HumanoidStandup-v5", {"impact_cost_weight": 0.01, "impact_cost_range": (0.5, 3.0)}),
    ("HumanoidStandup-v5", {"include_cinert_in_observation": False, "include_cvel_in_observation": False}),
    ("HumanoidStandup-v5", {"include_qfrc_actuator_in_observation": False, "ctrl_cost_weight": 1.0}),
    ("HumanoidStandup-v5", {"include_cfrc_ext_in_observation": False, "frame_skip": 2}),
    ("HumanoidStandup-v5", {"uph_cost_weight": 9.0, "reset_noise_scale": 0.1, **WITH_POSITIONS}),
    ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0, "reset_noise_scale": 0.2, "frame_skip": 2}),
    ("InvertedPendulum-v5", {"reset_noise_scale": 0.1, "frame_skip": 5}),
    ("Pusher-v5", {"reward_near_weight": 2.0, "reward_dist_weight": 0.1, "reward_control_weight": 1.0}),
    ("Pusher-v5", {"frame_skip": 2}),
    ("Reacher-v5", {"reward_dist_weight": 3.0, "reward_control_weight": 0.1, "frame_skip": 4}),
    ("Swimmer-v5", {"forward_reward_weight": 3.0, "ctrl_cost_weight": 0.1, "reset_noise_scale": 0.5}),
    ("Swimmer-v5", {"frame_skip": 2, **WITH_POSITIONS}),
    ("Swimmer-v4", {"forward_reward_weight": 3.0, "ctrl_cost_weight": 0.1, **WITH_POSITIONS}),
    ("Swimmer-v4", {"reset_noise_scale": 0.5}),
    ("Walker2d-v5", {"healthy_z_range": (1.0, 1.3), "healthy_angle_range": (-0.2, 0.1)}),
    ("Walker2d-v5", {"terminate_when_unhealthy": False, "healthy_reward": 2.0, "ctrl_cost_weight": 0.5}),
    ("Walker2d-v5", {"forward_reward_weight": 0.1, "frame_skip": 2, "reset_noise_scale": 0.05}),
    ("Walker2d-v5", {"xml_file": "walker2d.xml", **WITH_POSITIONS}),
    ("Walker2d-v4", {"terminate_when_unhealthy": False, "ctrl_cost_weight": 0.5, "healthy_reward": 2.0}),
    ("Walker2d-v4", {"healthy_z_range": (1.0, 1.3), "healthy_angle_range": (-0.2, 0.1), **WITH_POSITIONS}),
    ("Walker2d-v4", {"forward_reward_weight": 0.1, "reset_noise_scale": 0.05}),
)

# Where numpy has its own sine (AVX-512) instead of the C library's, observed sines and cosines may differ in
# the last digit; they are never fed back to the physics.
_ANGLES = np.random.default_rng(0).uniform(-3, 3, 10_000)
NUMPY_USES_LIBM = bool((np.sin(_ANGLES) == [math.sin(angle) for angle in _ANGLES]).all())
ANGLES_OBSERVED = {"InvertedDoublePendulum": slice(1, 5), "Reacher": slice(0, 4)}

# Rewards made with C's `pow` (one square in a thousand is a last digit off) or with a dot product of BLAS
# (the order of its sum is the machine's own); all others are equal bit for bit.
REWARD_ULPS = {"InvertedDoublePendulum": 2, "Reacher": 2, "Pusher": 2}


def assert_same_observation(name: str, ours: np.ndarray, theirs: np.ndarray, where: str = "") -> None:
    """Assert bitwise equality, but for numpy's own sines."""
    if name in ANGLES_OBSERVED and not NUMPY_USES_LIBM:
        angles = ANGLES_OBSERVED[name]
        np.testing.assert_array_max_ulp(ours[..., angles], theirs[..., angles], maxulp=2)
        ours, theirs = np.delete(ours, angles, -1), np.delete(theirs, angles, -1)
    np.testing.assert_array_equal(ours, theirs, where)


def assert_same_reward(name: str, ours: float, theirs: float, where: str = "") -> None:
    """Assert bitwise equality, but for the tasks of REWARD_ULPS."""
    if name in REWARD_ULPS:
        np.testing.assert_array_max_ulp(np.float64(ours), np.float64(theirs), maxulp=REWARD_ULPS[name])
    else:
        assert ours == theirs, where
