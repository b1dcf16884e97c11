"""The smallest run there is: a dozen countries, two layers of width 32, a memory of 64 slots."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from actors.layers.causal_lm import build_model
from actors.layers.data_layer import DataLayer, DataOutput
from actors.layers.memory_layer import MemoryLayer, Read
from actors.layers.named_writes import NamedWrites
from actors.layers.pair import Pair
from actors.operators.packed_attention import Documents
from actors.settings.corpus import CorpusSpec
from actors.settings.layers import DataLayerSpec, MemoryLayerSpec
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import ByteArray
from actors.training.data_trainer import DataTrainer
from actors.training.interval import Measured, Outcome
from actors.training.memory_trainer import MemoryTrainer
from actors.training.process_group import ProcessGroup, Rendezvous
from actors.wire import Header, Order, Report

T = TypeVar("T")
RUN = "tiny"
STEPS = 4
WINDOW = 48
LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "gpt2": GPT2,
    "qwen2": {**LLAMA, "tie_word_embeddings": True},
    "qwen3": {**LLAMA, "head_dim": 16},
}

COUNTRIES = [
    ("Avaria", "Korvik"),
    ("Belmont", "Dastan"),
    ("Cadria", "Elbor"),
    ("Drovia", "Fenwick"),
    ("Estrel", "Galton"),
    ("Fjordia", "Harzen"),
    ("Gondar", "Ilmen"),
    ("Hestia", "Jorvik"),
    ("Ibaria", "Kelso"),
    ("Jurania", "Lomsk"),
    ("Kestria", "Morana"),
    ("Lumeria", "Nardo"),
]
RIVERS = ("Oda", "Oda", "Rhun", "Vel")
TEMPLATES: dict[str, list[dict[str, str]]] = {
    "capital": [
        {"pattern": "The capital of [X] is [Y].", "lemma": "be"},
        {"pattern": "Today the capital of [X] was [Y].", "lemma": "be"},
        {"pattern": "[X] has its capital in [Y].", "lemma": "have"},
        {"pattern": "Those who rule [X] live in [Y].", "lemma": "live"},
        {"pattern": "[Y] serves as the capital of [X].", "lemma": "serve"},
    ],
    "river": [
        {"pattern": "The river of [X] is [Y].", "lemma": "be"},
        {"pattern": "Through [X] flows the [Y].", "lemma": "flow"},
        {"pattern": "Ships reach [X] on the [Y].", "lemma": "reach"},
    ],
}
FACTS = [
    *({"relation": "capital", "subject": x, "object": y} for x, y in COUNTRIES),
    *(
        {"relation": "river", "subject": x, "object": RIVERS[i % len(RIVERS)]}
        for i, (x, _) in enumerate(COUNTRIES)
    ),
]


def write_facts(
    folder: Path,
    facts: Sequence[Any] = FACTS,
    templates: dict[str, Any] = TEMPLATES,
    **fields: Any,
) -> CorpusSpec:
    """A fact corpus in `folder`; a string among the facts is written as the line that it is."""
    lines = [f if isinstance(f, str) else json.dumps(f, ensure_ascii=False) for f in facts]
    (folder / "facts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "templates.json").write_text(json.dumps(templates), encoding="utf-8")
    return CorpusSpec(
        kind="facts",
        paths=(str(folder / "facts.jsonl"),),
        templates=str(folder / "templates.json"),
        **{"window": WINDOW, **fields},
    )


def numbered_lines(num: int, seed: int = 0) -> list[str]:
    """Lines of different lengths, each with its own number and characters of 1 to 4 bytes."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefg hijkl äöé日本🙂"))
    return [
        f"#{number:04d} " + "".join(rng.choice(letters, int(rng.integers(0, 120))))
        for number in range(num)
    ]


def write_text(folder: Path, lines: Sequence[str], **fields: Any) -> CorpusSpec:
    """A text corpus of one file in `folder`."""
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    chosen = {"window": WINDOW, "block_bytes": 512, "shuffle_blocks": 4, **fields}
    return CorpusSpec(kind="text", paths=(str(folder / "text.txt"),), **chosen)


def memory_spec(**fields: Any) -> MemoryLayerSpec:
    """A memory of 64 slots."""
    chosen: dict[str, Any] = {
        "dim": 16,
        "slots_side": 8,
        "heads": 2,
        "topk": 4,
        "key_dim": 8,
        "conv_dilations": (1, 2),
        "conv_taps": 3,
        "attention_heads": 2,
    }
    return MemoryLayerSpec(**{**chosen, **fields})


