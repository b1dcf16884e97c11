"""What a loaded pair is saved and shared by: `model.save`, `model.push_to_hub`.

A mixin of `TandemModel`. What is written is `actors.sharing`'s.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.layers.pair import Pair
from actors.sharing.folder import save_shared
from actors.sharing.hub import push
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError


class Shared:
    """Saves and shares a pair.

    Attributes:
        data_layer, memory_layer: the pair.
        words: the run's tokenizer; None: the pair can't be saved.
        origin: what is known of the run that it comes from; the model card has its figures.
    """

    data_layer: DataLayer
    memory_layer: MemoryLayer
    words: Tokenizer | None = None
    origin: Mapping[str, Any] | None = None

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the pair, with what it was told, as a folder that `load` takes, and transformers
        as the plain data layer; the data layer in its type, with a model card.

        Args:
            directory: that is not there yet; any fsspec URL.

        Raises:
            ConfigError: there is something already; the pair is not from an export; or its type is
                neither float32 nor bfloat16.
            StorageError: its storage is away or full.
        """
        if self.words is None:
            raise ConfigError("this pair has no tokenizer of its run, which an export needs")
        pair = Pair(self.data_layer, self.memory_layer)
        save_shared(self.words, pair, os.fspath(directory), self.origin)

    save_pretrained = save

    def push_to_hub(
        self,
        name: str,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Saves the pair and uploads it to the Hugging Face hub; returns its address there.

        Args:
            name: owner/name; made where it is not there yet.
            private: None: as the owner's settings say.
            token: None: the one that `hf auth login` has kept.
            commit_message: of the one commit.
            revision: branch.

        Raises:
            ConfigError: as `save`; or the hub refuses it.
            StorageError: the hub can't be reached.
        """
        with tempfile.TemporaryDirectory(prefix="tandem-push-") as temporary:
            folder = Path(temporary, name.rpartition("/")[2] or "pair")
            given = dict(self.origin or {}) | {"name": name}
            before, self.origin = self.origin, given
            try:
                self.save(folder)
            finally:
                self.origin = before
            return push(str(folder), name, private, token, commit_message, revision)
