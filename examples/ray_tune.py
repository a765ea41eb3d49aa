"""Ray Tune drives our runs: random search over an agent's own space, halved again and again by ASHA.

RAY_ADDRESS=host:port python examples/ray_tune.py     # without the address: a local cluster
"""

from pathlib import Path

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rlsuite.bench.tune import domains, trainable

TASK, FOLDER = "gym:Pendulum-v1", Path("runs/tune-sac-pendulum").absolute()


def main(
    trials: int = 16, steps: int = 20_000, rungs: int = 10, extra: tuple[str, ...] = ()
) -> tune.ResultGrid:
    ray.init(include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    every = steps // rungs
    words = ["--env", TASK, "--steps", str(steps), "--eval-every", str(every), "--threads", "1", *extra]
    tuner = tune.Tuner(
        tune.with_resources(trainable("sac", words, FOLDER), {"cpu": 1}),
        param_space=domains("sac"),
        tune_config=tune.TuneConfig(
            metric="return_mean",
            mode="max",
            num_samples=trials,
            scheduler=ASHAScheduler(
                time_attr="env_step", max_t=steps, grace_period=every, reduction_factor=3
            ),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(FOLDER),
            failure_config=tune.FailureConfig(max_failures=3),
            verbose=0,
        ),
    )
    return tuner.fit()


if __name__ == "__main__":
    best = main().get_best_result()
    print(f"{best.metrics['return_mean']:,.1f} with {best.config}")
