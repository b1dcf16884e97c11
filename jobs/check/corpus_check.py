"""What `tandem check` and a search look at of a corpus: all that a run will certainly read of it,
and how long its epochs are. Starts nothing.
"""

from __future__ import annotations

from actors.corpus.corpus import Corpus, build_tokenizer, train_tokenizer
from actors.corpus.inventory import CHECK_BYTES, Inventory, take_inventory
from actors.settings.run import DATA
from jobs.check import footprint
from orchestrator.settings.config import Config

SAMPLE_BYTES = 4 << 20  # of text for a tokenizer that is like the run's


def look_at_corpus(config: Config) -> tuple[footprint.CorpusSize, int, Inventory]:
    """How long windows and epochs are, the number of token ids, and what there is to read.

    The tokenizer is one of a sample: a large corpus fills the vocabulary, a small one is the
    sample.

    Raises:
        CorpusError: as the trainers.
    """
    pretrained = config.tokenizer.pretrained is not None
    tokenizer = build_tokenizer(config) if pretrained else train_tokenizer(config, SAMPLE_BYTES)
    inventory = take_inventory(config, tokenizer, CHECK_BYTES)
    corpus = Corpus.open(config, tokenizer)
    chunks = corpus.chunks_per_epoch
    for number in range(chunks):  # where rows are long, a chunk may hold none
        windows = corpus.chunk(DATA, number)
        if len(windows):
            break
    else:
        raise corpus.nothing_to_train_on()
    one = len(inventory.sources) == 1  # of several, some are read more often than once an epoch
    tokens = windows.num_tokens * chunks / (number + 1)
    if one:
        tokens = inventory.sources[0].training.tokens
    size = footprint.CorpusSize(
        tokens_per_window=windows.num_tokens / len(windows), tokens_per_epoch=float(tokens)
    )
    whole = chunks == 1 or pretrained
    return size, tokenizer.size if whole else config.tokenizer.vocab_size, inventory
