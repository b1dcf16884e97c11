"""Whether the weights that a run starts from were trained on its token ids."""

from __future__ import annotations

from actors.corpus.corpus import build_tokenizer, train_tokenizer
from actors.weights.starting_weights import check_tokens
from orchestrator.settings.config import Config

SAMPLE_BYTES = 1 << 20  # of text; a tokenizer trained on any text differs from a given one


def check_starting_tokens(config: Config) -> None:
    """Raises: ConfigError: the weights that the run starts from were trained on other token ids."""
    if config.data.layer.pretrained is None and config.memory.layer.start_from is None:
        return
    given = config.tokenizer.pretrained is not None
    check_tokens(
        config, build_tokenizer(config) if given else train_tokenizer(config, SAMPLE_BYTES)
    )
