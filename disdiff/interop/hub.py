"""Runs on a model hub: fetch one, and upload one, by the hub's own client.

Nothing is fetched unless it is asked for: a name is looked up in the client's cache on this machine. What is
fetched are the files of an exported run (`disdiff.interop.exporting`), with weights as safetensors and no
pickles. The client compares sizes while it fetches; weights that the hub stores by their SHA-256, after which
the cache names them, are compared with it here, each time that they are loaded.
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
LOG_IN = "log in with `hf auth login` as somebody who may"


def find_run(path: str | Path, download: bool = False, revision: str | None = None) -> str | Path:
    """A run folder: what lies at `path` or ships under that name, else the model `owner/name` of the hub.

    Args:
        path: of a folder, or a name of the hub.
        download: fetch what the cache lacks; without it nothing is asked of the network.
        revision: branch, tag or commit on the hub; None for its main branch.

    Returns:
        `path` itself where it is no model of the hub, else the folder in the hub's cache.

    Raises:
        UserError: the model is not in the cache, or cannot be fetched, or is no exported run.
    """
    if not isinstance(path, str | Path):
        raise UserError(
            f"{path!r} is not the path of a run folder; give a path, such as 'pretrained/shapes3d'"
        )
    if find(path).exists():
        if revision is not None:
            raise UserError(f"{path} is a folder here, which has no revisions; leave revision={revision} out")
        return path
    if not (isinstance(path, str) and NAME.fullmatch(path)):
        if download or revision is not None:
            raise UserError(f"{path} is neither a folder here nor a name of the hub; write owner/name")
        return path
    return check_run(fetch(path, download, revision), path)


def fetch(name: str, download: bool, revision: str | None) -> Path:
    """Folder of a model in the hub's cache.

    Raises:
        UserError: it is not there, or cannot be fetched.
    """
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
    except Exception as error:  # the client's own kinds, and those of the library it sends by
        raise UserError(explain(error, name, download, revision)) from error
    return Path(folder)


def check_run(folder: Path, name: str) -> Path:
    """`folder`, if it is an exported run.

    Raises:
        UserError: files are missing or damaged, or its configuration asks for downloads.
    """
    lacks = [pattern for pattern in ("config.yaml", *STAGES) if not list(folder.glob(pattern))]
    if lacks:
        raise UserError(
            f"{name} of the hub is no exported run, since it lacks {lacks[0]}; choose another model, or "
            "upload a run with `disdiff export RUN --to-hub OWNER/NAME`"
        )
    section = read_yaml(folder / "config.yaml").get("weights") or {}
    if section.get("allow_download"):
        raise UserError(
            f"config.yaml of {name} asks for further downloads (weights.allow_download=true), which a model "
            "of the hub must not; copy the model with `hf download`, and look at the file"
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
                f"{path.parent.name}/{path.name} of {name} is damaged; delete {blob}, and load the model "
                "with download=True"
            )


def push_run(folder: str | Path, name: str, licence: str | None = None, private: bool | None = None) -> str:
    """Export a finished run and upload it in one commit; files of a run that was there before it go.

    Args:
        folder: of the run.
        name: of the model on the hub, `owner/name`; it is made if it is not there.
        licence: of the weights, as hubs name it; None leaves it open.
        private: whether a model that is made is; None for the owner's default.

    Returns:
        Its address.

    Raises:
        UserError: it is no finished run, or no name, or brings a pickle, or cannot be uploaded.
    """
    from huggingface_hub import HfApi

    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name of the hub; write owner/name")
    with TemporaryDirectory() as place:
        target = export_run(folder, Path(place) / name.partition("/")[2], licence, name)
        pickles = [path.name for pattern in PICKLES for path in target.rglob(pattern)]
        if pickles:
            raise UserError(f"{folder} brings the pickle {pickles[0]}; name its CLIP as safetensors instead")
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
        return f"{name!r} is no name of the hub; write owner/name"
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is open to those only whom its owner lets in; ask on its page, then {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no model {name}, or keeps it private; check the name, or {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision}; give a branch, tag or commit that its page lists"
    if status in (401, 403):
        return f"the hub refuses {name} to this account (status {status}); {LOG_IN}"
    if status is not None:
        return f"the hub cannot serve {what} (status {status}); try again later"
    if isinstance(error, errors.LocalEntryNotFoundError) and not online:
        return (
            f"{what} is no run folder here, and not complete in the hub's cache; correct the path, or fetch "
            f"the model with disdiff.load({name!r}, download=True)"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) or not isinstance(error, OSError):
        return f"the hub cannot be reached for {what}; check the network, HF_HUB_OFFLINE and HF_ENDPOINT"
    reason = error.strerror or error
    return (
        f"the hub's cache {constants.HF_HUB_CACHE} cannot be written ({reason}); free some space, or set "
        "HF_HUB_CACHE to another folder"
    )
