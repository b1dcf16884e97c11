"""The controls: memories that can't do what is claimed, and predictors that need no memory.

None of these is shipped. Called by `reflect_cells`.

Shapes: B sequences, T tokens, D widths, N positions, V token ids.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from actors.layers import losses
from actors.layers.batch import Batch
from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import EncoderState, MemoryLayer, product_topk, rms
from actors.machine.seeds import seed_everything
from actors.measuring.probing import MAX_ANSWER_TOKENS, answer_tokens
from actors.settings.run import MEMORY
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.memory_trainer import MemoryTrainer
from benchmarks.reflect_answers import Tokens

LONGEST = 12  # tokens of context that the n-gram table looks up, at most


class HiddenEncoder(nn.Module):
    """Encodings made from a data layer's last hidden state: addresses that move when it does.

    Args:
        data_layer: gives the layer that is asked; not a part of this module.
        width: of the hidden state.
        dim: of the encoding.
    """

    def __init__(self, data_layer: Callable[[], DataLayer], width: int, dim: int) -> None:
        super().__init__()
        self._data_layer = data_layer
        self.project = nn.Linear(width, dim, bias=False)
        self.blocks = nn.ModuleList()  # nothing of it is compiled

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        state: EncoderState | None = None,
        one_document: bool | None = None,
    ) -> tuple[Tensor, EncoderState]:
        """As `Encoder`; the state is empty, since pieces are never fed one by one here."""
        with torch.no_grad():
            out = self._data_layer()(tokens_BT, segments_BT)
            hidden_BTD = out.hidden_BTD
        return rms(self.project(rms(hidden_BTD))), EncoderState((), segments_BT[:, :0])


class HiddenTrainer(MemoryTrainer):
    """A memory that is addressed by the adopted data layer's hidden states."""

    def build_layer(self) -> MemoryLayer:
        """A memory layer that asks the adopted version where to read."""
        seed_everything(self.spec.seed, MEMORY, "weights")
        spec = self.spec.memory.layer.model_copy(update={"tie_embeddings": False})
        width = int(self.teacher.model.config.hidden_size)
        encoder = HiddenEncoder(lambda: self.teacher, width, spec.dim)
        memory = MemoryLayer(spec, self.teacher.vocab_rows, self.tokenizer.size, encoder)
        return memory.to(self.device)


def with_shuffled_slots(memory: MemoryLayer, seed: int) -> MemoryLayer:
    """The same memory, each address leading to another row."""
    shuffled = copy.deepcopy(memory).requires_grad_(False)
    order = torch.randperm(len(memory.values), generator=torch.Generator().manual_seed(seed))
    shuffled.values.copy_(memory.values[order])
    return shuffled


class MeanRead(nn.Module):
    """A memory whose every read finds the mean of what reads of `batch` find."""

    def __init__(self, memory: MemoryLayer, batch: Batch) -> None:
        super().__init__()
        self._memory = memory
        with torch.no_grad():
            u_BTD, _ = memory.encode(batch.tokens_BT, batch.segments_BT)
            self._mean_D = _found(memory, u_BTD[batch.valid_BT]).mean(0)

    def predict_at(self, batch: Batch) -> Tensor:
        """Logits (N, V) at the valid positions."""
        u_BTD, _ = self._memory.encode(batch.tokens_BT, batch.segments_BT)
        u_ND = u_BTD[batch.valid_BT]
        return self._memory.predict(self._memory.gated(self._mean_D.expand_as(u_ND), u_ND))


def _found(memory: MemoryLayer, u_ND: Tensor) -> Tensor:
    sides = memory.side_scores(u_ND)
    scores_NHK, slots_NHK = product_topk(sides, memory.spec.topk)
    return (memory.values[slots_NHK] * scores_NHK.softmax(-1).unsqueeze(-1)).sum((1, 2))


def unigram_logits(counts_V: Tensor) -> Tensor:
    """Log probabilities (V,) of tokens by how often they occur, with one more of each."""
    return ((counts_V + 1.0) / (counts_V + 1.0).sum()).log()


@torch.no_grad()
def recall_kl(
    data: DataLayer, predict: Callable[[Batch], Tensor], batch: Batch, size: int = 16
) -> float:
    """KL from the data layer to what `predict` says, mean over the valid positions, in nats."""
    total, num = 0.0, 0
    for start in range(0, len(batch.tokens_BT), size):
        part = batch.rows(slice(start, start + size))
        teacher_NV = data(part.tokens_BT, part.segments_BT).logits_BTV[part.valid_BT]
        student_NV = predict(part)
        total += float(losses.recall(teacher_NV, student_NV.expand_as(teacher_NV))) * len(
            teacher_NV
        )
        num += len(teacher_NV)
    return total / max(1, num)


class NgramTable:
    """The most frequent next token after the longest context that the text has.

    Args:
        texts: prompt and continuation of each training sentence, as token ids.
    """

    def __init__(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        counts: defaultdict[Tokens, Counter[int]] = defaultdict(Counter)
        for prompt, answer in texts:
            row = [*prompt, *answer]
            for at in range(len(prompt), len(row)):
                for length in range(min(LONGEST, at) + 1):
                    counts[tuple(row[at - length : at])][row[at]] += 1
        self._best = {context: min(c, key=lambda t: (-c[t], t)) for context, c in counts.items()}

    def answer(self, prompt: Sequence[int], stop: int) -> Tokens:
        """The greedy continuation, up to and without `stop`."""
        row = list(prompt)
        while len(row) < len(prompt) + MAX_ANSWER_TOKENS:
            token = self._next(row)
            if token == stop:
                break
            row.append(token)
        return tuple(row[len(prompt) :])

    def _next(self, row: Sequence[int]) -> int:
        for length in range(min(LONGEST, len(row)), 0, -1):
            if (found := self._best.get(tuple(row[len(row) - length :]))) is not None:
                return found
        return self._best[()]


def sentence_tokens(tokenizer: Tokenizer, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """A training sentence as the corpus cuts it: what is read, and what is learned."""
    return (
        [*tokenizer.opening, *tokenizer.encode(prompt)],
        [*answer_tokens(tokenizer, answer), *tokenizer.closing],
    )
