"""What the cells of `learning` have in common, whichever layer learns what. Called by
`learning_together` and `learning_alone`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from actors.corpus.corpus import build_tokenizer
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from benchmarks import learning_data
from benchmarks.cells import Cells
from benchmarks.learning_specs import Sizes

Json = dict[str, Any]


@dataclass(frozen=True)
class SeedCells(ABC):
    """The cells of one seed. A key is the spec, the sizes that count, what was read, and more.

    Attributes:
        cells: where results are kept.
        sizes: how big.
        data: the data folder.
        seed: of facts, weights, shuffles and wordings held out.
        changes: of the spec of every memory and pair, by dotted name; controls keep theirs.
    """

    cells: Cells
    sizes: Sizes
    data: Path
    seed: int
    changes: Mapping[str, Any]

    counting: ClassVar[tuple[str, ...]]  # sizes that the results depend on

    @property
    @abstractmethod
    def spec(self) -> RunSpec:
        """Of the runs, whose corpora are written where they are not there yet."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of the runs."""
        return build_tokenizer(self.spec)

    @cached_property
    def _read(self) -> str:
        return learning_data.data_digest(self.data)

    def _folder_of(self, name: str, write: Callable[[Path], None]) -> Path:
        """As `Cells.folder_of`, for this seed and data."""
        return self.cells.folder_of(f"{name}-{self.seed}-{self._read[:8]}", write)

    def _key(self, name: str, **extra: Any) -> tuple[str, Json]:
        key = {
            "spec": self.spec.model_dump(),
            "sizes": self.sizes.only(self.counting),
            "read": self._read,
            **extra,
        }
        return f"{name}-{self.seed}", key

    def _get(self, name: str, compute: Callable[[Path], Json], **extra: Any) -> Json:
        return self.cells.get(*self._key(name, **extra), compute)
