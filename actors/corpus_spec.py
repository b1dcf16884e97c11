"""Settings of the corpus and its tokenizer. No torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from actors.settings import Spec


class CorpusSpec(Spec):
    """Where the training text comes from and how it is cut into windows."""

    kind: Literal["text", "facts"] = Field(
        "text",
        description="`text`: plain files; `facts`: JSONL of subject, relation, object plus "
        "sentence templates.",
    )
    paths: tuple[str, ...] = Field(
        min_length=1, description="Files, globs or directories; any fsspec URL."
    )
    templates: str | None = Field(
        None,
        description="facts only: JSON file, relation -> list of {pattern, lemma, tense} with [X] "
        "and [Y].",
    )
    relations: tuple[str, ...] | None = Field(
        None, description="facts only: use just these relations (default: all)."
    )
    max_facts: int | None = Field(
        None, ge=1, description="facts only: use the first so many facts, for a smaller run."
    )
    heldout_lemmas: int = Field(
        1,
        ge=0,
        description="facts only: verb lemmas held out per relation; their wordings are asked, "
        "never trained on.",
    )
    loss_on: Literal["all", "answers"] = Field(
        "all",
        description="facts only: `answers` uses the wordings that end in the object, reads up to "
        "it and learns the object, so that capacity and gradient go to what the question "
        "determines; `all` learns every token of every wording.",
    )
    heldout_frac: float = Field(
        0.05, gt=0, lt=0.5, description="text only: share of blocks that nothing trains on."
    )
    window: int = Field(
        96,
        ge=8,
        le=131072,
        description="Tokens per packed sequence (the context length of a batch).",
    )
    token_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a training batch's input tokens replaced by random ones (targets "
        "stay); "
        "teaches small corpora to answer in wordings they never saw.",
    )
    block_bytes: int = Field(
        16384, ge=256, description="text only: bytes read, split off or held out as one unit."
    )
    shuffle_blocks: int = Field(
        64, ge=1, description="Blocks shuffled together; more mixes better and takes more memory."
    )

    @model_validator(mode="after")
    def _facts_need_templates(self) -> Self:
        if self.kind == "facts" and not self.templates:
            raise ValueError(
                "kind 'facts' needs `templates`: a JSON file, relation -> list of {pattern, lemma}"
            )
        return self


class TokenizerSpec(Spec):
    """The byte-level BPE trained on the training split alone and kept with the run."""

    vocab_size: int = Field(
        2048, ge=300, le=262144, description="Rows of the vocabulary, the 256 bytes included."
    )
