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

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from actors.layers.batch import Alone, Batch, add_noise, hidden_and_front_at, hidden_at, rows_at
from actors.layers.data_layer import DataLayer, DataOutput, MemoryPort
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import UNSURE_AT, trusted
from actors.layers.predicted import Predicted, Teacher, entropy, log_probabilities
from actors.machine.seeds import seed_of
from actors.operators.crosses import crosses
from actors.operators.parts import parts_of
from actors.operators.precision import widen
from actors.settings.run import DATA, RunSpec
from actors.tokenizers.tokenizer import Tokenizer

TURN = 5  # steps in which lambda gets new noised text once


def takes_noised(step: int) -> bool:
    """Whether lambda gets new noised text in a step, or goes on with what is kept of the last;
    `step`: number since the last time that nothing was kept.
    """
    return step % TURN == 0


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


def general_loss(
    data: DataLayer, memory: MemoryLayer, general: Batch, alone: Alone | None = None
) -> Tensor:
    """KL(p || mixture) + KL(p || p_read) on general text; nats per token.

    p is the data layer without reads, under stop-gradient, and p_read the same with them. So the
    gates learn to add nothing and lambda to mix nothing in where the text is none of the memory's.
    Where adapters train, p is the model without them, so that they too learn to change nothing.
    Against p and not against the text: a short sample would be learned by heart.

    Args:
        data, memory: the layers.
        general: sequences, all of which read, with something to predict.
        alone: of the data layer without reads, of which p is made; None: it is computed.
    """
    with torch.no_grad():
        y_BTD = memory.read(general.tokens_BT, general.segments_BT, general.one_document).y
    if alone is None:
        read_NH, front_BTH = hidden_and_front_at(data, general, y_BTD)
        with torch.no_grad():
            plain_NH = hidden_at(data, general, None, front_BTH)
    else:
        read_NH, plain_NH = hidden_at(data, general, y_BTD, alone.front_BTH), alone.hidden_NH
    y_ND = rows_at(y_BTD, general.valid_at_N)

    def changed(some: slice) -> Tensor:
        with torch.no_grad():
            plain = Teacher.fused(data.logits_at(plain_NH[some]))
            of_memory = Teacher.fused(memory.predict(y_ND[some]))

        def logit_of(entropies_N2: Tensor) -> Tensor:
            return data.port.mixing_logit_of(read_NH[some], y_ND[some], entropies_N2)

        logits_NV, _ = data.outputs_at(read_NH[some], into_grad=True)
        return changed_by_reads(plain, logits_NV, of_memory, logit_of).sum()

    num, size = len(y_ND), data.positions_at_once
    if num <= size:
        return changed(slice(num)) / num
    parts = [checkpoint(changed, some, use_reentrant=False) for some in parts_of(num, size)]
    return torch.stack(parts).sum() / num


def changed_by_reads(
    plain: Teacher,
    logits_NV: Tensor,
    of_memory: Teacher,
    logit_of: Callable[[Tensor], Tensor],
) -> Tensor:
    """KL(p || (1 - lambda) r + lambda q) + KL(p || r) of each position, (N,), nats.

    Args:
        plain: p, the data layer without reads.
        logits_NV: of the data layer with reads, r.
        of_memory: q, the memory alone.
        logit_of: logit (N,) of lambda from the entropies (N, 2) of r and q.
    """
    read = Teacher.fused(logits_NV.detach())
    logit_N = widen(logit_of(torch.stack([read.entropy_N, of_memory.entropy_N], dim=-1)))
    crosses_N = crosses(widen(logits_NV), logit_N, read.p_NV, plain.p_NV, of_memory.p_NV)
    return crosses_N - 2 * plain.entropy_N


@dataclass(frozen=True)
class NoisedStates:
    """What help on noised sequences is made of, but for the weights of lambda.

    A pass costs more than what is new in it: lambda learns from what is kept of one for several
    steps.

    Attributes:
        hidden_NH: the data layer's last hidden states, reads on.
        y_ND: what was read.
        nlls: -log of what either layer gives the text's tokens, (N,) each.
        entropies_N2: of what either predicts.
    """

    hidden_NH: Tensor
    y_ND: Tensor
    nlls: tuple[Tensor, Tensor]
    entropies_N2: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, data: DataLayer, memory: MemoryLayer, noised: Batch, y_BTD: Tensor) -> NoisedStates:
        """Of sequences, all of which read `y_BTD`, with something to predict."""
        targets_N, size = noised.targets_N, data.positions_at_once
        size = len(targets_N) if noised.tokens_BT.numel() <= size else size
        numbers = []
        hidden_NH = hidden_at(data, noised, y_BTD)
        y_ND = rows_at(y_BTD, noised.valid_at_N)
        for some in parts_of(len(targets_N), size):
            each = data.logits_at(hidden_NH[some]), memory.predict(y_ND[some])
            for logits_NV in each:
                num = len(logits_NV)
                said = Predicted(logits_NV, targets_N[some], num_entropies=num)
                numbers += [said.nll_N, said.entropy(num)]
        own_N, of_own_N, by_memory_N, of_memory_N = (torch.cat(numbers[n::4]) for n in range(4))
        entropies_N2 = torch.stack([of_own_N, of_memory_N], dim=-1)
        return cls(hidden_NH, y_ND, (own_N, by_memory_N), entropies_N2)

    def loss(self, port: MemoryPort) -> Tensor:
        """Help, of which lambda's weights alone get a gradient; nats per token."""
        logit_N = widen(port.mixing_logit_of(self.hidden_NH, self.y_ND, self.entropies_N2))
        (data_N, memory_N), _, _ = _shares(logit_N)
        return -torch.logaddexp(data_N - self.nlls[0], memory_N - self.nlls[1]).mean()


def mixing_loss(data: DataLayer, memory: MemoryLayer, noised: Batch, y_BTD: Tensor) -> Tensor:
    """`NoisedStates.loss` with the layers as they are."""
    return NoisedStates.of(data, memory, noised, y_BTD).loss(data.port)
