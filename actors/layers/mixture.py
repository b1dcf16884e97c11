"""The mixture of what both layers predict, (1 - lambda) p + lambda q, and how its weight lambda
learns.

The one implementation of the mixture: training, evaluation, questions and generation all use it.
Both distributions become float32 first; in bf16 the entropies that lambda depends on, and what the
two differ by, would be rounded away.

lambda learns from help in a pass of its own, on text of which many tokens are replaced: on
memorised text the memory is always right, and lambda would learn to trust it everywhere; held-out
text is not to be trained on, and a run may have none. Beside a model that stays in part or in whole
as it was, lambda and the gates also learn on general text, on which the memory is to say nothing.

Shapes: B sequences, R of them read the memory, T tokens, D memory width, N positions, V token ids;
`...` any positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from actors.layers.batch import Batch, add_noise, hidden_at, rows_at
from actors.layers.data_layer import DataLayer, DataOutput, MemoryPort
from actors.layers.losses import kl
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import UNSURE_AT, trusted
from actors.layers.predicted import Predicted, entropy, log_probabilities
from actors.machine.seeds import seed_of
from actors.operators.parts import parts_of
from actors.operators.precision import widen
from actors.settings.run import DATA, RunSpec
from actors.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Mixture:
    """What both layers together predict.

    Attributes:
        logp: log of (1 - lambda) p + lambda q, (..., V) or of some token ids, float32.
        mixing: lambda, (...), float32; with freshness, as opened by it.
        freshness: how far it is opened, (...), in [0, 1]; None: nothing was told.
    """

    logp: Tensor
    mixing: Tensor
    freshness: Tensor | None = None


@dataclass(frozen=True)
class Predictions:
    """What data layer and memory layer predict, each alone, and what else lambda depends on.

    Attributes:
        logits: of the data layer, (..., V), of any precision.
        memory_logits: of the memory layer, (..., V), of any precision.
        hidden: the data layer's last hidden states, (..., H).
        y: what the memory read, (..., D).
        port: has the weights of lambda.
        freshness: how much of what was read comes from named writes, (...), in [0, 1]; where the
            memory is sure it opens lambda to lambda + (1 - lambda) * freshness. None: nothing was
            told.
        unsure_at: entropy of the memory's prediction from which it does not, by the token that it
            says, as `NamedWrites.unsure_at` gives it, (S,); None: the same for all.
    """

    logits: Tensor
    memory_logits: Tensor
    hidden: Tensor
    y: Tensor
    port: MemoryPort
    freshness: Tensor | None = None
    unsure_at: Tensor | None = None

    @cached_property
    def logp(self) -> Tensor:
        """Log probabilities of the data layer, (..., V), float32."""
        return log_probabilities(self.logits)

    @cached_property
    def logq(self) -> Tensor:
        """Log probabilities of the memory layer, (..., V), float32."""
        return log_probabilities(self.memory_logits)

    @property
    def _unsure_at(self) -> Tensor:
        """Of the token that the memory says at each position, (...), or of all, (1,)."""
        device = self.logq.device
        if self.unsure_at is None:
            return torch.full((1,), UNSURE_AT, device=device)
        unsure_S = self.unsure_at.to(device)
        if len(unsure_S) == 1:
            return unsure_S
        return unsure_S[self.logq.argmax(-1).clamp_max(len(unsure_S) - 1)]

    def mixed(self, fixed: bool = False, tokens: Tensor | None = None) -> Mixture:
        """Both together.

        Args:
            fixed: the weights of lambda get no gradient.
            tokens: ids (..., K) whose probabilities are wanted; None: those of all.
        """
        logp, logq = self.logp, self.logq
        logit = widen(self.port.mixing_logit(self.hidden, self.y, logp, logq, fixed))
        fresh = self.freshness
        if fresh is not None:
            fresh = trusted(widen(fresh), entropy(logq), self._unsure_at)
        if tokens is not None:
            logp, logq = logp.gather(-1, tokens), logq.gather(-1, tokens)
        shares, mixing, fresh = _shares(logit, fresh)
        of_data, of_memory = (share.unsqueeze(-1) for share in shares)
        return Mixture(torch.logaddexp(logp + of_data, logq + of_memory), mixing, fresh)


def _shares(
    logit: Tensor, freshness: Tensor | None = None
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor | None]:
    """Logs of the shares of data and memory layer, lambda and freshness, all (...), from the logit
    of lambda and what opens it.
    """
    data_share, memory_share = F.logsigmoid(-logit), F.logsigmoid(logit)
    mixing = torch.sigmoid(logit)
    if freshness is None:
        return (data_share, memory_share), mixing, None
    fresh = widen(freshness)
    memory_share = torch.logaddexp(memory_share, data_share + fresh.log())
    data_share = data_share + (-fresh).log1p()
    return (data_share, memory_share), mixing + (1 - mixing) * fresh, fresh


@dataclass(frozen=True)
class BothAt:
    """What both layers predict at N positions, where only the text's tokens are asked for.

    Attributes:
        data, memory: each alone.
        beyond_N: as `DataOutput.beyond_BT`.
        mixture: both together, its `logp` (N,) that of the text's tokens.
    """

    data: Predicted
    memory: Predicted
    beyond_N: Tensor | None
    mixture: Mixture


def both_at(
    data: DataLayer,
    memory: MemoryLayer,
    hidden_NH: Tensor,
    y_ND: Tensor,
    targets_N: Tensor,
    in_parts: bool,
    fixed: bool = False,
) -> BothAt:
    """What both layers predict at some positions.

    Args:
        data, memory: the layers.
        hidden_NH: the data layer's last hidden states.
        y_ND: what the memory read.
        targets_N: the text's tokens.
        in_parts: they are one part of the positions of a pass.
        fixed: the weights of lambda get no gradient.
    """
    num = len(targets_N)
    logits_NV, beyond_N = data.outputs_at(hidden_NH, in_parts)
    of_data = Predicted(logits_NV, targets_N, num_entropies=num)
    of_memory = Predicted(memory.predict(y_ND, in_parts), targets_N, num_entropies=num)
    mixture = mixed_at(data.port, of_data, of_memory, hidden_NH, y_ND, fixed)
    return BothAt(of_data, of_memory, beyond_N, mixture)


def mixed_at(
    port: MemoryPort,
    of_data: Predicted,
    of_memory: Predicted,
    hidden_MH: Tensor,
    y_MD: Tensor,
    fixed: bool = False,
) -> Mixture:
    """Both layers together at the first M of the positions at which the data layer predicts.

    Args:
        port: has the weights of lambda.
        of_data: the data layer, with so many entropies.
        of_memory: the memory at these positions.
        hidden_MH, y_MD, fixed: as of `both_at`.
    """
    num = len(y_MD)
    entropies_M2 = torch.stack([of_data.entropy(num), of_memory.entropy(num)], dim=-1)
    logit_M = widen(port.mixing_logit_of(hidden_MH, y_MD, entropies_M2, fixed))
    (data_M, memory_M), mixing_M, _ = _shares(logit_M)
    mixed_M = torch.logaddexp(data_M - of_data.nll_N[:num], memory_M - of_memory.nll_N)
    return Mixture(mixed_M, mixing_M)


def predict_both(
    data: DataLayer,
    memory: MemoryLayer,
    batch: Batch,
    y_RTD: Tensor,
    where: Tensor,
    scale_RT: Tensor | None = None,
    freshness_RT: Tensor | None = None,
) -> tuple[DataOutput, Predictions]:
    """One data-layer pass in which the first R sequences read: its output, and what both layers
    predict at `where`.

    Args:
        data, memory: the layers.
        batch: all sequences; those after the first R have their reads off.
        y_RTD: what the first R sequences read.
        where: positions of the first R that are wanted, as `rows_at` takes them.
        scale_RT: factor of each read on its way into the data layer, as of dropout; the memory
            predicts from the whole read. None: 1.
        freshness_RT: of these reads, as `MemoryLayer.read` says; None: nothing was told.
    """
    num_reading = len(y_RTD)
    input_RTD = y_RTD if scale_RT is None else y_RTD * scale_RT.unsqueeze(-1)
    out = data(
        batch.tokens_BT,
        batch.segments_BT,
        input_RTD if num_reading else None,
        documents=batch.documents,
    )
    y_ND = rows_at(y_RTD, where)
    return out, Predictions(
        rows_at(out.logits_BTV[:num_reading], where),
        memory.predict(y_ND),
        rows_at(out.hidden_BTD[:num_reading], where),
        y_ND,
        data.port,
        None if freshness_RT is None else rows_at(freshness_RT, where),
        memory.writes.unsure_at,
    )


def noised_sequences(
    spec: RunSpec, tokenizer: Tokenizer, batch: Batch, num_reading: int, step: int
) -> Batch:
    """The sequences on which lambda learns, with a share of their tokens replaced.

    The first half of those that read; none where lambda learns from help itself.

    Args:
        spec, tokenizer: the run's.
        batch: the global batch; the same on every rank, and so is what is returned.
        num_reading: sequences at its front that read.
        step: of the run, from which the choice of tokens is drawn.
    """
    noise = spec.data.mixing_noise
    some = batch.rows(slice(None, -(-num_reading // 2) if noise > 0 else 0))
    choices = torch.Generator().manual_seed(seed_of(spec.seed, DATA, step, "mixing"))
    return add_noise(some, noise, tokenizer.size, tokenizer.marks, choices)


class StatesAlone:
    """Last hidden states, reads off, of a data layer whose model keeps its bits: of each sequence
    they are computed once, and by itself, so that they are the same bits whether kept or not.

    Args:
        most_bytes: of the states that are kept; beyond it they are computed anew.
    """

    def __init__(self, most_bytes: int = 64 << 20) -> None:
        self._left = most_bytes
        self._kept: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def __call__(self, data: DataLayer, batch: Batch) -> Tensor:
        """Those at the valid positions (N, H) of a batch in host memory."""
        found, device = [], data.port.mix.weight.device
        for row in range(len(batch.tokens_BT)):
            one = batch.rows(slice(row, row + 1))
            key = one.tokens_BT.numpy().tobytes() + one.host.segments_BT.tobytes()
            if (states_NH := self._kept.get(key)) is None:
                states_NH = hidden_at(data, one.to(device))
                if (size := states_NH.numel() * states_NH.element_size()) <= self._left:
                    self._left -= size
                    self._kept[key] = states_NH
            found.append(states_NH)
        return torch.cat(found)


def general_loss(
    data: DataLayer, memory: MemoryLayer, general: Batch, plain_NH: Tensor | None = None
) -> Tensor:
    """KL(p || mixture) + KL(p || p_read) on general text; nats per token.

    p is the data layer without reads, under stop-gradient, and p_read the same with them. So the
    gates learn to add nothing and lambda to mix nothing in where the text is none of the memory's.
    Against p and not against the text: a short sample would be learned by heart.

    Args:
        data, memory: the layers.
        general: sequences, all of which read, with something to predict.
        plain_NH: states of the data layer without reads; None: they are computed.
    """
    with torch.no_grad():
        if plain_NH is None:
            plain_NH = hidden_at(data, general)
        y_BTD = memory.read(general.tokens_BT, general.segments_BT, general.one_document).y
    read_NH, y_ND = hidden_at(data, general, y_BTD), rows_at(y_BTD, general.valid_at_N)

    def changed(some: slice) -> Tensor:
        with torch.no_grad():
            logp_NV = log_probabilities(data.logits_at(plain_NH[some]))
        logits_NV, _ = data.outputs_at(read_NH[some])
        of_memory_NV = memory.predict(y_ND[some])
        both = Predictions(logits_NV, of_memory_NV, read_NH[some], y_ND[some], data.port)
        return (kl(logp_NV, both.mixed().logp) + kl(logp_NV, both.logp)).sum()

    num, size = len(y_ND), data.positions_at_once
    if num <= size:
        return changed(slice(num)) / num
    parts = [checkpoint(changed, some, use_reentrant=False) for some in parts_of(num, size)]
    return torch.stack(parts).sum() / num


def mixing_loss(data: DataLayer, memory: MemoryLayer, noised: Batch, y_BTD: Tensor) -> Tensor:
    """Help on noised sequences, of which lambda's weights alone get a gradient; nats per token.

    Args:
        data, memory: the layers.
        noised: sequences, all of which read, with something to predict.
        y_BTD: what they read.
    """
    targets_N, size = noised.targets_N, data.positions_at_once
    size = len(targets_N) if noised.tokens_BT.numel() <= size else size
    numbers = []
    with torch.no_grad():
        hidden_NH = hidden_at(data, noised, y_BTD)
        y_ND = rows_at(y_BTD, noised.valid_at_N)
        for some in parts_of(len(targets_N), size):
            each = data.logits_at(hidden_NH[some]), memory.predict(y_ND[some])
            for logits_NV in each:
                num = len(logits_NV)
                said = Predicted(logits_NV, targets_N[some], num_entropies=num)
                numbers += [said.nll_N, said.entropy(num)]
    nlls = [torch.cat(numbers[first::4]) for first in (0, 2)]
    entropies_N2 = torch.stack([torch.cat(numbers[first::4]) for first in (1, 3)], dim=-1)
    logit_N = widen(data.port.mixing_logit_of(hidden_NH, y_ND, entropies_N2))
    (data_N, memory_N), _, _ = _shares(logit_N)
    return -torch.logaddexp(data_N - nlls[0], memory_N - nlls[1]).mean()
