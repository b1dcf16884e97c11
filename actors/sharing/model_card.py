"""The model card of a shared pair: README.md with what was trained, figures, limits. Pure text.

Every figure is one of the run's own; what is not known is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actors.layers.pair import Pair

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
LOSSES = {
    "own_loss": "data layer alone, nats per token",
    "help_loss": "both together, nats per token",
    "help_gain": "what the memory helps, nats per token",
    "self_loss": "memory alone, nats per token",
    "recall_agreement": "how often the memory's likeliest token is the data layer's",
    "mixing": "λ, the memory's mean share of the mixture",
    "general_own_loss": "general text, data layer alone",
    "general_help_loss": "general text, both together",
}
VOICES = {"own": "data layer alone", "help": "both together", "memory": "memory alone"}
LOAD = """```python
from tandem import load  # pip install tandem-memory

model = load("{name}")
print(model.ask("{prompt}"))
print(model.ask("{prompt}", voice="own"))
```

The data layer alone, without Tandem and without its memory:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

plain = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=False)
tokenizer = AutoTokenizer.from_pretrained("{name}")
```
"""


def pair_figures(pair: Pair) -> dict[str, Any]:
    """What the card says of the layers themselves."""
    model, memory, told = pair.data.model, pair.memory, pair.memory.writes
    return {
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.parameters()),
        "slots": memory.spec.num_slots,
        "dim": memory.spec.dim,
        "memory_parameters": sum(p.numel() for p in memory.parameters()),
        "read_layers": list(pair.data.spec.read_layers),
        "longest": getattr(model.config, "max_position_embeddings", None),
        "writes": len(told),
        "told": sum(len(write.associations) for write in told),
    }


def model_card(origin: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """The card.

    Args:
        origin: what is known of the run; may be empty.
        pair: from `pair_figures`.
    """
    name = str(origin.get("name") or "pair")
    asked = origin.get("questions") or [{}]
    prompt = _quoted(str(asked[0].get("prompt") or "The capital of France is"))
    parts = [
        _front(origin),
        f"# {name}",
        "A language model (the data layer) with a memory, which "
        "[Tandem](https://pypi.org/project/tandem-memory/) trained side by side.",
        "## What was trained",
        _table(("", ""), _trained(origin, pair)),
        *_heldout(origin),
        "## How to load it",
        LOAD.format(name=name, prompt=prompt),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(origin, pair)),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _front(origin: Mapping[str, Any]) -> str:
    base = str(origin.get("pretrained") or "")
    lines = ["library_name: tandem-memory", "pipeline_tag: text-generation"]
    if HUB_NAME.fullmatch(base):
        lines.append(f"base_model: {json.dumps(base)}")
    return "\n".join(["---", *lines, "tags:", "- tandem", "- memory", "---"])


def _trained(origin: Mapping[str, Any], pair: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (
            "data layer",
            f"{pair['architecture']}, {pair['parameters']:,} parameters, {pair['dtype']}",
        ),
        (
            "memory",
            f"{pair['slots']:,} slots of width {pair['dim']}, {pair['memory_parameters']:,} "
            f"parameters, read after layers {', '.join(map(str, pair['read_layers']))}",
        ),
    ]
    if origin.get("pretrained"):
        rows.append(("began with", str(origin["pretrained"])))
    if origin.get("train"):
        rows.append(("of the data layer trained", str(origin["train"])))
    if origin.get("corpus"):
        corpus = origin["corpus"]
        rows.append(("corpus", f"{corpus['kind']}: {', '.join(corpus['names'])}"))
    for group in ("data", "memory"):
        if steps := (origin.get(group) or {}).get("steps"):
            tokens = (origin[group] or {}).get("tokens")
            seen = "" if tokens is None else f", {tokens:,} tokens"
            rows.append((f"{group} group", f"{steps:,} steps{seen}"))
    if origin.get("seed") is not None:
        rows.append(("seed", str(origin["seed"])))
    if pair["writes"]:
        rows.append(("told since", f"{pair['told']} associations in {pair['writes']} writes"))
    for key, digest in (origin.get("digest") or {}).items():
        rows.append((f"digest, {key} layer", f"`{digest}`"))
    return rows


def _heldout(origin: Mapping[str, Any]) -> Iterable[str]:
    now, start = origin.get("heldout") or {}, origin.get("before") or {}
    then = start.get("heldout") or {}
    rows = [
        (meaning, _number(then.get(key)), _number(now[key]))
        for key, meaning in LOSSES.items()
        if now.get(key) is not None
    ]
    if not rows and not origin.get("accuracy"):
        yield "## Figures\n\nNone are known: this folder was not made from a run's directory."
        return
    yield "## Held-out figures"
    yield "Of text that neither layer was trained on, measured when the run ended."
    if rows:
        yield _table(("", "before training", "after"), rows)
    answers = []
    for key, wordings in (("accuracy", "never trained"), ("accuracy_seen", "trained on")):
        if found := origin.get(key):
            answers.append((wordings, *(_share(found.get(v)) for v in (*VOICES, "baseline"))))
    if answers:
        before = start.get("accuracy")
        if before:
            cells = (_share(before.get(v)) for v in (*VOICES, "baseline"))
            asked = f"before training ({start.get('num_probes', '?')} questions)"
            answers.append((asked, *cells))
        yield (
            f"Whole answers right, of {origin.get('num_probes', '?')} questions. The control says "
            "the most frequent answer of each relation."
        )
        yield _table(("wordings", *VOICES.values(), "control"), answers)
    if reason := origin.get("reflects_final_reason"):
        verdict = origin.get("reflects_final_verdict") or "?"
        if verdict == "unchanged":
            yield f"The memory has nothing to catch up with: {reason}."
        else:
            yield f"Does the memory reflect the data layer: {verdict} ({reason})."


def _limits(origin: Mapping[str, Any], pair: Mapping[str, Any]) -> Iterable[str]:
    yield (
        "Figures are of text like the run's own; of other text nothing is known but what stands "
        "above."
    )
    if (longest := pair["longest"]) is not None:
        yield f"The data layer reads {longest:,} tokens at most."
    yield (
        "transformers loads the data layer alone: its bits are those of the voice `own`, and it "
        "has neither the memory nor what the memory was told."
    )
    if pair["told"]:
        yield "What the memory was told was not checked by anyone but whoever told it."
    now = origin.get("heldout") or {}
    own, both = now.get("general_own_loss"), now.get("general_help_loss")
    if own is not None and both is not None:
        yield f"On general text the memory changes the loss by {both - own:+.4f} nats per token."
    if origin.get("reflects_final_verdict") in ("no", "hardly"):
        yield "The memory is behind the data layer, as said above."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
