"""Videos for a report: one evaluation episode of each agent on each environment, in its run folder."""

import tempfile
from pathlib import Path

from rlsuite.errors import RLSuiteError
from rlsuite.report.study import Study
from rlsuite.training.evaluate import evaluate_run

SUFFIX = ".mp4"
FOLDER, NAME = "videos", f"best{SUFFIX}"


def record_videos(study: Study) -> None:
    """Record the best checkpoint of the first run of each agent and environment, where it has no video yet.

    The same episode as `rlsuite eval RUN --checkpoint best --episodes 1 --seed-index 0 --video ...` shows.
    What cannot be recorded (no video package, pictures or checkpoint) is one line, and the report goes on.
    """
    for run in first_runs(study):
        if any(any(folder.glob(f"*{SUFFIX}")) for folder in (run, run / FOLDER)):
            continue
        try:
            print(f"video: {record(run)}", flush=True)
        except (RLSuiteError, OSError) as error:
            print(f"no video of {run}: {' '.join(str(error).split())}", flush=True)


def first_runs(study: Study) -> list[Path]:
    """Return the first run of each agent on each environment."""
    runs: dict[tuple[str, str], Path] = {}
    for group in study.groups:
        agent = str(study.settings[group.runs[0]]["config"]["agent_name"])
        runs.setdefault((agent, group.env), group.runs[0])
    return list(runs.values())


def record(run: Path) -> Path:
    """Record one evaluation episode of a run's best checkpoint, and return the file.

    Raises:
        RLSuiteError: it has no checkpoint, its environment no pictures, or imageio is not installed.
        OSError: the run folder cannot be written.
    """
    path = run / FOLDER / NAME
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run, prefix=".video-") as folder:  # a torn film is none
        film = Path(folder) / NAME
        evaluate_run(run, episodes=1, seed=None, video=film, which="best", seed_index=0)
        film.replace(path)
    return path
