"""Reads what a run will need of its corpus, and estimates the length of its epochs."""

from __future__ import annotations

from dataclasses import dataclass

from actors.corpus.corpus import Corpus, build_tokenizer, train_tokenizer
from actors.corpus.general_text import shown_general_text
from actors.corpus.inventory import CHECK_BYTES, Inventory, take_inventory
from actors.settings.run import DATA
from jobs.check import footprint
from jobs.check.example import Example, examples
from orchestrator.settings.config import Config

SAMPLE_BYTES = 4 << 20  # of text for a tokenizer similar to the run's


@dataclass(frozen=True)
class CorpusLook:
    """What a run will read.

    Attributes:
        size: length of windows and epochs.
        num_tokens: token ids.
        inventory: of its files.
        examples: a document of each source.
    """

    size: footprint.CorpusSize
    num_tokens: int
    inventory: Inventory
    examples: list[Example]


def look_at_corpus(config: Config) -> CorpusLook:
    """Reads what a run of `config` needs.

    A tokenizer that is to be trained is trained on a sample: a large corpus fills the vocabulary
    in any case, a small one is the sample.

    Raises:
        CorpusError: as the trainers.
    """
    pretrained = config.tokenizer.pretrained is not None
    tokenizer = build_tokenizer(config) if pretrained else train_tokenizer(config, SAMPLE_BYTES)
    shown_general_text(config, tokenizer)
    inventory = take_inventory(config, tokenizer, CHECK_BYTES)
    corpus = Corpus.open(config, tokenizer)
    chunks = corpus.chunks_per_epoch
    for number in range(chunks):  # with long rows, a chunk may have no window
        windows = corpus.chunk(DATA, number)
        if len(windows):
            break
    else:
        raise corpus.nothing_to_train_on()
    is_single = len(inventory.sources) == 1  # of several, some are repeated within an epoch
    tokens = windows.num_tokens * chunks / (number + 1)
    if is_single:
        tokens = inventory.sources[0].training.tokens
    size = footprint.CorpusSize(
        tokens_per_window=windows.num_tokens / len(windows), tokens_per_epoch=float(tokens)
    )
    is_exact = chunks == 1 or pretrained
    num_tokens = tokenizer.size if is_exact else config.tokenizer.vocab_size
    return CorpusLook(size, num_tokens, inventory, examples(config, tokenizer))
