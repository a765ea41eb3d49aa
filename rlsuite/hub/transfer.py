"""Push a run to the Hugging Face Hub, and pull one from it.

The address and the token come from where huggingface_hub finds them: HF_ENDPOINT, HF_TOKEN, `hf auth login`.
A repository is somebody else's word: its list of files is checked before anything else is fetched, every file
against its size and digest before any gets its name.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from rlsuite.errors import ConfigError, DataError
from rlsuite.hub import bundle as bundles
from rlsuite.hub.bundle import Bundle
from rlsuite.hub.card import card, curves_by_seed, draw
from rlsuite.runs.canonical import without_none
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.files import DISK
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import (
    BUNDLE_FILE,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    META_FILE,
    METRICS_FILE,
    RunFolder,
    check_path,
)
from rlsuite.training.savedrun import load_run

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,199}")
STAGE_PREFIX = ".pull-"


def check_repo(repo: str, revision: str | None) -> None:
    """Raise ConfigError unless `repo` is USER/NAME and `revision` a branch, tag or commit."""
    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ConfigError(f'"{repo}" is no repository of the Hub: write USER/NAME')
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(f'"{revision}" is no revision: name a branch, a tag or a commit')


def push(
    run: Path,
    repo: str,
    *,
    which: str = "last",
    revision: str | None = None,
    private: bool = False,
    resumable: bool = False,
    license_name: str | None = None,
) -> str:
    """Upload a run with its model card, in one commit; return the address.

    Args:
        run: the run folder, which may still be training.
        repo: USER/NAME; made if it does not exist.
        which: checkpoint "last", "best", or its env steps.
        revision: a branch, made if it does not exist; None is the main one.
        private: a repository that is made here is private.
        resumable: upload optimisers, replay and random streams too, not the policy alone.
        license_name: the Hub's identifier of a licence, for the card.

    Raises:
        ConfigError: no such run or checkpoint, a name that cannot be, a missing package, or the Hub refused.
        DataError: there is no usable checkpoint, or no connection.
    """
    check_repo(repo, revision)
    with tempfile.TemporaryDirectory() as temporary, _hub(repo) as api:
        folder = Path(temporary) / "bundle"
        bundle = pack(run, folder, repo, which=which, resumable=resumable, license_name=license_name)
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=f"{bundle.agent} on {bundle.env}, {bundle.step:,} env steps",
            delete_patterns=[f"{CHECKPOINT_FOLDER}/*"],  # of an earlier push
        )
        return f"{api.endpoint}/{repo}" + (f"/tree/{revision}" if revision else "")


def pack(
    run: Path, folder: Path, repo: str, *, which: str, resumable: bool, license_name: str | None = None
) -> Bundle:
    """Write what a push uploads into the new folder `folder`; see `push` for arguments and errors."""
    source = RunFolder.open(run)
    saved = load_run(run, which)
    folder.mkdir(parents=True)
    bundles.copy_checkpoint(saved.loaded, folder, resumable=resumable)
    config = source.config()
    meta = _json(run / META_FILE)
    for name in (META_FILE, METRICS_FILE):
        if (run / name).exists():  # where the user's folders lie is nobody's business
            text = (run / name).read_text("utf-8").replace(f"{run.resolve().parent}/", "runs/")
            (folder / name).write_text(text, "utf-8")
    meta["command"] = str(meta.get("command", "")).replace(f"{run.resolve().parent}/", "runs/")
    config_text = tomli_w.dumps(without_none(config))
    (folder / CONFIG_FILE).write_text(config_text, "utf-8")
    records = list(read_metrics(folder / METRICS_FILE)) if (folder / METRICS_FILE).exists() else []
    curves = curves_by_seed(records, saved.config.train.seed)
    if curves:
        title = f"{saved.config.agent_name} on {saved.config.train.env}"
        draw(curves, title, folder / bundles.CURVE_FILE)
    readme = card(
        repo=repo,
        config=config,
        config_text=config_text,
        meta=meta,
        curves=curves,
        step=saved.loaded.step,
        resumable=resumable,
        license_name=license_name,
    )
    (folder / bundles.CARD_FILE).write_text(readme, "utf-8")
    return bundles.close(
        folder,
        agent=saved.config.agent_name,
        env=saved.config.train.env,
        step=saved.loaded.step,
        resumable=resumable,
    )


def pull(repo: str, out: Path, *, revision: str | None = None) -> tuple[Bundle, list[str]]:
    """Download a run into the new folder `out`, complete and verified, or not at all.

    Args:
        repo: USER/NAME.
        out: run folder; it must not exist yet or be empty. Its parents are created.
        revision: a branch, tag or commit; None is the main branch as it is now.

    Returns:
        the list of what came, and the names of what else lies there and was left.

    Raises:
        ConfigError: a name that cannot be, `out` is taken, a missing package, or the Hub refused.
        DataError: it is no run, is damaged, names what no run has, or there is no connection.
    """
    check_repo(repo, revision)
    check_path(out)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose another --out")
    stage = out.parent / f"{STAGE_PREFIX}{out.name}.{os.getpid()}"
    try:
        DISK.make_folder(out.parent)
        DISK.remove(stage)
        DISK.make_folder(stage)
        with _hub(repo) as api:
            bundle, left = _fetch(api, repo, revision, stage)
        bundles.verify(stage, bundle)
        CheckpointStore(stage / CHECKPOINT_FOLDER).load(config_digest=None)  # manifests, digests, tensors
        RunFolder.open(stage).config()
        for path in (*stage.rglob("*/"), stage):
            DISK.sync_folder(path)
        if out.exists():
            out.rmdir()
        DISK.rename(stage, out)
        DISK.sync_folder(out.parent)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}; choose another --out") from error
    finally:
        DISK.remove(stage)
    return bundle, left


def _fetch(api: "HfApi", repo: str, revision: str | None, stage: Path) -> tuple[Bundle, list[str]]:
    """Download a bundle's files into `stage`, its list first; everything of one commit."""
    info = api.repo_info(repo, revision=revision)
    commit = info.sha
    sizes = {
        entry.path: entry.size
        for entry in api.list_repo_tree(repo, recursive=True, revision=commit)
        if hasattr(entry, "size")
    }
    where = f"{repo} at {str(commit)[:12]}"
    if BUNDLE_FILE not in sizes:
        raise DataError(f"{where} holds no {BUNDLE_FILE}: it is not a run that `rlsuite push` made")
    if sizes[BUNDLE_FILE] > bundles.MAX_LIST_BYTES:
        raise DataError(f"{where}: {BUNDLE_FILE} has {sizes[BUNDLE_FILE]:,} bytes, which no list has")
    _download(api, repo, BUNDLE_FILE, commit, stage)
    bundle = bundles.parse((stage / BUNDLE_FILE).read_bytes(), where)
    for name, record in bundle.files.items():
        if sizes.get(name) != record.size:
            raise DataError(
                f"{where}: {name} has {sizes.get(name, 'no')} bytes there, and {record.size:,} by its list"
            )
    free = shutil.disk_usage(stage).free
    if bundle.size > free:
        raise ConfigError(f"{where} has {bundle.size:,} bytes, and {free:,} are free: choose another --out")
    for name in bundle.files:
        _download(api, repo, name, commit, stage)
    DISK.remove(stage / ".cache")  # huggingface_hub's notes on what it fetched
    return bundle, sorted(set(sizes) - set(bundle.files) - {BUNDLE_FILE, ".gitattributes"})


