"""An export put on the Hugging Face hub. Nothing is sent before somebody has seen the list of what would be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from ..errors import OptimaError
from ..model.checkpoint import first_line

_PATIENCE = 10  # seconds for the licence of a base


def require_token(repo: str) -> None:
    """Raises OptimaError where this machine has no token for the hub; nothing is asked there."""
    if get_token() is None:
        hint = "hf auth login, or HF_TOKEN in the environment"
        raise OptimaError("the hub wants to know who you are", where=repo, hint=hint)


def outgoing(folder: Path) -> list[tuple[str, int]]:
    """What would be sent: each file's path in the folder, and its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def add_licence(folder: Path, base: str, *, api: HfApi) -> None:
    """Puts the licence of a base that is on the hub into the cards; none where the hub does not say one."""
    if base.count("/") != 1 or base.startswith((".", "/", "~")):
        return
    with _reached(base):
        said = api.model_info(base, timeout=_PATIENCE).card_data
    if said is not None and said.get("license"):
        for path in folder.rglob("README.md"):
            card = ModelCard.load(path)
            card.data.license = said.get("license")
            card.save(path)


def push(folder: Path, repo: str, *, private: bool, message: str, api: HfApi) -> str:
    """Sends the folder as one commit to a repository, which is made if need be; returns its address.

    private: whether others must not see it. Raises OptimaError where they would, since the repository is there already,
    for what the hub refuses, and without a token.
    """
    with _reached(repo):
        place = api.create_repo(repo, private=private, exist_ok=True)
        open_to_all = private and not api.model_info(place.repo_id).private
    if open_to_all:
        what = "is there already, and everybody can see it; nothing was sent"
        raise OptimaError(what, where=repo, hint="--public, or another name")
    with _reached(repo):
        api.upload_folder(folder_path=folder, repo_id=place.repo_id, commit_message=message)
    return str(place)


@contextmanager
def _reached(repo: str) -> Iterator[None]:
    """What goes wrong with the hub, as one sentence."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise OptimaError("the hub wants to know who you are", where=repo, hint="hf auth login") from error
    except HFValidationError as error:
        raise OptimaError(f"is no name of a repository: {first_line(error)}", where=repo, hint="USER/NAME") from error
    # RuntimeError: what the library makes of whatever stops a large file
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled, OSError, RuntimeError) as error:
        status: Any = getattr(getattr(error, "response", None), "status_code", None)
        hint = "hf auth login, with a token that may write there" if status in (401, 403, 404) else "try again later"
        raise OptimaError(
            f"the hub cannot be reached, or refuses: {first_line(error)}", where=repo, hint=hint
        ) from error
