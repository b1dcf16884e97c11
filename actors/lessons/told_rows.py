"""What telling the lessons changes in the value table, before the memory follows: rows and values.

A file of safetensors in the directory of the run that teaches; the memory begins with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from actors.sources.text_file import read_bytes
from actors.storage import storage_errors
from actors.wire import ConfigError


@dataclass(frozen=True)
class ToldRows:
    """A change of the value table.

    Attributes:
        rows_U: rows that change, each once, int64.
        values_UD: what is added to them, float32.
    """

    rows_U: Tensor
    values_UD: Tensor

    def to_bytes(self) -> bytes:
        """As the file holds it."""
        return safetensors.torch.save(
            {"rows": self.rows_U.contiguous(), "values": self.values_UD.contiguous()}
        )

    @classmethod
    def read(cls, path: str) -> ToldRows:
        """From its file. Raises: ConfigError: it is missing or malformed."""
        try:
            with storage_errors(f"teach.told {path}", "can't be read"):
                tensors = safetensors.torch.load(read_bytes(path))
            return cls(tensors["rows"], tensors["values"])
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as err:
            raise ConfigError(
                f"teach.told {path}: not what `tandem teach` writes ({err}); teach anew"
            ) from err

    @torch.no_grad()
    def add_to(self, values_RD: Tensor) -> None:
        """Adds it to a value table, in place."""
        rows_U = self.rows_U.to(values_RD.device)
        values_RD.index_add_(0, rows_U, self.values_UD.to(values_RD.device, values_RD.dtype))
