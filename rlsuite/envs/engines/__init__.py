"""Physics engines behind one protocol; every module that needs MuJoCo is imported after this one."""

from rlsuite.errors import ConfigError

try:
    import mujoco  # noqa: F401
except RuntimeError as error:  # MuJoCo reads MUJOCO_GL when imported
    raise ConfigError(f"MuJoCo: {error}; unset it, or set it to egl or osmesa") from error
