"""Runs as tasks of a Ray cluster: the one that is named, or a local one that lives as long as we do.

Workers must see the run folders under the same paths, and have rlsuite installed.
"""

import importlib
from dataclasses import dataclass
from typing import Annotated, Any

from rlsuite.bounds import Bounds, check_bounds
from rlsuite.errors import ConfigError
from rlsuite.launch.task import INTERRUPTED, LOST, LaunchTask, perform

OBJECT_STORE_BYTES = 80 * 2**20  # of a local cluster, Ray's least: what travels are exit codes


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """`--launcher-option` of the launcher ray."""

    address: str = ""
    """Cluster, as in ray.init: host:port, ray://host:port, or auto; empty starts a local one."""
    cpus: Annotated[float, Bounds(0)] = 1.0
    """CPUs that a run reserves."""
    gpus: Annotated[float, Bounds(0)] = 0.0
    """GPUs that a run reserves; a half lets two share one."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a reservation that no worker has."""
        check_bounds(self)


class RayLauncher:
    """Hands every task to Ray, which queues what does not fit."""

    preempts = False

    def __init__(self, slots: int | None, options: RayOptions) -> None:
        """Connect to the cluster, or start a local one.

        Raises:
            ConfigError: Ray is missing, or there is no cluster at the address.
        """
        try:
            ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise ConfigError('the launcher ray needs Ray: pip install "rlsuite[ray]"') from error
        self.ray = ray
        self.slots = slots
        self.ours = not ray.is_initialized()
        if self.ours:
            local = (
                {}
                if options.address
                else {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
            )
            try:
                ray.init(options.address or "local", log_to_driver=False, logging_level="ERROR", **local)
            except (ConnectionError, RuntimeError, ValueError) as error:
                told = str(error).split("\n")[0]
                raise ConfigError(
                    f"no Ray cluster at {options.address!r} ({told}): start one with `ray start --head`, or "
                    "leave address out"
                ) from error
        # No retries of Ray's own: who was lost is started again by the queue, which says so.
        reserved = {"num_cpus": options.cpus, "num_gpus": options.gpus}
        self.remote = ray.remote(max_retries=0, **reserved)(perform)
        if not self.fits(reserved):
            known = {key: ray.cluster_resources().get(key, 0) for key in ("CPU", "GPU")}
            demand = (
                f"no node of the cluster has cpus={options.cpus:g} and gpus={options.gpus:g} for a run; in "
                f"all it has {known['CPU']:g} CPUs and {known['GPU']:g} GPUs"
            )
            if options.address:  # a cluster that grows may get one
                print(f"{demand}; waiting for one", flush=True)
            else:
                self.close()
                raise ConfigError(f"{demand}: ask for less with --launcher-option")

    def fits(self, reserved: dict[str, float]) -> bool:
        """Return whether some node could ever take a run: Ray would wait for one without a word."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return any(
            node.get("CPU", 0) >= reserved["num_cpus"] and node.get("GPU", 0) >= reserved["num_gpus"]
            for node in nodes
        )

    def submit(self, name: str, task: LaunchTask) -> "RayJob":
        """Hand the task to the cluster."""
        task.log.parent.mkdir(parents=True, exist_ok=True)
        task.stop_file.unlink(missing_ok=True)
        return RayJob(self.ray, self.remote.options(name=name).remote(task), task)

    def close(self) -> None:
        """Leave the cluster, or end the local one."""
        if self.ours:
            self.ray.shutdown()


class RayJob:
    """A task that Ray runs or will run."""

    def __init__(self, ray: Any, reference: Any, task: LaunchTask) -> None:
        self.ray, self.reference, self.task = ray, reference, task

    def poll(self) -> int | None:
        """Return the exit code, or `LOST` where its worker or node died; None while it waits or runs."""
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        errors = self.ray.exceptions
        try:
            return int(self.ray.get(self.reference))
        except errors.TaskCancelledError:
            return INTERRUPTED
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
        ):
            return LOST

    def stop(self) -> None:
        """Ask by file, which a running worker sees and a waiting one finds."""
        self.task.stop_file.touch()
