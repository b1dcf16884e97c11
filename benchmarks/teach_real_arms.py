"""The arms of `teach_real`: the memory that is made first, the command, and what one would do
without it. Each takes the same model and edits and gives the same figures.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from actors.corpus.block_reader import encode
from actors.corpus.windows import pack
from actors.layers.batch import hidden_at, to_batch
from actors.layers.pair import Pair
from actors.lessons.lesson_windows import LessonWindows, documents_of
from actors.measuring.heldout import heldout_figures
from actors.measuring.probing import decodes_to, prompt_tokens
from actors.operators.precision import autocast
from actors.settings.groups import OptimizerSpec
from actors.settings.layers import LoraSpec
from actors.sources.documents import Document
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.optim import learning_rate
from actors.weights.pair_export import load_pair
from actors.weights.trained_part import add_adapters
from benchmarks import memit
from benchmarks.learning_exam import share, text_windows
from benchmarks.teach_real_data import RealData, RealEdit
from benchmarks.teach_scores import likelier, score_of
from jobs.init_model import Model, model_config, model_values
from jobs.teach.options import TeachOptions
from jobs.teach.teach import run_teach
from orchestrator.console import Console
from orchestrator.run import train

Json = dict[str, Any]
# Labels alone: what of the model moves, at which rate.
LABELS = {
    "labels all 3e-5": ("all", 3e-5),
    "labels all 1e-4": ("all", 1e-4),
    "labels lora 3e-4": ("lora", 3e-4),
    "labels lora 1e-3": ("lora", 1e-3),
}
MEMIT = {"memit 15000": 15000.0, "memit 1500": 1500.0, "memit 150": 150.0}  # lambda
# Share of the mean eigenvalue below which a direction is free, and the ridge.
ALPHAEDIT = {"alphaedit .2": (0.2, 1.0), "alphaedit .5": (0.5, 1.0)}
INTERVALS = 10  # of the run that makes the memory
WINDOW = 64
LABEL_WINDOWS = 3  # of lessons in a step, as many as `tandem teach` takes here
TEXT_WINDOWS = 24  # of the novel, on which its loss is measured
MOMENT_WINDOWS = 384  # half of them of a novel, half of sentences that the memory has met
OPENINGS = ("The", "Therefore", "Because", "I", "You")  # of the contexts in which a value is found
CONTEXT_TOKENS = 10


@dataclass(frozen=True)
class RealSizes:
    """How much is taught.

    Attributes:
        num_relations, num_edits: equally many of each relation.
        num_facts: that the memory learns before.
        memory_steps: of the memory.
        steps: of `tandem teach` and of labels alone.
        written: documents that the memory writes.
    """

    num_relations: int
    num_edits: int
    num_facts: int
    memory_steps: int
    steps: int
    written: int = 2000


def bare_tokens(tokenizer: Tokenizer, answer: str) -> list[int]:
    """An answer without a full stop, as CounterFact has it."""
    return tokenizer.encode(f" {answer}")


def asked(real: RealData, export: str) -> Json:
    """The figures of an exported model alone."""
    pair, tokenizer = load_pair(export)
    return figures(real, pair, tokenizer)


def figures(real: RealData, pair: Pair, tokenizer: Tokenizer) -> Json:
    """Those of a pair's data layer alone."""
    pair.data.eval()
    found: Json = {
        name: share(likelier(pair, "own", tokenizer, questions, bare_tokens))
        for name, questions in real.asked().items()
    }
    found["score"] = score_of([found[name] for name in ("es", "ps", "ns")])
    prompts = [prompt_tokens(tokenizer, e.prompt) for e in real.edits]
    answers = [bare_tokens(tokenizer, e.new) for e in real.edits]
    found["whole"] = share(decodes_to(pair, "own", prompts, answers))
    windows = text_windows(real.text, tokenizer, WINDOW, TEXT_WINDOWS)
    text = to_batch(windows, torch.device("cpu"))
    found["text_loss"] = heldout_figures(pair, text)["own_loss"]
    return found


