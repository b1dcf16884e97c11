"""How the mixing weight lambda learns: from help, on text of which many tokens are replaced.

Of text that both layers have by heart lambda would learn to believe the memory everywhere, and of
text that neither has seen a run may have none. With many of its tokens replaced a text is strange
to both. Called by the data group's trainer.

Shapes: B sequences, T tokens, D d_m, N positions, V token ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from actors.layers.batch import Batch, add_noise, both_voices
from actors.layers.data_layer import DataLayer, mix_distributions
from actors.layers.memory_layer import MemoryLayer
from actors.machine.seeds import seed_of
from actors.settings.run import DATA, RunSpec
from actors.tokenizers.tokenizer import Tokenizer


def strange_sequences(
    spec: RunSpec, tokenizer: Tokenizer, batch: Batch, readers: int, step: int
) -> Batch:
    """The sequences on which lambda learns, with a share of their tokens replaced.

    The first half of those that read; none where lambda learns from help itself.

    Args:
        spec, tokenizer: the run's.
        batch: the global batch; the same on every rank, and so is what is returned.
        readers: sequences at its front that read.
        step: of the run, from which the choice of tokens is drawn.
    """
    noise = spec.data.mixing_noise
    some = batch.rows(slice(None, -(-readers // 2) if noise > 0 else 0))
    choices = torch.Generator().manual_seed(seed_of(spec.seed, DATA, step, "mixing"))
    return add_noise(some, noise, tokenizer.size, tokenizer.marks, choices)


def mixing_loss(data: DataLayer, memory: MemoryLayer, strange: Batch) -> Tensor:
    """Help on strange sequences, of which lambda's weights alone get a gradient; nats per token.

    Args:
        data, memory: the layers.
        strange: sequences, all of which read, with something to predict.
    """
    with torch.no_grad():
        y_BTD = memory.read(strange.tokens_BT, strange.segments_BT, strange.one_document).y
        said = both_voices(data, memory, strange, y_BTD, strange.valid_at_N)
    targets_N1 = strange.targets_N[:, None]  # of no other token is anything needed
    logp_N1, logq_N1 = said.logp_NV.gather(1, targets_N1), said.logq_NV.gather(1, targets_N1)
    return -mix_distributions(logp_N1, logq_N1, said.mixing_logit()).mean()
