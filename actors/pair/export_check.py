"""Compares an export with the trained pair before it is published.

    written to a local folder -> loaded as users load it -> compared -> copied, marker last

Loaded twice, one after the other, so that there is never more than one copy beside the trained
pair: the data layer by transformers alone, and the pair as `jobs.api.load` loads it. All tensors
must equal the trained ones bit for bit; then losses on held-out documents show what tensors don't,
such as a wrong config.

Shapes: N documents, T tokens, V token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import zip_longest
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as HFTokenizer
from torch import Tensor, nn

from actors.corpus.windows import PADDING, Windows, pack
from actors.formats import listed
from actors.layers.batch import Batch, to_batch
from actors.layers.causal_lm import quietly
from actors.layers.data_layer import packed_inputs
from actors.layers.pair import Pair
from actors.measuring.heldout import heldout_figures
from actors.measuring.heldout import parts as rows_of
from actors.measuring.sampling import openings
from actors.measuring.voices import VOICES, Voice
from actors.pair import tandem_model
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.adapter_files import adapter_beside, with_adapter
from actors.weights.export_files import DATA_LAYER
from actors.weights.pair_export import copy_export, export_folder, exported_modules, exported_pair
from actors.wire import ConfigError, ExportError

DOCUMENT_TOKENS = 256  # of a document that is compared
TOKENS = 1024  # compared in all
# Nats per token. The trained pair masks other documents additively, a loaded one masks padding by
# ones and zeros, so attention may sum in another order: 2e-7 was measured on a CPU, four families.
TOLERANCE = 1e-4
TOLERANCE_HALF = 2e-2  # of a model that is held in bfloat16
LOSS_OF = {"own": "own_loss", "help": "help_loss", "memory": "self_loss"}  # by voice
NAMED = 4  # tensors in a message


def export_checked(
    spec: RunSpec, tokenizer: Tokenizer, pair: Pair, directory: str, heldout: Windows
) -> None:
    """Writes both layers and the port under `directory`, after checking that they load as trained.

    Args:
        spec, tokenizer: the run's.
        pair: the trained pair, in eval mode.
        directory: any fsspec URL.
        heldout: windows; their first documents are compared.

    Raises:
        ExportError: what was loaded differs from what was trained; nothing was published.
    """
    with export_folder(spec, tokenizer, pair) as root:
        check_export(root, tokenizer, pair, heldout)
        copy_export(root, directory)


@torch.no_grad()
def check_export(root: Path, tokenizer: Tokenizer, pair: Pair, heldout: Windows) -> None:
    """Loads the export under `root` as users do. Raises: ExportError: as `export_checked`."""
    documents = compared_documents(heldout, tokenizer.end_of_text)
    _check_tokenizer(root, tokenizer, documents)
    batch = to_batch(documents, pair.memory.values.device)
    plain, tolerance = exported_pair(pair), _tolerance(pair)
    figures = heldout_figures(pair, batch)
    trained = {voice: figures[name] for voice, name in LOSS_OF.items()}
    _check_plain(root, plain, batch, trained["own"], tolerance)
    try:
        _check_pair(root, plain, batch, trained, tolerance)
    except ConfigError as err:
        raise ExportError(f"the export can't be loaded again: {err}") from err


def compared_documents(heldout: Windows, fill: int) -> Windows:
    """The first documents of the windows, one per row, long ones cut."""
    pieces, total = [], 0
    for piece in openings(heldout):
        length = min(len(piece.tokens), DOCUMENT_TOKENS)
        pieces.append(pack([piece.cut(0, length)], DOCUMENT_TOKENS, fill))
        total += length
        if total >= TOKENS:
            break
    rows = Windows.concat([p for p in pieces if len(p)] or [Windows.empty(DOCUMENT_TOKENS)])
    longest = int((rows.segments_NT != PADDING).sum(1).max(initial=0))
    return Windows(
        rows.tokens_NT[:, :longest], rows.segments_NT[:, :longest], rows.learn_NT[:, :longest]
    )


def _check_plain(root: Path, pair: Pair, batch: Batch, trained: float, tolerance: float) -> None:
    from transformers import AutoModelForCausalLM

    with quietly():
        loaded = AutoModelForCausalLM.from_pretrained(
            root / DATA_LAYER, local_files_only=True, dtype=pair.data.model.dtype
        )
    if (adapter := adapter_beside(str(root / DATA_LAYER))) is not None:
        loaded = with_adapter(loaded, adapter)
    plain = loaded.to(batch.tokens_BT.device).eval()
    wrong = differing(pair.data.model, plain)
    loss = _loss(
        lambda part: plain(
            input_ids=part.tokens_BT,
            **packed_inputs(part.segments_BT, plain.dtype),
            use_cache=False,
        ).logits[..., : pair.data.num_tokens],
        batch,
    )
    loaded_as = f"the data layer, loaded by transformers from {DATA_LAYER}"
    _refuse(loaded_as, {DATA_LAYER: wrong}, {"own": (trained, loss)}, tolerance)


def _check_pair(
    root: Path, pair: Pair, batch: Batch, trained: Mapping[str, float], tolerance: float
) -> None:
    loaded = tandem_model.load_tandem_model(str(root)).to(batch.tokens_BT.device)
    ours, theirs = (
        exported_modules(pair),
        exported_modules(Pair(loaded.data_layer, loaded.memory_layer)),
    )
    wrong = {part: differing(module, theirs[part]) for part, module in ours.items()}

    def logits(voice: Voice, part: Batch) -> Tensor:
        mask = (part.segments_BT != PADDING).long()
        out = loaded(input_ids=part.tokens_BT, attention_mask=mask, use_cache=False, voice=voice)
        found: Tensor = out.logits[..., : pair.data.num_tokens]
        return found

    losses = {voice: _loss(partial(logits, voice), batch) for voice in VOICES}
    both: dict[str, tuple[float, float]] = {v: (trained[v], losses[v]) for v in VOICES}
    _refuse("the pair, loaded as a whole", wrong, both, tolerance)


def _tolerance(pair: Pair) -> float:
    return TOLERANCE if pair.data.model.dtype == torch.float32 else TOLERANCE_HALF


def differing(trained: nn.Module, loaded: nn.Module) -> list[str]:
    """Tensors in which two modules differ in any bit, with the difference."""
    ours, theirs = trained.state_dict(), loaded.state_dict()
    wrong = [f"{name} (missing)" for name in ours if name not in theirs]
    wrong += [f"{name} (not of the trained layer)" for name in theirs if name not in ours]
    for name in ours.keys() & theirs.keys():
        mine, other = ours[name], theirs[name]
        if mine.shape != other.shape or mine.dtype != other.dtype:
            wrong.append(
                f"{name} ({other.dtype} {list(other.shape)}, trained {mine.dtype} "
                f"{list(mine.shape)})"
            )
        elif not torch.equal(mine, other):
            wrong.append(f"{name} (differs by up to {(mine - other).abs().max().item():.3g})")
    return sorted(wrong)


def _loss(logits_of: Callable[[Batch], Tensor], batch: Batch) -> float:
    """Nats per token at the positions with a target."""
    total = 0.0
    for part in rows_of(batch):
        logits_NV = logits_of(part)[part.valid_BT].float()
        total += F.cross_entropy(logits_NV, part.targets_N, reduction="sum").item()
    return total / max(1, batch.num_valid)


def _refuse(
    loaded_as: str,
    tensors: Mapping[str, list[str]],
    losses: Mapping[str, tuple[float, float]],
    tolerance: float,
) -> None:
    """Raises: ExportError: a tensor differs, or a loss (trained, loaded) by more than rounding."""
    wrong = [f"{part}: {name}" for part, names in tensors.items() for name in names]
    off = [
        f"{voice} loss {loaded:.6f}, trained {trained:.6f}"
        for voice, (trained, loaded) in losses.items()
        if not abs(loaded - trained) <= tolerance
    ]
    if not wrong and not off:
        return
    named = (
        f"{len(wrong)} tensors differ: {listed(wrong, NAMED, '; ')}"
        if wrong
        else "every tensor equals the trained one, so its config.json must differ from the trained "
        "model's config"
    )
    raise ExportError(
        f"the export is not what was trained: {loaded_as}, has "
        f"{', '.join(off) or 'the same losses'} on held-out documents; {named}. Nothing was "
        "exported; the run's checkpoints are unchanged. Report this message and the model's "
        "config.json to the maintainers"
    )


def _check_tokenizer(root: Path, tokenizer: Tokenizer, documents: Windows) -> None:
    """Raises: ExportError: the exported tokenizer.json encodes a text with other ids."""
    theirs = HFTokenizer.from_file(str(root / DATA_LAYER / "tokenizer.json"))
    theirs.encode_special_tokens = not tokenizer.extras.as_ids
    for tokens_T, segments_T in zip(documents.tokens_NT, documents.segments_NT, strict=True):
        text = tokenizer.decode(tokens_T[segments_T != PADDING].tolist())
        ours, got = tokenizer.encode(text), theirs.encode(text, add_special_tokens=False).ids
        if ours != got:
            at = next(i for i, (a, b) in enumerate(zip_longest(ours, got)) if a != b)
            expected, found = (ids[at] if at < len(ids) else "no more" for ids in (ours, got))
            raise ExportError(
                f"the exported tokenizer gives other ids than the run's: at token {at} of "
                f"{text[:80]!r}: expected {expected}, got {found}. Nothing was exported; the run's "
                "checkpoints are unchanged"
            )
