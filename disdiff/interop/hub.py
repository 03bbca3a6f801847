"""Runs on a model hub: fetch and upload them with the hub's own client.

Nothing is fetched unless the user asks for it: a name is looked up in the client's cache on this machine.
Only the files of an exported run (`disdiff.interop.exporting`) are fetched, with weights as safetensors and
no pickles. The client checks sizes while it fetches. The hub stores weights by their SHA-256, and the cache
names them after it; here they are compared with it each time that they are loaded.
"""

import hashlib
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from disdiff.config.places import find
from disdiff.config.schema import read_yaml
from disdiff.interop.exporting import CARD, EXTRAS, METRICS, PICTURES, export_run
from disdiff.runs.stages import RECORD
from ldm.errors import UserError
from ldm.training.weight_files import WEIGHTS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")
STAGES = (f"stages/*/{WEIGHTS}", f"stages/*/{RECORD}")
FILES = ["config.yaml", METRICS, CARD, *EXTRAS, *PICTURES, *STAGES, "clip/*"]
PICKLES = ["*.bin", "*.ckpt", "*.pickle", "*.pkl", "*.pt", "*.pth"]
LOG_IN = "log in with `hf auth login` to an account with access"


def find_run(path: str | Path, download: bool = False, revision: str | None = None) -> str | Path:
    """The folder of a run: at `path`, shipped under that name, or of the model `owner/name` of the hub.

    Args:
        path: path of a folder, or name of a model of the hub.
        download: whether to fetch what the cache lacks; otherwise the network is not used.
        revision: branch, tag or commit on the hub; None for its main branch.

    Returns:
        `path` itself unless it is a model of the hub, else the folder in the hub's cache.

    Raises:
        UserError: the model is not in the cache, cannot be fetched, or is not an exported run.
    """
    if not isinstance(path, str | Path):
        raise UserError(
            f"{path!r} is not the path of a run folder; give a path, such as 'pretrained/shapes3d'"
        )
    if find(path).exists():
        if revision is not None:
            raise UserError(
                f"{path} is a local folder, which has no revisions; leave out revision={revision}"
            )
        return path
    if not (isinstance(path, str) and NAME.fullmatch(path)):
        if download or revision is not None:
            raise UserError(f"{path} is neither a local folder nor a name of the hub; write owner/name")
        return path
    return check_run(fetch(path, download, revision), path)


def fetch(name: str, download: bool, revision: str | None) -> Path:
    """Folder of a model in the hub's cache; UserError if it is not there or cannot be fetched."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            local_files_only=not download,
            allow_patterns=FILES,
            ignore_patterns=PICKLES,
            library_name="disdiff",
        )
    except Exception as error:  # kinds of the client and of its HTTP library
        raise UserError(explain(error, name, download, revision)) from error
    return Path(folder)


def check_run(folder: Path, name: str) -> Path:
    """Return `folder` if it is a complete exported run; else raise UserError.

    The configuration of a model of the hub must not ask for downloads.
    """
    lacks = [pattern for pattern in ("config.yaml", *STAGES) if not list(folder.glob(pattern))]
    if lacks:
        raise UserError(
            f"{name} of the hub is not an exported run, because it lacks {lacks[0]}; choose another model, "
            "or upload a run with `disdiff export RUN --to-hub OWNER/NAME`"
        )
    section = read_yaml(folder / "config.yaml").get("weights") or {}
    if section.get("allow_download"):
        raise UserError(
            f"config.yaml of {name} asks for further downloads (weights.allow_download=true), which is not "
            "allowed for a model of the hub; copy the model with `hf download` and check the file"
        )
    for path in folder.glob(STAGES[0]):
        check_sum(path, name)
    return folder


def check_sum(path: Path, name: str) -> None:
    """Raise UserError if a file of the hub's cache differs from the SHA-256 that its blob is named after."""
    blob = path.resolve()
    if not re.fullmatch("[0-9a-f]{64}", blob.name):
        return
    with blob.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
            raise UserError(
                f"{path.parent.name}/{path.name} of {name} is damaged; delete {blob} and load the model with "
                "download=True"
            )


def push_run(folder: str | Path, name: str, licence: str | None = None, private: bool | None = None) -> str:
    """Export a finished run and upload it in one commit; files of an earlier run on the hub are deleted.

    Args:
        folder: folder of the run.
        name: name of the model on the hub, `owner/name`; it is created if it does not exist.
        licence: licence of the weights, as hubs name it; None for no statement.
        private: whether a new model is private; None for the owner's default.

    Returns:
        Its address.

    Raises:
        UserError: the run is not finished, the name is not valid, there is a pickle, or the upload fails.
    """
    from huggingface_hub import HfApi

    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is not a name of the hub; write owner/name")
    with TemporaryDirectory() as place:
        target = export_run(folder, Path(place) / name.partition("/")[2], licence, name)
        pickles = [path.name for pattern in PICKLES for path in target.rglob(pattern)]
        if pickles:
            raise UserError(
                f"{folder} contains the pickle {pickles[0]}; use a CLIP with safetensors weights instead"
            )
        try:
            api = HfApi(library_name="disdiff")
            address = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=name, folder_path=target, commit_message="A run of disdiff", delete_patterns=FILES
            )
        except Exception as error:  # as in `fetch`
            raise UserError(explain(error, name, True)) from error
    return str(address)


def explain(error: Exception, name: str, online: bool, revision: str | None = None) -> str:
    """One sentence, with a remedy, for an error of the hub's client about the model `name`."""
    from huggingface_hub import constants, errors

    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, errors.HfHubHTTPError):
        error = cause
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    what = name if revision is None else f"{name} at revision {revision}"
    if isinstance(error, errors.HFValidationError):
        return f"{name!r} is not a name of the hub; write owner/name"
    if isinstance(error, errors.GatedRepoError):
        return f"{name} needs its owner's permission; ask for access on its page, then {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no model {name}, or it is private; check the name, or {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision}; give a branch, tag or commit from its page"
    if status in (401, 403):
        return f"the hub refuses access to {name} (status {status}); {LOG_IN}"
    if status is not None:
        return f"the hub cannot serve {what} (status {status}); try again later"
    if isinstance(error, errors.LocalEntryNotFoundError) and not online:
        return (
            f"{what} is not a local run folder, and the hub's cache lacks files of it; correct the path, or "
            f"fetch the model with disdiff.load({name!r}, download=True)"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) or not isinstance(error, OSError):
        return f"the hub cannot be reached for {what}; check the network, HF_HUB_OFFLINE and HF_ENDPOINT"
    reason = error.strerror or error
    return (
        f"the hub's cache {constants.HF_HUB_CACHE} cannot be written ({reason}); free some space, or set "
        "HF_HUB_CACHE to another folder"
    )
