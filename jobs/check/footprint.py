"""What a run takes: memory of its processes, room in the object store, disk, tokens.

Arithmetic on parameter counts. What the trainers allocate is counted exactly; activations are rough
estimates, since they depend on the model's family and on kernels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from actors.machine.device import device_of
from actors.operators.parts import positions_at_once
from actors.settings.run import DATA, GROUPS, MEMORY
from actors.snapshots.said import SaidShape
from actors.weights.parameter_counts import ParameterCounts
from orchestrator.settings.config import Config

FLOAT_BYTES, HALF_BYTES = 4, 2
ROW_STATE_BYTES = 8  # of the value table's optimizer, per row: second moment and count
LIBRARY_BYTES = 450 << 20  # of a process that has imported torch, Transformers and Ray
# Floats kept for the backward pass, per token: in a decoder layer as multiples of its width
# (norms, attention, a feed-forward part of about three widths), at the output of the vocabulary.
LAYER_FLOATS, OUTPUT_FLOATS = 40, 6
BLOCK_FLOATS = 14  # the same of a block of the memory's encoder
READ_FLOATS = 12  # of each slot that a position reads: its number, weight, order, and gradients
# The same in a forward pass alone, of which little is kept: in one decoder layer, in one block.
FORWARD_LAYER_FLOATS, FORWARD_BLOCK_FLOATS = 14, 6
LOGIT_TENSORS = 14  # over all token ids, of the positions whose logits an evaluation makes at once
PART_TENSORS = 10  # the same in training, where a pass has more tokens than have logits at once


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes of one worker's process, on the device on which it trains."""

    weights: int
    gradients: int
    optimizer: int
    mirror: int
    activations: int  # roughly
    libraries: int

    @property
    def total(self) -> int:
        """Bytes of the whole process."""
        return sum(asdict(self).values())


def worker_memory(config: Config, counts: ParameterCounts) -> dict[str, WorkerMemory]:
    """Memory of one worker of each group."""
    data, memory = trained(counts), counts.memory + counts.frozen
    kept = kept_bytes(config, counts)
    dense = counts.memory - counts.value_table
    slots = config.memory.layer.num_slots
    rows = FLOAT_BYTES * counts.value_table + ROW_STATE_BYTES * slots
    return {
        DATA: WorkerMemory(
            weights=FLOAT_BYTES * data + kept,
            gradients=FLOAT_BYTES * data,
            optimizer=2 * FLOAT_BYTES * data,
            mirror=FLOAT_BYTES * memory,
            activations=_data_activations(config, counts),
            libraries=LIBRARY_BYTES,
        ),
        MEMORY: WorkerMemory(
            weights=FLOAT_BYTES * memory,
            gradients=FLOAT_BYTES * dense,
            optimizer=2 * FLOAT_BYTES * dense + rows,
            mirror=0 if config.memory.teacher == "said" else FLOAT_BYTES * data + kept,
            activations=_memory_activations(config, counts),
            libraries=LIBRARY_BYTES,
        ),
    }


def trained(counts: ParameterCounts) -> int:
    """Parameters of the data layer that train."""
    return counts.data - counts.kept + counts.port


def kept_bytes(config: Config, counts: ParameterCounts) -> int:
    """Bytes of what of the data layer does not train; once in each process."""
    return counts.kept * (FLOAT_BYTES if config.data.layer.dtype == "float32" else HALF_BYTES)


@dataclass(frozen=True)
class EvaluatorMemory:
    """Bytes of the evaluator's process."""

    weights: int  # of the pair that it measures, and of the data layer before
    activations: int  # roughly; bounded by evaluation.batch_tokens
    libraries: int

    @property
    def total(self) -> int:
        """Bytes of the whole process."""
        return sum(asdict(self).values())


def evaluator_memory(config: Config, counts: ParameterCounts) -> EvaluatorMemory:
    """Memory of the evaluator."""
    both = trained(counts) + counts.memory + counts.frozen
    # without evaluations during the run there is no data layer before
    before = trained(counts) if config.evaluation.every else 0
    return EvaluatorMemory(
        weights=FLOAT_BYTES * (both + before) + kept_bytes(config, counts),
        activations=_evaluator_activations(config, counts),
        libraries=LIBRARY_BYTES,
    )