def made_memory(real: RealData, model: Path, sizes: RealSizes, seed: int, path: Path) -> Json:
    """A memory for the model, as `tandem learn MODEL` makes one, but that it learns to write too:
    half of the given tokens count as answers do, and the model is asked about fewer. In bfloat16,
    which the runs that teach take over.
    """
    values = model_values(Model.at(str(model)), "facts", [str(real.facts)], str(real.templates))
    values |= {
        "name": path.name,
        "storage": str(path.parent),
        "seed": seed,
        "intervals": INTERVALS,
        "exchange": {"catchup_intervals": 1},
        "checkpoints": {"every": 0},
        "evaluation": {"every": 0, "final_windows": 8, "final_probes": 60},
        "memory": {
            "batch_size": 8,
            "steps_per_interval": -(-sizes.memory_steps // INTERVALS),
            "precision": "bf16",
            "recall_frac": 0.125,
            "given_frac": 0.5,
        },
    }
    values["data"] |= {"batch_size": 4, "steps_per_interval": 2, "precision": "bf16"}
    values["losses"] |= {"given": 1.0}
    began = time.perf_counter()
    result = train(model_config(values), Console(quiet=True), in_process=True)
    return {
        "run": str(path),
        "minutes": (time.perf_counter() - began) / 60,
        "summary": result.summary,
    }


def taught(real: RealData, memory: str, train: str, sizes: RealSizes, path: Path) -> Json:
    """The command, in this process."""
    file, out = path.with_suffix(".lessons.jsonl"), f"{path}-taught"
    real.write_lessons(file)
    options = TeachOptions(
        lessons=str(file), out=out, steps=sizes.steps, written=sizes.written, train=train
    )
    began, cpu = time.perf_counter(), time.process_time()
    run_teach(memory, options, Console(quiet=True), False)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    report = json.loads(Path(out, "taught.json").read_text(encoding="utf-8"))["figures"]
    found = asked(real, f"{out}/export")
    return found | {"minutes": seconds / 60, "cpu_s": cpu_s, "report": report, "out": out}


def labels_alone(real: RealData, memory: str, train: str, rate: float, sizes: RealSizes) -> Json:
    """Cross-entropy on the edits as given, and nothing else."""
    pair, tokenizer = load_pair(f"{memory}/export")
    layer, began = pair.data.requires_grad_(False), time.perf_counter()
    if train == "lora":
        add_adapters(layer.model, LoraSpec())
    else:
        layer.model.requires_grad_(True)
    documents = documents_of([e.lesson for e in real.edits], given=True, reworded=False)
    windows = LessonWindows(documents, tokenizer, WINDOW, 0, "labels")
    moving = [p for p in layer.model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(moving, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = OptimizerSpec(
        lr=rate, schedule="cosine", final_lr_frac=0.1, warmup_steps=max(1, sizes.steps // 10)
    )
    for step in range(sizes.steps):
        batch = to_batch(windows.batch(step, LABEL_WINDOWS), torch.device("cpu"))
        with autocast("bf16", torch.device("cpu")):
            logits_NV = layer.logits_at(hidden_at(layer, batch))
        torch.nn.functional.cross_entropy(logits_NV.float(), batch.targets_N).backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(rate, schedule, step, sizes.steps)
        adamw.step()
        adamw.zero_grad()
    minutes = (time.perf_counter() - began) / 60
    return figures(real, pair, tokenizer) | {"minutes": minutes}


def contexts_of(model: Any, tokenizer: Tokenizer) -> list[str]:
    """Beginnings that the model writes, before which a prompt is put; the first is none."""
    torch.manual_seed(0)
    found = [""]
    for opening in OPENINGS:
        row = torch.tensor([prompt_tokens(tokenizer, opening)])
        said = model.generate(
            row, max_new_tokens=CONTEXT_TOKENS, do_sample=True, top_k=5, use_cache=True
        )
        tokens = [int(t) for t in said[0] if int(t) not in tokenizer.marks]
        found.append(f"{tokenizer.decode(tokens)}. ")
    return found


def edit_of(tokenizer: Tokenizer, edit: RealEdit, contexts: list[str]) -> memit.Edit:
    """The edit as `memit` takes it."""

    def row(before: str, prompt: str, answer: str | None) -> memit.Row:
        until = prompt[: prompt.index(edit.subject) + len(edit.subject)]
        last = len(prompt_tokens(tokenizer, before + until)) - 1
        wanted = () if answer is None else tuple(bare_tokens(tokenizer, answer))
        return memit.Row(tuple(prompt_tokens(tokenizer, before + prompt)), last, wanted)

    rows = tuple(row(context, edit.prompt, edit.new) for context in contexts)
    return memit.Edit(rows, row("", f"{edit.subject} is a", None))


def values_of(real: RealData, memory: str, path: Path) -> Json:
    """Values of all edits and second moments of other text, in a file."""
    pair, tokenizer = load_pair(f"{memory}/export")
    model, settings, began = pair.data.model.eval(), memit.Settings(), time.perf_counter()
    edits = edits_of(real, model, tokenizer)
    values_EH, left = memit.wanted_values(model, edits, settings)
    found_at = time.perf_counter()
    windows_NT = text_of(real, tokenizer)
    moments = memit.second_moments(model, windows_NT, settings.layers)
    tensors = {f"moments.{layer}": moment for layer, moment in moments.items()}
    file = path.with_suffix(".safetensors")
    safetensors.torch.save_file({"values": values_EH, **tensors}, file)
    return {
        "file": str(file),
        "left": left,
        "minutes": (time.perf_counter() - began) / 60,
        "values_minutes": (found_at - began) / 60,
    }


def edits_of(real: RealData, model: Any, tokenizer: Tokenizer) -> list[memit.Edit]:
    """All edits, in the contexts that the model writes."""
    contexts = contexts_of(model, tokenizer)
    return [edit_of(tokenizer, edit, contexts) for edit in real.edits]


def text_of(real: RealData, tokenizer: Tokenizer) -> Tensor:
    """Windows of a novel and of the memory's sentences, half and half."""
    novel = real.novel.read_text(encoding="utf-8")[-400_000:]
    halves = []
    for texts in ([novel], [" ".join(real.sentences)]):
        pieces = encode(tokenizer, [Document(text) for text in texts])
        rows = pack(pieces, WINDOW, tokenizer.end_of_text).tokens_NT[: MOMENT_WINDOWS // 2]
        halves.append(torch.from_numpy(rows).long())
    return torch.cat(halves)


def edited(real: RealData, memory: str, values: Path, name: str) -> Json:
    """One of `MEMIT` or `ALPHAEDIT`."""
    pair, tokenizer = load_pair(f"{memory}/export")
    model, settings, began = pair.data.model.eval(), memit.Settings(), time.perf_counter()
    tensors = safetensors.torch.load_file(values)
    moments = {layer: tensors[f"moments.{layer}"] for layer in settings.layers}
    closed = (
        memit.memit(moments, MEMIT[name])
        if name in MEMIT
        else memit.alphaedit(moments, *ALPHAEDIT[name])
    )
    edits = edits_of(real, model, tokenizer)
    memit.write_edits(model, edits, tensors["values"], settings, closed)
    minutes = (time.perf_counter() - began) / 60
    return figures(real, pair, tokenizer) | {"minutes": minutes}
