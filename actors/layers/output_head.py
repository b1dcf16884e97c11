"""How a causal LM makes logits of hidden states: by its output matrix, and what its family does to
the logits after that.

Called by the data layer. Shapes: N positions, V token ids, R output rows, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from actors.layers.precision import widen
from actors.layers.predicted import linear
from actors.wire import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OutputHead:
    """Makes logits of any hidden states of a model, as the model does, and differentiably.

    Args:
        model: the causal LM.
        num_tokens: ids that the tokenizer has, R or fewer.
        own_code: the model's own logits (N, R) of hidden states (N, D), computed by all of its
            code: some families cap or scale what the output matrix gives.
    """

    def __init__(
        self, model: PreTrainedModel, num_tokens: int, own_code: Callable[[Tensor], Tensor]
    ) -> None:
        self._model, self._num_tokens, self._own_code = model, num_tokens, own_code
        self._ends_with_matrix: bool | None = None

    def logits(self, hidden_ND: Tensor, into_grad: bool) -> tuple[Tensor, Tensor | None]:
        """Logits (N, V) of the tokenizer's ids, and `beyond` of those of all rows.

        Args:
            hidden_ND: hidden states.
            into_grad: as in `predicted.linear`, of the output matrix, where that is all there is.
        """
        tokens, others = slice(self._num_tokens), slice(self._num_tokens, None)
        matrix = output_embeddings(self._model)
        if not self._is_all():
            logits_NR = self._own_code(hidden_ND)
        elif type(matrix) is not nn.Linear or matrix.bias is not None:
            logits_NR = matrix(hidden_ND)
        else:
            logits_NV = linear(hidden_ND, matrix.weight, tokens, into_grad)
            if not self._lowers_others():
                return logits_NV, None
            others_NU = linear(hidden_ND, matrix.weight, others, into_grad)
            return logits_NV, widen(others_NU).logsumexp(-1)
        return logits_NR[:, tokens], self.beyond(logits_NR)

    def beyond(self, logits: Tensor) -> Tensor | None:
        """logsumexp (...) of the logits (..., R) of output rows that are no token; None where there
        are none, or no backward pass will lower them.
        """
        if not self._lowers_others():
            return None
        return widen(logits[..., self._num_tokens :]).logsumexp(-1)

    def _lowers_others(self) -> bool:
        weight = output_matrix(self._model)
        return (
            torch.is_grad_enabled() and weight.requires_grad and self._num_tokens < weight.shape[0]
        )

    @torch.no_grad()
    def _is_all(self) -> bool:
        """Whether the model's logits are what its output matrix gives; found out once."""
        if self._ends_with_matrix is None:
            weight = output_matrix(self._model)
            at_2D = torch.arange(2 * weight.shape[1], device=weight.device).view(2, -1)
            hidden_2D = 3 * at_2D.cos().to(weight.dtype)
            by_matrix_2R = output_embeddings(self._model)(hidden_2D)
            self._ends_with_matrix = torch.equal(self._own_code(hidden_2D), by_matrix_2R)
        return self._ends_with_matrix


def output_embeddings(model: PreTrainedModel) -> nn.Module:
    """The module that makes logits of the last hidden state.

    Raises:
        ConfigError: there is none, as in base models.
    """
    head: nn.Module | None = model.get_output_embeddings()
    if head is None:
        raise ConfigError(f"{type(model).__name__} has no output matrix, so it is no causal LM")
    return head


def output_matrix(model: PreTrainedModel) -> Tensor:
    """The model's output matrix, (rows, D). Raises: ConfigError as `output_embeddings`."""
    weight = output_embeddings(model).weight
    assert isinstance(weight, Tensor)
    return weight
