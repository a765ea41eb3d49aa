"""Pictures of a MuJoCo scene without a display; imported by nobody until OpenGL is asked for."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from math import ceil, sqrt

import mujoco
import numpy as np

from rlsuite.errors import ConfigError, EnvironmentFailure

WIDTH, HEIGHT = 480, 480  # pixels, Gymnasium's default
HEADLESS = ("egl", "osmesa")
FOLLOWER = "track"  # a model's own camera that goes with the robot; Gymnasium films through it, too
PLACED = {"trackbodyid", "lookat", "type", "fixedcamid"}  # settings that say where a camera is
CHANNELS = 3
MAX_SIDE = 1440  # pixels of a mosaic: what players decode without effort


class SceneCamera:
    """Renders states of one model through one camera.

    Args:
        model: the model; its offscreen buffer is enlarged where too small.
        settings: attributes of mjvCamera (distance, elevation, lookat, trackbodyid, type, fixedcamid); where
            they place no camera, the model's own one that follows the robot is taken.
        size: height and width of pictures that are observations: they have no shadows and no reflections,
            which are nine tenths of what drawing without a graphics card costs. None is a video's size.

    Raises:
        EnvironmentFailure: no OpenGL without a display works here.
    """

    def __init__(
        self, model: mujoco.MjModel, settings: Mapping[str, object], size: tuple[int, int] | None = None
    ) -> None:
        height, width = (HEIGHT, WIDTH) if size is None else size
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self._camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, self._camera)
        follower = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, FOLLOWER)
        if follower >= 0 and not PLACED & settings.keys():
            self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self._camera.fixedcamid = follower
        for name, value in settings.items():
            if name == "trackbodyid":
                self._camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
            setattr(self._camera, name, value)
        self._renderer = _open_renderer(model, height, width)
        if size is not None:
            for effect in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[effect] = 0

    def picture(self, data: mujoco.MjData) -> np.ndarray:
        """Return the scene of `data` (its derived positions up to date), uint8 `[height, width, 3]`."""
        self._renderer.update_scene(data, self._camera)
        return self._renderer.render().copy()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def checked_picture(drawn: object, name: str) -> np.ndarray:
    """Return what an environment's `render` gave as uint8 `[height, width, 3]`.

    Raises:
        ConfigError: it is no such picture.
    """
    picture = np.asarray(drawn)
    if picture.ndim != 3 or picture.shape[-1] != CHANNELS or not picture.size or picture.dtype != np.uint8:
        raise ConfigError(
            f"{name} gives no pictures: render() returned {picture.dtype} of shape {list(picture.shape)}, "
            "and uint8 [height, width, 3] is needed"
        )
    return picture


def mosaic(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Lay pictures `[height, width, 3]` of one size out in a square, row by row, what is left over black.

    Where the square would be wider or higher than MAX_SIDE, every second, third, ... pixel is taken. Height
    and width of the whole are even, as video codecs need them: a black line is added where they are not.
    """
    columns = ceil(sqrt(len(pictures)))
    rows = ceil(len(pictures) / columns)
    height, width, channels = pictures[0].shape
    stride = max(1, ceil(max(columns * width, rows * height) / MAX_SIDE))
    small = [picture[::stride, ::stride] for picture in pictures]
    height, width, channels = small[0].shape
    sheet = np.zeros((_even(rows * height), _even(columns * width), channels), np.uint8)
    for place, picture in enumerate(small):
        row, column = divmod(place, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return sheet


def _even(size: int) -> int:
    return size + size % 2


def _open_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """Open a renderer with the backend of MUJOCO_GL, or the first headless one that works."""
    chosen = os.environ.get("MUJOCO_GL")
    tried = []
    for backend in (chosen,) if chosen else HEADLESS:
        try:
            if not chosen:
                _select_backend(backend)
            return mujoco.Renderer(model, height, width)
        # Missing libraries and drivers show as any of these, depending on the backend.
        except (ImportError, AttributeError, RuntimeError, OSError, mujoco.FatalError) as error:
            tried.append(f"{backend}: {error}")
    raise EnvironmentFailure(
        "cannot render here (" + "; ".join(tried) + "). Install EGL or OSMesa (Debian: libegl1 or "
        "libosmesa6), or set MUJOCO_GL to a backend that works"
    )


def _select_backend(backend: str) -> None:
    """Make MuJoCo's renderer use `backend` although MuJoCo, which reads MUJOCO_GL on import, is loaded."""
    os.environ.pop("PYOPENGL_PLATFORM", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "OpenGL"]:
        del sys.modules[name]  # PyOpenGL binds to one platform when imported
    context = importlib.import_module(f"mujoco.{backend}").GLContext
    sys.modules[mujoco.Renderer.__module__].gl_context.GLContext = context
