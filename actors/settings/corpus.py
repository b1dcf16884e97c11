"""Settings of the corpus and its tokenizer. No torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from actors.settings.base import Spec

FileFormat = Literal["text", "jsonl", "parquet"]


class FilesSpec(Spec):
    """Which files hold documents, and where in them."""

    paths: tuple[str, ...] = Field(
        (), description="Files, globs or directories; any fsspec URL (s3://, gs://, abfs://, hf://)"
    )
    format: Literal["auto", "text", "jsonl", "parquet"] = Field(
        "auto",
        description="What the files are; `auto` goes by each file's extension. Set it where the "
        "extension misleads, or to take only the files of one format from a directory.",
    )
    text_column: str = Field(
        "text",
        min_length=1,
        description="JSONL and Parquet: the column that holds a document's text.",
    )
    prompt_column: str | None = Field(
        None,
        min_length=1,
        description="JSONL and Parquet: read but not learned; together with `completion_column`, "
        "in the place of `text_column`.",
    )
    completion_column: str | None = Field(
        None,
        min_length=1,
        description="JSONL and Parquet: follows the prompt as it stands, and is what is learned.",
    )

    @model_validator(mode="after")
    def _prompt_and_completion_go_together(self) -> Self:
        if (self.prompt_column is None) != (self.completion_column is None):
            given, other = (
                ("prompt_column", "completion_column")
                if self.completion_column is None
                else ("completion_column", "prompt_column")
            )
            raise ValueError(f"`{given}` needs `{other}` beside it; give both or neither")
        if self.prompt_column is not None and self.text_column != "text":
            raise ValueError(
                f"`text_column` ({self.text_column}) and `prompt_column` ({self.prompt_column}) "
                "exclude each other; give the text, or prompt and completion"
            )
        if self.prompt_column is not None and self.prompt_column == self.completion_column:
            raise ValueError(
                f"`prompt_column` and `completion_column` are both {self.prompt_column}; "
                "nothing would be learned that was not read"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """What is read of a table: the text, or prompt and completion."""
        if self.prompt_column is None or self.completion_column is None:
            return (self.text_column,)
        return (self.prompt_column, self.completion_column)

    @property
    def described(self) -> str:
        """The paths, as messages name them."""
        more = f" and {len(self.paths) - 3} more" if len(self.paths) > 3 else ""
        return ", ".join(self.paths[:3]) + more


class SourceSpec(FilesSpec):
    """One of several sources that are mixed."""

    paths: tuple[str, ...] = Field(
        min_length=1,
        description="Files, globs or directories; any fsspec URL (s3://, gs://, abfs://, hf://)",
    )
    weight: float = Field(
        1.0,
        gt=0,
        description="Share of the training tokens that come from this source; the weights are "
        "normalised. A source is repeated or cut short as its weight says, not its size.",
    )


class CorpusSpec(FilesSpec):
    """Where the training text comes from and how it is cut into windows."""

    kind: Literal["text", "facts"] = Field(
        "text",
        description="`text`: documents from text, JSONL or Parquet files; `facts`: JSONL of "
        "subject, relation, object plus sentence templates.",
    )
    sources: tuple[SourceSpec, ...] = Field(
        (), description="Several sources with weights, in the place of `paths`."
    )
    templates: str | None = Field(
        None,
        description="facts only: JSON file, relation -> list of {pattern, lemma, tense} with [X] "
        "and [Y]; may be compressed.",
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
        "never trained on. One lemma always stays in training; with loss_on answers one that can "
        "be asked, since nothing else is learned from.",
    )
    loss_on: Literal["all", "answers"] = Field(
        "all",
        description="facts only: `answers` uses the wordings that end in the object, reads up to "
        "it and learns the object, so that capacity and gradient go to what the question "
        "determines; `all` learns every token of every wording.",
    )
    heldout_frac: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="text only: share of each source's blocks that nothing trains on.",
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
        16384,
        ge=256,
        description="text only: bytes read, split off or held out as one unit; a longer line of "
        "text is cut. Raise it (131072, "
        "with shuffle_blocks 32) for corpora of many gigabytes and remote ones: fewer requests.",
    )
    shuffle_blocks: int = Field(
        64,
        ge=1,
        description="Blocks that are read, tokenised and shuffled together; more mixes better and "
        "takes more memory: about 20 bytes for each of their bytes.",
    )
    spool: str | None = Field(
        None,
        min_length=1,
        description="Local directory in which compressed text and JSONL files are unpacked, a few "
        "at a time (default: below the system's temporary directory). Needs room for 50 unpacked "
        "files per worker, or for all where there are fewer.",
    )

    @model_validator(mode="after")
    def _somewhere_to_read(self) -> Self:
        if self.paths and self.sources:
            raise ValueError("`paths` and `sources` exclude each other; put the paths in a source")
        if not self.paths and not self.sources:
            raise ValueError("`paths` is missing (or `sources`, for several with weights)")
        return self

    @model_validator(mode="after")
    def _facts_need_templates(self) -> Self:
        if self.kind == "facts" and not self.templates:
            raise ValueError(
                "kind 'facts' needs `templates`: a JSON file, relation -> list of {pattern, lemma}"
            )
        if self.kind == "facts" and self.sources:
            raise ValueError("kind 'facts' takes `paths`; `sources` are of kind 'text'")
        return self

    @model_validator(mode="after")
    def _sources_say_their_own_columns(self) -> Self:
        if self.kind == "text" and not self.sources:
            return self
        misplaced = [
            name
            for name in ("format", "text_column", "prompt_column", "completion_column")
            if getattr(self, name) != CorpusSpec.model_fields[name].default
        ]
        if misplaced:
            where = "each of `sources`" if self.sources else "a corpus of kind 'text'"
            raise ValueError(f"{', '.join(f'`{m}`' for m in misplaced)}: belongs to {where}")
        return self

    @property
    def files(self) -> tuple[SourceSpec, ...]:
        """The sources; `paths` alone are one."""
        if self.sources:
            return self.sources
        return (SourceSpec(**{name: getattr(self, name) for name in FilesSpec.model_fields}),)


NO_MARK = "none"  # in the place of a token that opens or closes documents


class TokenizerSpec(Spec):
    """The tokenizer: a pretrained one, or a byte-level BPE trained on the training split alone."""

    pretrained: str | None = Field(
        None,
        min_length=1,
        description="A folder with tokenizer.json, such a file, or a Hugging Face hub name; unset: "
        "one is trained. A pretrained model needs its own.",
    )
    special_tokens: Literal["as_text", "as_ids"] = Field(
        "as_text",
        description="How special tokens that stand in a text, such as <|im_start|>, are read: "
        "`as_text`, character by character, so that no text found somewhere can end a document or "
        "play a role; `as_ids`, as transformers reads them: for chats that were written with a "
        "template. Prompts of `ask` are read in the same way.",
    )
    begin: str | None = Field(
        None,
        min_length=1,
        description="Pretrained tokenizers only: the token that opens every document and question, "
        "or `none`; unset: as its files say. Set it where that is a chat role's mark "
        "(<|im_start|>) and the model was trained on documents that open otherwise.",
    )
    end: str | None = Field(
        None,
        min_length=1,
        description="Pretrained tokenizers only: the token that closes every document, or `none`; "
        "unset: as its files say.",
    )
    vocab_size: int = Field(
        2048,
        ge=300,
        le=262144,
        description="Trained tokenizers only: rows of the vocabulary, the 256 bytes included.",
    )

    @model_validator(mode="after")
    def _a_trained_one_has_its_own_marks(self) -> Self:
        if self.pretrained is None and (self.begin or self.end):
            raise ValueError(
                "`begin` and `end` are for a pretrained tokenizer; one that is trained marks "
                "documents with <|endoftext|>"
            )
        return self
