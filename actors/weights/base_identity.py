"""The identity of a checkpoint's weights: a digest of its tensors, whatever files they lie in.

Two folders have one identity where their tensors have the same names, dtypes, shapes and bytes; a
copy in other shards is the same model. Reads every byte once, at the speed of the disk, and builds
no tensor.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import xxhash

from actors.weights.adapter_files import ADAPTER_WEIGHTS, adapter_beside
from actors.weights.export_files import DATA_LAYER, KeptModel
from actors.weights.weight_files import CONFIG, weight_files
from actors.wire import ConfigError

LENGTH_BYTES = 8  # of a safetensors file's header, which comes first


def base_digest(place: str, location: str) -> str:
    """The digest of the weights at `place`, and of the adapter beside them if there is one.

    Args:
        place: from `pretrained_path`; a hub name's files are in the local cache, since they were
            loaded.
        location: the setting's value, for messages.

    Raises:
        ConfigError: as `weight_files`.
    """
    lines: dict[str, str] = {}
    files = list(weight_files(local_folder(place), location))
    if (adapter := adapter_beside(place)) is not None:
        files.append(adapter / ADAPTER_WEIGHTS)
    for file in files:
        with file.open("rb") as handle:
            size = int.from_bytes(handle.read(LENGTH_BYTES), "little")
            header = json.loads(handle.read(size))
            start = LENGTH_BYTES + size
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                view = memoryview(mapped)
                for name, about in header.items():
                    if name == "__metadata__":
                        continue
                    first, last = about["data_offsets"]
                    part = view[start + first : start + last]
                    digest = xxhash.xxh3_128_hexdigest(part)
                    part.release()
                    lines[name] = f"{name} {about['dtype']} {about['shape']} {digest}"
                view.release()
    return xxhash.xxh3_64_hexdigest("\n".join(lines[name] for name in sorted(lines)).encode())


def check_kept(root: Path, kept: KeptModel, directory: str) -> None:
    """Raises: ConfigError: the data layer under `root` is not the one that the run began with.

    Args:
        root: the export's local copy.
        kept: what its marker says.
        directory: name of the export in messages.
    """
    found = base_digest(str(root / DATA_LAYER), directory)
    if found != kept.base:
        raise ConfigError(
            f"{directory}: the weights of {DATA_LAYER} have digest {found}, and the run began and "
            f"ended with {kept.base}: the files were changed; export again, or, if the change is "
            f"intended, give the folder {directory}/{DATA_LAYER} as a checkpoint"
        )


def local_folder(place: str) -> Path:
    """The folder with the files of `place`: itself, or where the local cache has a hub name's."""
    if Path(place).is_dir():
        return Path(place)
    from transformers.utils import cached_file

    return Path(str(cached_file(place, CONFIG, local_files_only=True))).parent
