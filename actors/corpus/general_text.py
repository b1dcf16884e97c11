"""General text: ordinary prose that a run is not about, to see what it costs the model elsewhere.

The text that `evaluation.general_text` names, or the sample that ships with the package, as a
`Corpus` of its own, which gives held-out windows to evaluations and streams of training windows to
whoever has to show the model ordinary text. The split is the same for every seed, so that figures
of several runs are of one text. Called by the evaluator and by trainers.
"""

from __future__ import annotations

from pathlib import Path

from actors.corpus.corpus import Corpus
from actors.corpus.windows import Windows
from actors.settings.corpus import LEAST_WINDOW, CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError, CorpusError

SAMPLE = Path(__file__).parent / "general" / "sample.jsonl"
HELDOUT_FRAC = 1 / 3
BLOCK_BYTES = 1024  # about a piece of the sample, so that all kinds of text are in both splits
SEED = 0


def general_corpus(spec: RunSpec, tokenizer: Tokenizer, window: int | None = None) -> Corpus:
    """The general text, whether evaluations show it or not; `window`: tokens of a window, None:
    the run's.

    Raises:
        ConfigError: it is missing, unreadable, empty or too short to hold something out.
    """
    path = spec.evaluation.general_text or str(SAMPLE)
    corpus = CorpusSpec(
        paths=(path,),
        window=window or spec.corpus.window,
        spool=spec.corpus.spool,
        heldout_frac=HELDOUT_FRAC,
        block_bytes=BLOCK_BYTES,
    )
    try:
        return Corpus.open(spec.model_copy(update={"corpus": corpus, "seed": SEED}), tokenizer)
    except CorpusError as err:
        raise ConfigError(f"evaluation.general_text: {err}") from err


def short_general_corpus(spec: RunSpec, tokenizer: Tokenizer) -> Corpus:
    """The general text in windows half as long as the run's, which a step beside a large model has
    time for. Raises: as `general_corpus`.
    """
    return general_corpus(spec, tokenizer, max(LEAST_WINDOW, spec.corpus.window // 2))


def shown_general_text(spec: RunSpec, tokenizer: Tokenizer) -> Windows | None:
    """Held-out windows of it, always the same, where evaluations show the loss on them; else None:
    of weights that started fresh on another corpus it would be noise.

    Raises:
        ConfigError: as `general_corpus`.
    """
    if not spec.shows_general_text:
        return None
    return general_corpus(spec, tokenizer).heldout(spec.evaluation.general_windows)
