"""Builds, without a GPU, the CUDA kernels that MuJoCo Warp launches for our tasks: kernels.py FOLDER TASK ...

Every task is simulated a little on Warp's CPU device, which shows what is launched; Warp's own NVRTC then
compiles that for sm_90. A GPU machine that finds them under WARP_CACHE_PATH need not. A kernel whose
shape depends on the device has another name there, and is compiled there.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import warp as wp

wp.config.log_level = wp.LOG_ERROR

ARCH = 90  # H100, H200
ENVS, STEPS = 16, 40  # enough that contacts come and go


def launched(tasks: list[str], *, deterministic: bool) -> dict[tuple[Any, int], str]:
    """Return every Warp module with the block size of its launch, and the name of one of its kernels."""
    from rlsuite.envs.engines.warp import WarpEngine
    from rlsuite.envs.engines.warp_options import WarpOptions
    from rlsuite.envs.tasks.base import load_task

    seen: dict[tuple[Any, int], str] = {}
    originals = {name: getattr(wp, name) for name in ("launch", "launch_tiled")}

    def watched(name: str) -> Any:
        def launch(kernel: Any, *arguments: Any, **options: Any) -> Any:
            block = options.get("block_dim") or kernel.module.options["block_dim"]
            seen.setdefault((kernel.module, block), kernel.key)
            return originals[name](kernel, *arguments, **options)

        return launch

    for name in originals:
        setattr(wp, name, watched(name))
    try:
        for name in tasks:
            task = load_task(name)
            options = WarpOptions(graphs=False, deterministic=deterministic)
            engine = WarpEngine(task.model(), ENVS, task.fields, refresh=task.refresh, options=options)
            every = torch.ones(ENVS, dtype=torch.bool)
            engine.set_state(every, engine.qpos0.expand(ENVS, -1), engine.qvel0.expand(ENVS, -1))
            for _ in range(STEPS):
                engine.step(torch.rand(ENVS, engine.model.nu) * 2 - 1, 1)
            print(f"{name}: {len(seen)} modules so far", flush=True)
    finally:
        for name, original in originals.items():
            setattr(wp, name, original)
    return seen


def main() -> None:
    """Record the launches, compile them, say how many there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="becomes WARP_CACHE_PATH/<version of Warp> on the GPU machine"
    )
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--seconds", type=float, default=600.0, help="after which no further kernel is begun")
    parser.add_argument("--deterministic", action="store_true", help="the kernels of the tests, too")
    line = parser.parse_args()
    modules = launched(line.tasks, deterministic=False)
    if line.deterministic:
        modules |= launched(line.tasks, deterministic=True)
    begun, built, failed = time.monotonic(), 0, 0
    for (module, block), key in modules.items():
        if time.monotonic() - begun > line.seconds:
            break
        place = line.folder / module.get_module_identifier(block_dim=block)
        options = module.resolve_options(wp.config, block_dim=block)
        try:
            module._compile(None, str(place), output_arch=ARCH, use_ptx=False, options=options)
            built += 1
        except Exception as error:  # noqa: BLE001 (a kernel that is not there is compiled on the GPU machine)
            failed += 1
            print(f"{key}, blocks of {block}: {str(error)[:100]}")
    size = sum(path.stat().st_size for path in line.folder.rglob("*.cubin"))
    print(f"{built} of {len(modules)} modules built, {failed} failed, {size / 2**20:.1f} MiB of cubin")


if __name__ == "__main__":
    main()
