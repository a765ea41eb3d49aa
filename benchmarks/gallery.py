"""A run's first evaluation episode as a small animated picture, for a README.

    python benchmarks/gallery.py RUN --out docs/pictures/halfcheetah.gif

Drawn by MuJoCo (MUJOCO_GL=egl or osmesa where there is no display), every third frame or so, in 64 colours.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from rlsuite.envs.make import make_env
from rlsuite.training.assembly import eval_engine
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import load_run

SIDE = 200  # pixels
COLORS = 64
FRAMES_PER_SECOND = 15.0
MAX_BYTES = 500 << 10


def film(run: Path, which: str, skip: float, seconds: float) -> list[Image.Image]:
    """Play the policy on the seeds of `rlsuite eval` and return pictures of the part that is asked for.

    Args:
        run: run folder.
        which: its checkpoint.
        skip: seconds of the episode before the first picture.
        seconds: of the episode that are shown.
    """
    saved = load_run(run, which)
    train = saved.config.train
    env = make_env(train.env, 1, engine=eval_engine(train.engine), options=train.env_options, render=True)
    streams = SeedStreams([train.seed])
    agent = saved.agent(env, streams)
    env.seed_worlds(streams.seeds("eval")[0])
    every = getattr(env, "fps", 30.0) / FRAMES_PER_SECOND
    pictures: list[Image.Image] = []
    carried, step = env.reset(), 0
    with torch.no_grad():
        while len(pictures) < seconds * FRAMES_PER_SECOND:
            if step >= (skip * FRAMES_PER_SECOND + len(pictures)) * every:
                picture = Image.fromarray(env.frame()).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                pictures.append(picture.quantize(COLORS, dither=Image.Dither.NONE))
            row = env.step(agent.policy(carried))
            step += 1
            if row["next", "done"].any():
                break
            carried = env.step_mdp(row)
    env.close()
    return pictures


def main() -> None:
    """Write the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", default="last")
    parser.add_argument("--skip", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    line = parser.parse_args()
    first, *rest = film(line.run, line.checkpoint, line.skip, line.seconds)
    milliseconds = round(1000 / FRAMES_PER_SECOND)
    first.save(line.out, save_all=True, append_images=rest, duration=milliseconds, loop=0, optimize=True)
    size = line.out.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{line.out} has {size:,} bytes, more than {MAX_BYTES:,}: show fewer --seconds")
    print(f"{line.out}: {len(rest) + 1} pictures, {size:,} bytes")


if __name__ == "__main__":
    main()
