"""Looks at the local files that a run starts from before any process starts. No torch.

A folder that only the workers' nodes have, a URL or a name of the hub is theirs to look at. Called
by `run`.
"""

from __future__ import annotations

from pathlib import Path

from actors.weights.weight_files import headers, refuse_other_than_checkpoint
from orchestrator.settings.file_names import EXPORT, EXPORT_MARKER

DATA_LAYER = "data_layer"  # of an export, as `actors.weights.export_files` writes it


def look_at_weights(location: str | None) -> None:
    """Opens the headers of the checkpoint, or of the earlier run, that `data.layer.pretrained` is.

    Raises:
        ConfigError: an adapter, a GGUF file, pickle, a pointer of Git LFS, files missing or
            truncated.
    """
    if location is None or "://" in location or not Path(location).exists():
        return
    place = Path(location)
    for export in (place, place / EXPORT):
        if (export / EXPORT_MARKER).is_file():
            place = export / DATA_LAYER
    refuse_other_than_checkpoint(place, location)
    headers(place, location)