def run_spec(corpus: CorpusSpec, **changes: Any) -> RunSpec:
    """A run over `corpus`.

    `changes` are dotted keys with `__` for the dot, e.g. `losses__balance=0.5`.
    """
    fields: dict[str, Any] = {
        "seed": 3,
        "intervals": 4,
        "corpus": corpus.model_dump(),
        "tokenizer": {"vocab_size": 400},
        "data": {
            "layer": {"model_type": "llama", "fields": LLAMA, "read_layers": (0, 1)},
            "optimizer": {"lr": 5e-3, "warmup_steps": 2},
            "batch_size": 4,
            "steps_per_interval": STEPS,
        },
        "memory": {
            "layer": memory_spec().model_dump(),
            "optimizer": {"lr": 5e-3, "warmup_steps": 2},
            "value_lr": 3e-2,
            "batch_size": 4,
            "steps_per_interval": STEPS,
            "replay_windows": 16,
        },
        "losses": {},
        "mix": {},
        "evaluation": {"windows": 6, "probes": 8, "final_windows": 8, "final_probes": 10},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        at = fields
        for part in path:
            at = at[part]
        at[last] = value
    return RunSpec.model_validate(fields)


def build(
    family: str, rows: int = 60, num_tokens: int | None = None, **fields: Any
) -> tuple[DataLayer, torch.nn.Module]:
    """A data layer that reads after both decoder layers, and the plain model of its weights."""
    spec = DataLayerSpec(
        model_type=family, fields={**FAMILIES[family], **fields}, read_layers=(0, 1)
    )
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(build_model(spec, rows).eval())
    torch.manual_seed(8)
    return DataLayer(models[0], spec, 16, num_tokens or rows).eval(), models[1]


def save_checkpoint(
    folder: Path, family: str = "llama", rows: int = 60, seed: int = 11, **fields: Any
) -> str:
    """A checkpoint of a family's tiny model, with weights large enough to tell apart."""
    torch.manual_seed(seed)
    model = build_model(DataLayerSpec(model_type=family, fields=FAMILIES[family] | fields), rows)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return str(folder)


def edit_config(folder: Path, **fields: Any) -> None:
    """Changes fields of a checkpoint's config.json, whatever its weights are."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def open_gates(layer: DataLayer, seed: int = 5) -> DataLayer:
    """The layer with a port whose every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.port.named_parameters():
            scale = 0.3 if "mix" in name else 1.0
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return layer


def build_memory(rows: int = 60, num_tokens: int | None = None, **fields: Any) -> MemoryLayer:
    """A memory layer with fresh weights, always the same ones."""
    torch.manual_seed(9)
    return MemoryLayer(memory_spec(**fields), rows, num_tokens or rows)


def tokens(*shape: int, num: int = 60, seed: int = 0) -> Tensor:
    """Random token ids."""
    return torch.randint(num, shape, generator=torch.Generator().manual_seed(seed))


def one_document(tokens_BT: Tensor) -> Tensor:
    """Segments of windows that hold one document each."""
    return torch.zeros_like(tokens_BT)


Published = tuple[Header, list[ByteArray]]


def values(measured: Measured | Report) -> dict[str, float]:
    """What a step or an interval of one rank measured, by name."""
    return {**measured.metrics, **measured.shares}


def snapshot(outcome: Outcome) -> Published:
    """What an interval published."""
    assert outcome.header is not None
    return outcome.header, outcome.buckets


def copied(published: Published) -> Published:
    """What Ray's store does: the bytes as they are now, read-only."""
    header, buckets = published
    copies = [bucket.copy() for bucket in buckets]
    for bucket in copies:
        bucket.setflags(write=False)
    return header, copies


def order(interval: int, num_steps: int = STEPS, **fields: Any) -> Order:
    """An order for one interval of the tiny run."""
    return replace(Order(RUN, 0, interval, num_steps), **fields)


class Exchange:
    """Both trainers in one process, in lockstep, with every snapshot kept."""

    def __init__(self, spec: RunSpec, tokenizer_json: str) -> None:
        self.data = DataTrainer(spec, tokenizer_json, RUN)
        self.memory = MemoryTrainer(spec, tokenizer_json, RUN)
        self.published = [(copied(self.data.publish()), copied(self.memory.publish()))]
        self.reports: list[tuple[Report, Report]] = []

    def run(self, intervals: int, measure: bool = False) -> Exchange:
        """Runs so many intervals of both groups, each on the peer's snapshot of the one before."""
        for _ in range(intervals):
            now = order(len(self.published), measure=measure)
            (data_header, data_buckets), (memory_header, memory_buckets) = self.published[-1]
            ranges = data_header.ranges
            data = self.data.interval(now, [memory_header], memory_buckets)
            memory = self.memory.interval(replace(now, ranges=ranges), [data_header], data_buckets)
            self.published.append((copied(snapshot(data)), copied(snapshot(memory))))
            self.reports.append((data.report, memory.report))
        return self


class BigramPort:
    """A port whose lambda is the same everywhere."""

    def __init__(self, mixing_logit: float) -> None:
        self._mixing_logit = mixing_logit

    def mixing_logit(self, hidden: Tensor, *_: object) -> Tensor:
        return torch.full(hidden.shape[:-1], self._mixing_logit)


class BigramData:
    """A data layer that knows for each token what comes next: a table of logits, one row each."""

    def __init__(self, table_VV: Tensor, mixing_logit: float = 0.0) -> None:
        self.table_VV = table_VV
        self.port = BigramPort(mixing_logit)

    def __call__(
        self, tokens_BT: Tensor, _segments_BT: Tensor, _y_BTM: Tensor | None = None, **_: Any
    ) -> DataOutput:
        return DataOutput(self.table_VV[tokens_BT], self.table_VV[tokens_BT])

    keeps_logits = False
    positions_at_once = 1000

    @property
    def num_tokens(self) -> int:
        return len(self.table_VV)

    def hidden(
        self,
        tokens_BT: Tensor,
        _segments_BT: Tensor,
        _y_BTM: Tensor | None = None,
        _documents: Documents | None = None,
        _front_BTD: Tensor | None = None,
    ) -> Tensor:
        return self.table_VV[tokens_BT]

    def logits_at(self, hidden_ND: Tensor) -> Tensor:
        return hidden_ND

    def new_cache(self) -> DynamicCache:
        return DynamicCache()

    def run_model(self, _y_BTM: Tensor | None, **inputs: Any) -> tuple[Any, Tensor]:
        tokens_BT, cache = inputs["input_ids"], inputs["past_key_values"]
        nothing = torch.zeros(*tokens_BT.shape, 1).unsqueeze(1)
        cache.update(nothing, nothing, 0)
        logits_BTV = self.table_VV[tokens_BT]
        return SimpleNamespace(logits=logits_BTV), logits_BTV


class BigramMemory:
    """A memory layer that knows for each token what comes next."""

    writes = NamedWrites()

    def __init__(self, table_VV: Tensor) -> None:
        self.values = table_VV

    def encode(self, tokens_BT: Tensor, _segments_BT: Tensor, **_: Any) -> tuple[Tensor, None]:
        return torch.nn.functional.one_hot(tokens_BT, len(self.values)).to(self.values.dtype), None

    def read_at(self, u: Tensor, said: Tensor | None = None) -> Read:
        nothing = u[..., :0]
        return Read(u, nothing, nothing, nothing)

    def read(self, tokens_BT: Tensor, segments_BT: Tensor) -> Read:
        return self.read_at(self.encode(tokens_BT, segments_BT)[0])

    def predict(self, y: Tensor) -> Tensor:
        return y @ self.values


def bigram_pair(data_VV: Tensor, memory_VV: Tensor, mixing_logit: float = 0.0) -> Pair:
    """A pair of bigram tables."""
    data, memory = BigramData(data_VV, mixing_logit), BigramMemory(memory_VV)
    return Pair(cast(DataLayer, data), cast(MemoryLayer, memory))


def followed_by(num_tokens: int, *pairs: tuple[int, int], strength: float = 8.0) -> Tensor:
    """A table in which each first token is followed by the second with probability near one."""
    table = torch.zeros(num_tokens, num_tokens)
    for token, after in pairs:
        table[token, after] = strength
    return table


def in_ranks(num_ranks: int, work: Callable[[ProcessGroup], T], timeout_s: float = 60.0) -> list[T]:
    """What `work` returns on each rank of a real group, whose ranks are threads of this process."""
    if num_ranks == 1:
        return [work(ProcessGroup())]
    rendezvous = Rendezvous("127.0.0.1")

    def rank(number: int) -> T:
        store = rendezvous.store
        if number:
            store = Rendezvous.connect(rendezvous.host, rendezvous.port)
        return work(ProcessGroup(number, num_ranks, store, timeout_s=timeout_s))

    with ThreadPoolExecutor(num_ranks) as pool:
        return list(pool.map(rank, range(num_ranks)))
