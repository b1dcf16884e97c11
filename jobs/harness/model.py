"""A pair as a model of lm-evaluation-harness: `--model tandem --model_args run=RUN,voice=help`.

The harness' own class for Hugging Face models, which asks the pair instead of a plain one. So the
voice `own` of a model that was kept gives the figures of that model in the harness, to the last
digit.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from actors.measuring.voices import VOICES, Voice
from actors.pair.tandem_model import TandemModel
from actors.tokenizers.prompt import load_given_tokenizer
from actors.wire import ConfigError
from jobs.api import load, pair_at

NAME = "tandem"


class TandemLM(HFLM):  # type: ignore[misc]  # lm_eval is untyped here
    """One voice of a pair.

    Args:
        run: a run, an export, a saved folder or a name of the hub.
        voice: who is asked.
        as_documents: each text begins with the mark that opens a document in training; False: with
            what the tokenizer's files add, as the harness does with the plain model; None: as
            documents where the tokenizer was trained with the run, else as its files say.
        dtype, device: as `jobs.api.load`.
        pair: loaded already, from `run`.
        options: of HFLM, e.g. batch_size, max_length, prefix_token_id.

    Raises:
        ConfigError: no such voice, or no pair there.
    """

    def __init__(
        self,
        run: str,
        voice: str = "help",
        as_documents: bool | None = None,
        dtype: str | None = None,
        device: str | None = None,
        pair: TandemModel | None = None,
        **options: Any,
    ) -> None:
        if voice not in VOICES:
            raise ConfigError(f"voice {voice!r}: expected one of {', '.join(VOICES)}")
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            device = None  # what the harness' command gives unasked
        place = pair_at(run)
        model = load(place, dtype=dtype, device=device) if pair is None else pair
        given = model.words is not None and bool(model.words.extras.parts)
        self._as_documents = not given if as_documents is None else as_documents
        self._opens_by_itself = False
        self.voice: Voice = voice
        tokenizer = model.tokenizer if self._as_documents else load_given_tokenizer(place)
        with _without_notices():
            super().__init__(pretrained=model, tokenizer=copy.deepcopy(tokenizer), **options)

    def _model_call(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.model.speaking(self.voice):
            logits: Tensor = super()._model_call(*args, **kwargs)
        return logits

    def _model_generate(self, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad(), self.model.speaking(self.voice):
            said: Tensor = super()._model_generate(*args, **kwargs)
        return said

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text of which the first token is scored too."""
        if self._as_documents and self.custom_prefix_token_id is None and self.model.words:
            opening = self.model.words.opening
            return int(opening[0] if opening else self.model.words.end_of_text)
        return int(super().prefix_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kw: Any) -> Any:
        """Token ids; without the opening mark where the harness adds it."""
        if self._opens_by_itself and self._as_documents:
            add_special_tokens = False
        return super().tok_encode(string, add_special_tokens, **kw)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, each token once."""
        self._opens_by_itself = True
        try:
            found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self._opens_by_itself = False
        return found


@contextmanager
def _without_notices() -> Iterator[None]:
    """HFLM warns that a model given as an object is placed by its caller, which is meant here."""
    logger = logging.getLogger("lm_eval.models.huggingface")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
