"""Evaluations in a process of their own, while training goes on: `--eval-beside`.

Nothing depends on how long one takes: its numbers are taken, and waited for, where the next evaluation, a
checkpoint or the run's end is due. The process reads the run's own config.toml, gets weights as safetensors,
and computes on the CPU with one thread.

    python -m rlsuite.training.beside RUN    # started by the run; requests on stdin, answers on stdout
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load
from torch import Tensor

from rlsuite import distributed as ranks
from rlsuite import extensions
from rlsuite.agents.base import Agent
from rlsuite.blocks.noise import generators_of
from rlsuite.envs.base import VectorEnv
from rlsuite.errors import EnvironmentFailure
from rlsuite.registry import agent_class
from rlsuite.runs.mapping import config_from_dict
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.tensorfile import tensor_bytes
from rlsuite.training import state
from rlsuite.training.assembly import env_seeds, eval_engine, make_envs, new_agent, per_seed_policy
from rlsuite.training.evaluate import chosen_stocks, evaluate, per_seed, summary
from rlsuite.training.rng import SeedStreams
from rlsuite.training.value_error import value_trace
from rlsuite.training.watchdog import Watchdog

SHOWN = 300  # characters of what went wrong in there


@dataclass(frozen=True, slots=True)
class Asked:
    """An evaluation that was asked for.

    Attributes:
        step, updates: of the run then.
        number: 1 for the run's first evaluation.
        seconds: that the run had taken.
        firsts: seed of every agent's first episode; the others count up.
        tensors: the agent's, as they were, on the CPU.
    """

    step: int
    updates: int
    number: int
    seconds: float
    firsts: tuple[int, ...]
    tensors: Mapping[str, Tensor]


class Beside:
    """The process that evaluates, as the run sees it; it starts with the first evaluation.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._pending: Asked | None = None

    def ask(
        self,
        agent: Agent,
        firsts: Sequence[int],
        *,
        step: int,
        updates: int,
        number: int,
        seconds: float,
    ) -> None:
        """Have the agent evaluated as it is now; the evaluation before must have been taken.

        Args:
            agent: of all seeds; copied.
            firsts, step, updates, number, seconds: see `Asked`.

        Raises:
            EnvironmentFailure: the process has ended.
        """
        assert self._pending is None
        tensors = {name: value.cpu().clone() for name, value in state.agent_tensors(agent).items()}
        asked = Asked(step, updates, number, seconds, tuple(firsts), tensors)
        payload = tensor_bytes(tensors)
        header = json.dumps({"firsts": asked.firsts, "bytes": len(payload)}).encode() + b"\n"
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(header + payload)
            process.stdin.flush()
        except OSError as error:
            raise self._gone(process) from error
        self._pending = asked

    def take(self) -> tuple[Asked, list[dict[str, float]]] | None:
        """Wait for the evaluation that was asked for; return it with a line of metrics a seed, or None.

        Raises:
            EnvironmentFailure: the process has ended, or could not evaluate.
        """
        asked, process = self._pending, self._process
        if asked is None or process is None:
            return None
        assert process.stdout is not None
        answer = process.stdout.readline()
        if not answer.endswith(b"\n"):
            raise self._gone(process)
        self._pending = None
        content = json.loads(answer)
        if "error" in content:
            raise EnvironmentFailure(f"the evaluation beside training failed: {content['error']}")
        return asked, content["lines"]

    def close(self) -> None:
        """End the process; what was not taken is lost."""
        process, self._process, self._pending = self._process, None, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with its environments' own processes
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        # One of several ranks must not join their group, and a GPU is for training.
        variables = {name: value for name, value in os.environ.items() if name not in ranks.VARIABLES}
        variables |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        # -P: a stray file of the working folder shadows no library there.
        command = [sys.executable, "-P", "-m", __name__, str(self._folder.absolute()), *extensions.imported]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, start_new_session=True
        )

    def _gone(self, process: subprocess.Popen[bytes]) -> EnvironmentFailure:
        code = process.wait()
        return EnvironmentFailure(
            f"the process that evaluates beside training has ended with exit code {code}: see what it said "
            "above, or leave out --eval-beside"
        )


class Evaluator:
    """What stands in the process: environments and an agent of the run's configuration.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        config = config_from_dict(RunFolder.open(folder).config(), lambda name: agent_class(name).Config)
        train = replace(config.train, device="cpu", threads=1)
        streams = SeedStreams(range(train.seed, train.seed + train.seeds))
        engine = eval_engine(train.engine)
        self.count = train.eval_episodes
        self.env: VectorEnv = make_envs(train, train.env, streams, "eval", self.count, engine)
        self.agent = new_agent(agent_class(config.agent_name), config.agent, self.env, streams)
        self.policy = per_seed_policy(self.agent) if self.agent.lead else self.agent.policy
        self.step_timeout = train.step_timeout

    def lines(self, tensors: Mapping[str, Tensor], firsts: Sequence[int]) -> list[dict[str, float]]:
        """Return a line of metrics for every seed's agent.

        An agent that draws when it acts draws from its first episode's seed, so that an evaluation depends on
        nothing that came before.
        """
        state.load_agent_tensors(self.agent, tensors)
        for generator, first in zip(generators_of(self.agent.generators["act"]), firsts, strict=True):
            generator.manual_seed(first)
        episodes = evaluate(
            self.policy,
            self.env,
            seeds=env_seeds(firsts, self.count),
            trace=value_trace(self.agent),
            begin=chosen_stocks(self.agent, self.env),
        )
        return [summary(of_seed) for of_seed in per_seed(episodes, len(firsts))]


def serve(folder: Path, modules: Sequence[str], requests: IO[bytes], answers: IO[bytes]) -> None:
    """Evaluate until the run closes its end; `modules` are the user's, imported first."""
    evaluator: Evaluator | None = None
    while line := requests.readline():
        header = json.loads(line)
        payload = requests.read(header["bytes"])
        if len(payload) < header["bytes"]:  # the run was killed
            return
        answer: dict[str, Any]
        try:
            if evaluator is None:
                for name in modules:
                    importlib.import_module(name)
                evaluator = Evaluator(folder)
            with Watchdog([evaluator.env], evaluator.step_timeout):
                answer = {"lines": evaluator.lines(load(payload), header["firsts"])}
        except Exception as error:  # noqa: BLE001 - the run says it in one line, whatever it is
            answer = {"error": f"{type(error).__name__}: {str(error).strip()[:SHOWN]}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def main() -> None:
    """Serve the run named by the first argument, with the user's modules that follow."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what others print goes to stderr
    sys.path.append(str(Path.cwd()))
    serve(Path(sys.argv[1]), sys.argv[2:], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