def _evaluator_activations(config: Config, counts: ParameterCounts) -> int:
    """Bytes of a forward pass of both layers, and of the logits of as many positions as are
    computed at once.
    """
    layer, window = config.memory.layer, config.corpus.window
    sequences = max(1, config.evaluation.batch_tokens // window)
    tokens = window * min(sequences, config.evaluation.final_windows)
    per_token = FORWARD_LAYER_FLOATS * counts.hidden_size + 4 * counts.hidden_size
    if not layer.hashes:
        per_token += FORWARD_BLOCK_FLOATS * layer.dim + 4 * layer.heads * layer.slots_side
    per_token += 2 * window  # the mask between documents
    positions = min(tokens, _at_once(config, config.evaluation.gpus, counts))
    return FLOAT_BYTES * (per_token * tokens + LOGIT_TENSORS * positions * counts.vocab_rows)


def _tokens_per_pass(config: Config, group: str) -> int:
    settings = config.group(group)
    passes = settings.workers.num_workers * settings.accumulate
    return -(-settings.batch_size // passes) * config.corpus.window


def _at_once(config: Config, gpus: float, counts: ParameterCounts) -> int:
    """Positions whose logits a process makes at a time."""
    return positions_at_once(counts.vocab_rows, device_of(gpus), config.logit_tokens)


def _output_floats(config: Config, group: str, counts: ParameterCounts, outputs: int) -> int:
    """Floats over all token ids that one pass of a step holds at once.

    Args:
        config: the run's.
        group: whose pass.
        counts: of the layers.
        outputs: predictions that are made of each position.
    """
    tokens = _tokens_per_pass(config, group)
    at_once = _at_once(config, config.group(group).workers.gpus, counts)
    if tokens <= at_once:
        return outputs * OUTPUT_FLOATS * tokens * counts.vocab_rows
    return PART_TENSORS * at_once * counts.vocab_rows


def _data_activations(config: Config, counts: ParameterCounts) -> int:
    per_token = counts.num_layers * LAYER_FLOATS * counts.hidden_size
    floats = per_token * _tokens_per_pass(config, DATA)
    return FLOAT_BYTES * (floats + _output_floats(config, DATA, counts, 1))


def _memory_activations(config: Config, counts: ParameterCounts) -> int:
    layer = config.memory.layer
    blocks = len(layer.conv_dilations) + bool(layer.attention_heads)
    per_token, outputs = layer.dim + READ_FLOATS * layer.reads_per_key, 1
    if not layer.hashes:
        per_token += blocks * BLOCK_FLOATS * layer.dim + 4 * layer.heads * layer.slots_side
        outputs += config.losses.encoder > 0
    floats = per_token * _tokens_per_pass(config, MEMORY)
    return FLOAT_BYTES * (floats + _output_floats(config, MEMORY, counts, outputs))


def snapshot_bytes(counts: ParameterCounts) -> dict[str, int]:
    """Bytes of one version of each group, alignment aside."""
    return {
        DATA: FLOAT_BYTES * trained(counts),
        MEMORY: FLOAT_BYTES * counts.memory,
    }


def said_bytes(config: Config, counts: ParameterCounts) -> int:
    """Bytes of what the data layer says in an interval; 0 where the memory asks for itself."""
    if config.memory.teacher == "mirror":
        return 0
    return SaidShape.of(config, counts.vocab_rows).num_bytes


def store_bytes(config: Config, counts: ParameterCounts) -> int:
    """The most bytes of the object store that a run's exchange needs."""
    return config.retention.needed_bytes(*_kept_sizes(config, counts))


def spilled_bytes(config: Config, counts: ParameterCounts) -> int:
    """The most bytes of versions and checkpoints that Ray moves to disk, where the object store is
    no larger than the exchange needs.
    """
    return config.retention.kept_bytes(*_kept_sizes(config, counts)) - store_bytes(config, counts)


def _kept_sizes(config: Config, counts: ParameterCounts) -> tuple[list[int], list[int]]:
    """Bytes of one version of each group, and of one checkpoint of each."""
    saved = list(checkpoints(config, counts).values()) if config.checkpoints.every else []
    sizes = snapshot_bytes(counts)
    sizes[DATA] += said_bytes(config, counts)
    return list(sizes.values()), saved


def export_bytes(counts: ParameterCounts) -> int:
    """Bytes of both exported layers."""
    return FLOAT_BYTES * (counts.data + counts.port + counts.memory + counts.frozen)


def checkpoint_bytes(config: Config, counts: ParameterCounts) -> int:
    """Bytes of one checkpoint of both groups."""
    return sum(checkpoints(config, counts).values())


def checkpoints(config: Config, counts: ParameterCounts) -> dict[str, int]:
    """Bytes of one checkpoint of each group: trained weights and optimizer."""
    parts, weights = worker_memory(config, counts), snapshot_bytes(counts)
    weights[DATA] += said_bytes(config, counts)
    return {group: parts[group].optimizer + weights[group] for group in GROUPS}


@dataclass(frozen=True)
class CorpusSize:
    """Tokens of the training split of a corpus, estimated."""

    tokens_per_window: float
    tokens_per_epoch: float


def workload(config: Config, corpus: CorpusSize) -> dict[str, dict[str, Any]]:
    """Steps and tokens of each group, without the memory's catch-up."""
    found = {}
    for group in GROUPS:
        settings = config.group(group)
        per_step = settings.batch_size * corpus.tokens_per_window
        steps = config.total_steps(group)
        found[group] = {
            "steps": steps,
            "tokens_per_interval": round(per_step * settings.steps_per_interval),
            "tokens": round(per_step * steps),
            "epochs": per_step * steps / max(1.0, corpus.tokens_per_epoch),
        }
    return found
