"""Values for settings that are left unset beside a pretrained data layer: by what of it trains, and
by how large it is.

A fresh model keeps the defaults of the fields, and so does a small one, such as an earlier run of a
fresh model: those were chosen for both. A larger model has learned something that a rate for fresh
weights destroys. Pure functions; `orchestrator.settings.fitted_config` reads the model's config and
writes the values into the run's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actors.settings.layers import LORA, PORT

SMALL = 10_000_000  # parameters up to which a model is trained with the defaults of a fresh one
REFERENCE = 135_000_000  # parameters of the model that the rates were measured with
LARGE = 50_000_000  # parameters from which a batch on CPUs is smaller
WIDEST_MEMORY = 512
PORT_RATE = 1e-2  # of the port, which is fresh
GENERAL_FRAC = 0.125  # of a batch: without it lambda opens on all text, whatever trains
SANE_FACTOR = 5.0  # times the fitted rate: above it `tandem check` warns
SANE_DECAY = 0.1
LONGEST_WARMUP = 100
SLOW_STEPS = {"data": 5, "memory": 10}  # of an interval on CPUs: some seconds
# Every setting that may get a value here; each field is marked `Mark.FITTED`.
FITTED = (
    "data.layer.read_layers",
    "data.optimizer.lr",
    "data.optimizer.weight_decay",
    "data.optimizer.warmup_steps",
    "data.port_lr",
    "data.general_frac",
    "data.batch_size",
    "data.precision",
    "data.steps_per_interval",
    "memory.layer.dim",
    "memory.layer.slots_side",
    "memory.layer.heads",
    "memory.optimizer.lr",
    "memory.optimizer.weight_decay",
    "memory.optimizer.warmup_steps",
    "memory.value_lr",
    "memory.batch_size",
    "memory.precision",
    "memory.steps_per_interval",
)


@dataclass(frozen=True)
class ModelSize:
    """How large a causal LM is, as far as its config.json says.

    Attributes:
        num_layers, hidden_size: of its decoder.
        num_parameters: about, from the sizes of its matrices.
        positions: the longest window that it takes; None: unlimited, or unknown.
    """

    num_layers: int
    hidden_size: int
    num_parameters: int
    positions: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelSize | None:
        """The size by a config.json; None: it does not name depth and width."""
        config = config.get("text_config") or config
        layers = _number(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
        width = _number(config, "hidden_size", "n_embd", "d_model", "dim")
        if layers is None or width is None:
            return None
        rows = _number(config, "vocab_size") or 0
        heads = _number(config, "num_attention_heads", "n_head", "num_heads") or 1
        head_dim = _number(config, "head_dim") or width // heads
        shared = _number(config, "num_key_value_heads") or heads
        inside = _number(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * width
        experts = _number(config, "num_local_experts", "num_experts", "n_routed_experts") or 1
        if experts > 1:  # some families say both the width of an expert and of a layer without
            inside = _number(config, "moe_intermediate_size") or inside
        # two matrices inwards, as in Llama; GPT-2 has one
        is_gated = "hidden_act" in config or "hidden_activation" in config
        attention = 2 * width * head_dim * (heads + shared)
        inner = (3 if is_gated else 2) * width * inside * experts
        matrices = 1 if config.get("tie_word_embeddings", not is_gated) else 2
        positions = _number(config, "max_position_embeddings", "n_positions") or 0
        limits = [positions] if positions > 0 else []
        limits += [reach for _, reach in attention_reach(config.get)]
        num = matrices * rows * width + layers * (attention + inner)
        return cls(layers, width, num, min(limits, default=None))

    @property
    def is_small(self) -> bool:
        """Whether it keeps the defaults of a fresh model."""
        return self.num_parameters < SMALL


def attention_reach(field_of: Callable[[str], Any]) -> Iterator[tuple[str, int]]:
    """How many tokens a position sees where attention slides, or works by chunks: the kind, and the
    number. Without `layer_types` all layers are of one kind.

    Args:
        field_of: the fields of a model's config, by name; None, 0 and negative values mean that
            there is no limit.
    """
    for field, kind in (("sliding_window", "sliding"), ("attention_chunk_size", "chunked")):
        reach, kinds = field_of(field), field_of("layer_types")
        if kinds is None:
            has_layers = kind != "sliding" or field_of("use_sliding_window") is not False
        else:
            has_layers = any(kind in str(each) for each in kinds)
        if isinstance(reach, int) and reach > 0 and has_layers:
            yield kind, reach


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    found = (config.get(name) for name in names)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool)), None)


def fitted_values(
    train: object, size: ModelSize, on_gpu: Mapping[str, bool], intervals: int = 40
) -> dict[str, Any]:
    """Values by dotted name, those of `FITTED`; of a small model only where it reads.

    Args:
        train: `data.layer.train`.
        size: of the data layer's model.
        on_gpu: for `data` and `memory`, whether the group's workers have GPUs.
        intervals: of the run.
    """
    values: dict[str, Any] = {"data.layer.read_layers": read_layers(size.num_layers)}
    if size.is_small:
        return values
    values |= {
        "data.optimizer.lr": data_rate(train, size),
        "data.optimizer.weight_decay": 0.0,
        "data.port_lr": PORT_RATE,
        "data.general_frac": GENERAL_FRAC,
        "memory.layer.dim": memory_width(size.hidden_size),
        "memory.layer.slots_side": 192,
        "memory.layer.heads": 4,
        "memory.optimizer.lr": 4e-3,
        "memory.optimizer.weight_decay": 0.0,
        "memory.value_lr": 4e-2,
    }
    for group, gpu in on_gpu.items():
        is_slow = not gpu and size.num_parameters >= LARGE
        steps = SLOW_STEPS[group] if is_slow else 20
        values |= {
            f"{group}.batch_size": 8 if is_slow and group == "data" else 16,
            f"{group}.precision": "bf16" if gpu else "fp32",
            f"{group}.steps_per_interval": steps,
            f"{group}.optimizer.warmup_steps": max(1, min(LONGEST_WARMUP, intervals * steps // 10)),
        }
    return values


def read_layers(num_layers: int) -> tuple[int, ...]:
    """Decoder layers, from 0, after which the memory is read: at a third and two thirds of the
    depth.
    """
    return tuple(sorted({num_layers // 3, 2 * num_layers // 3}))


def data_rate(train: object, size: ModelSize) -> float:
    """Peak learning rate of what of the model trains: adapters, all of it or some parameters."""
    if train == LORA:
        return 2e-4
    if train == PORT:  # nothing of the model: the rate of the port, which is fresh
        return PORT_RATE
    larger = max(1.0, size.num_parameters / REFERENCE)
    return float(f"{3e-5 * larger**-0.25:.1e}")


def memory_width(hidden_size: int) -> int:
    """Width of the memory: a third of the model's, in steps of 64."""
    return min(WIDEST_MEMORY, max(128, round(hidden_size / 3 / 64) * 64))


def rate_warnings(train: object, size: ModelSize, rates: Mapping[str, float]) -> list[str]:
    """A line for each rate or decay that will damage a model of that size.

    Args:
        train: `data.layer.train`.
        size: of the data layer's model.
        rates: `data.optimizer.lr` and `data.optimizer.weight_decay` of the run.
    """
    if train == PORT or size.is_small:
        return []
    lines, usual = [], data_rate(train, size)
    lr, decay = rates["data.optimizer.lr"], rates["data.optimizer.weight_decay"]
    if lr > SANE_FACTOR * usual:
        lines.append(
            f"data.optimizer.lr {lr:g} is {lr / usual:.0f} times the {usual:g} that fits a model "
            f"of {size.num_parameters / 1e6:,.0f} M parameters with data.layer.train {train}: it "
            "will forget what it knows; lower it, or leave it unset"
        )
    if decay > SANE_DECAY:
        lines.append(
            f"data.optimizer.weight_decay {decay:g}: above {SANE_DECAY:g} the embeddings of tokens "
            "that your corpus lacks shrink; lower it, or leave it unset (0)"
        )
    return lines