def _download(api: "HfApi", repo: str, name: str, commit: str | None, stage: Path) -> None:
    api.hf_hub_download(repo, name, revision=commit, local_dir=stage)


@contextmanager
def _hub(repo: str) -> Iterator["HfApi"]:
    """Give the Hub's client; what it raises becomes one sentence."""
    try:
        from huggingface_hub import HfApi, constants, errors
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise ConfigError(f'push and pull need {error.name}: pip install "rlsuite[hub]"') from error
    disable_progress_bars()
    try:
        yield HfApi(library_name="rlsuite")
    except errors.LocalTokenNotFoundError as error:
        raise ConfigError("no token for the Hub: `hf auth login`, or set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{repo} is not on {constants.ENDPOINT}, or your token may not see it; "
            "`hf auth login`, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"{repo} has no such revision: name a branch, a tag or a commit") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise ConfigError(
                f"the Hub refused {repo} ({status}): this needs a token that may write there; "
                "`hf auth login`, or set HF_TOKEN"
            ) from error
        raise DataError(f"the Hub failed on {repo}: {_line(error)}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.FileMetadataError) as error:
        raise DataError(f"{constants.ENDPOINT} gave nothing for {repo}: {_line(error)}") from error
    except errors.HTTPError as error:  # no connection, or one that broke
        raise DataError(
            f"no connection to {constants.ENDPOINT}: {_line(error)}; HF_ENDPOINT names another"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _json(path: Path) -> dict[str, Any]:
    """Return a run's facts; a run without them has none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
