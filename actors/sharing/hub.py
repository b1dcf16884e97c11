"""The Hugging Face hub: where a shared folder is pushed to and fetched from."""

from __future__ import annotations

from pathlib import Path

from actors.formats import first_line
from actors.sharing.model_card import HUB_NAME
from actors.weights.export_files import WRITES
from actors.wire import ConfigError, StorageError

SCHEME = "hf://"
# What a shared folder may hold: tensors, JSON and text, never code or pickle.
KINDS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.md", "*.model"]


def hub_name(location: str) -> str | None:
    """The hub's name in `hf://owner/name`, or in `owner/name` where nothing of this machine is
    meant: there is neither such a path nor its first folder. None: it is no hub name.
    """
    name = location.removeprefix(SCHEME)
    if not HUB_NAME.fullmatch(name):
        return None
    if location.startswith(SCHEME):
        return name
    return None if Path(name).exists() or Path(name).parent.is_dir() else name


def fetch(name: str, revision: str | None = None, token: str | None = None) -> str:
    """The local copy of a pair on the hub: the newest, or that of the cache without a network.

    Raises:
        ConfigError: there is no such pair, it is not open to this token, or there is no network and
            no copy.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, revision=revision, token=token, allow_patterns=KINDS)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as err:
        raise ConfigError(
            f"{name}: nothing of that name on this machine, and the hub gives no pair: "
            f"{first_line(err)}; check the name, the token and the network, or give a folder"
        ) from err


def push(
    folder: str,
    name: str,
    private: bool | None = None,
    token: str | None = None,
    message: str | None = None,
    revision: str | None = None,
) -> str:
    """Uploads a shared folder, in one commit; returns the address of the repository.

    Args:
        folder: local, from `save_shared`.
        name: owner/name; made where it is not there yet.
        private: None: as the owner's settings say.
        token: None: the one that `hf auth login` has kept.
        message: of the commit.
        revision: branch.

    Raises:
        ConfigError: the hub refuses it.
        StorageError: it can't be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=token)
    try:
        repo = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo.repo_id,
            folder_path=folder,
            commit_message=message or "A data layer with its memory, by Tandem",
            revision=revision,
            delete_patterns=[f"{WRITES}/*"],  # of a pair that was there before
        )
    except (HfHubHTTPError, HFValidationError) as err:
        raise ConfigError(
            f"{name}: the hub refuses it: {first_line(err)}; check the name and the token "
            "(hf auth login)"
        ) from err
    except OSError as err:
        raise StorageError(f"{name}: the hub can't be reached: {first_line(err)}") from err
    return str(repo)
