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

from actors.layers.batch import Batch, add_noise, data_logits_at, rows_at
from actors.layers.data_layer import DataLayer, DataOutput, MemoryPort
from actors.layers.losses import kl, log_probabilities
from actors.layers.memory_layer import MemoryLayer
from actors.layers.precision import widen
from actors.machine.seeds import seed_of
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
        freshness: how much of what was read comes from named writes, (...), in [0, 1]; it opens
            lambda to lambda + (1 - lambda) * freshness. None: nothing was told.
    """

    logits: Tensor
    memory_logits: Tensor
    hidden: Tensor
    y: Tensor
    port: MemoryPort
    freshness: Tensor | None = None

    @cached_property
    def logp(self) -> Tensor:
        """Log probabilities of the data layer, (..., V), float32."""
        return log_probabilities(self.logits)

    @cached_property
    def logq(self) -> Tensor:
        """Log probabilities of the memory layer, (..., V), float32."""
        return log_probabilities(self.memory_logits)

    def mixed(self, fixed: bool = False, tokens: Tensor | None = None) -> Mixture:
        """Both together.

        Args:
            fixed: the weights of lambda get no gradient.
            tokens: ids (..., K) whose probabilities are wanted; None: those of all.
        """
        logp, logq = self.logp, self.logq
        logit = widen(self.port.mixing_logit(self.hidden, self.y, logp, logq, fixed))
        if tokens is not None:
            logp, logq = logp.gather(-1, tokens), logq.gather(-1, tokens)
        data_share, memory_share = F.logsigmoid(-logit), F.logsigmoid(logit)  # logs
        mixing = torch.sigmoid(logit)
        if (fresh := self.freshness) is not None:
            fresh = widen(fresh)
            memory_share = torch.logaddexp(memory_share, data_share + fresh.log())
            data_share = data_share + (-fresh).log1p()
            mixing = mixing + (1 - mixing) * fresh
        mixed = torch.logaddexp(logp + data_share.unsqueeze(-1), logq + memory_share.unsqueeze(-1))
        return Mixture(mixed, mixing, fresh)


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
        one_document=batch.one_document,
    )
    y_ND = rows_at(y_RTD, where)
    return out, Predictions(
        rows_at(out.logits_BTV[:num_reading], where),
        memory.predict(y_ND),
        rows_at(out.hidden_BTD[:num_reading], where),
        y_ND,
        data.port,
        None if freshness_RT is None else rows_at(freshness_RT, where),
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


def general_loss(data: DataLayer, memory: MemoryLayer, general: Batch) -> Tensor:
    """KL(p || mixture) + KL(p || p_read) on general text; nats per token.

    p is the data layer without reads, under stop-gradient, and p_read the same with them. So the
    gates learn to add nothing and lambda to mix nothing in where the text is none of the memory's.
    Against p and not against the text: a short sample would be learned by heart.

    Args:
        data, memory: the layers.
        general: sequences, all of which read, with something to predict.
    """
    with torch.no_grad():
        logp_NV = log_probabilities(data_logits_at(data, general))
        y_BTD = memory.read(general.tokens_BT, general.segments_BT, general.one_document).y
    _, both = predict_both(data, memory, general, y_BTD, general.valid_at_N)
    return (kl(logp_NV, both.mixed().logp) + kl(logp_NV, both.logp)).mean()


def mixing_loss(data: DataLayer, memory: MemoryLayer, noised: Batch) -> Tensor:
    """Help on noised sequences, of which lambda's weights alone get a gradient; nats per token.

    Args:
        data, memory: the layers.
        noised: sequences, all of which read, with something to predict.
    """
    with torch.no_grad():
        read = memory.read(noised.tokens_BT, noised.segments_BT, noised.one_document)
        _, both = predict_both(
            data, memory, noised, read.y, noised.valid_at_N, freshness_RT=read.freshness
        )
    return -both.mixed(tokens=noised.targets_N[:, None]).logp.mean()
