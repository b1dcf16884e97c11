"""Settings of the corpus and its tokenizer. No torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from actors.formats import listed
from actors.settings.base import Spec
from actors.settings.fields import Mark, OnlyWith, PathTo

FileFormat = Literal["text", "jsonl", "parquet"]
HUB_DATA_SET = re.compile(r"hf://datasets/[\w.-]+/[\w.-]+/?")
CONVERTED = "@refs/convert/parquet"  # the revision to which the hub writes its conversion
LEAST_WINDOW = 8  # tokens
TEXT_ONLY = OnlyWith("corpus.kind", "text")
FACTS_ONLY = OnlyWith("corpus.kind", "facts")


class FilesSpec(Spec):
    """Which files hold documents, and where in them."""

    paths: Annotated[tuple[str, ...], PathTo.CORPUS] = Field(
        (),
        description="Files, globs or directories: local paths, or URLs of any storage that fsspec "
        "knows (s3://, gs://, abfs://, hf://).",
    )
    configuration: str | None = Field(
        None,
        min_length=1,
        description="Data sets of the Hugging Face hub, `hf://datasets/OWNER/NAME`: which of its "
        "configurations (the hub calls them subsets) is read. Needs `split`; unset beside it: "
        "`default`.",
    )
    split: str | None = Field(
        None,
        min_length=1,
        description="Data sets of the hub: the split that is read, as Parquet, to which the hub "
        "converts every data set. Tandem holds out a part of it by itself. Unset: the files that "
        "the paths name.",
    )
    format: Literal["auto", "text", "jsonl", "parquet"] = Field(
        "auto",
        description="Format of the files; `auto` decides by each file's extension. Set it where "
        "the extension misleads, or to read only the files of one format from a directory.",
    )
    text_column: str = Field(
        "text",
        min_length=1,
        description="JSONL and Parquet: the column that holds a document's text.",
    )
    prompt_column: str | None = Field(
        None,
        min_length=1,
        description="JSONL and Parquet: the column with text that is read but not learned. Give it "
        "together with `completion_column`, instead of `text_column`.",
    )
    completion_column: str | None = Field(
        None,
        min_length=1,
        description="JSONL and Parquet: the column with text that is learned. It is appended to "
        "the prompt unchanged, so any space between them must be in the data.",
    )

    as_chat: bool = Field(
        False,
        description="Prompt and completion are an exchange of a chat, written with the "
        "tokenizer's chat template: the prompt as the user's turn, the completion as the "
        "assistant's. Either may be a list of messages instead of a text.",
    )
    messages_column: str | None = Field(
        None,
        min_length=1,
        description="JSONL and Parquet: the column with chats, lists of messages with role and "
        "content, instead of `text_column`. The tokenizer's chat template makes their text; the "
        "assistant's turns are learned, the others are read.",
    )
    tools_column: str | None = Field(
        None,
        min_length=1,
        description="Beside `messages_column`: the column with the tools that the assistant of a "
        "chat could call, a list of JSON schemas or the same as JSON text.",
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
                f"`prompt_column` and `completion_column` are both {self.prompt_column}: every "
                "learned text would already have been read; name two different columns"
            )
        return self

    @model_validator(mode="after")
    def _chats_are_named_in_one_way(self) -> Self:
        if self.as_chat and self.prompt_column is None:
            raise ValueError("`as_chat` needs `prompt_column` and `completion_column` beside it")
        if self.tools_column is not None and self.messages_column is None:
            raise ValueError("`tools_column` needs `messages_column` beside it")
        if self.messages_column is None:
            return self
        other = "prompt_column" if self.prompt_column else "text_column"
        if self.prompt_column is not None or self.text_column != "text":
            raise ValueError(
                f"`{other}` ({getattr(self, other)}) and `messages_column` "
                f"({self.messages_column}) exclude each other; give one of them"
            )
        if self.messages_column == self.tools_column:
            raise ValueError(
                f"`messages_column` and `tools_column` are both {self.messages_column}; name two "
                "different columns"
            )
        return self

    @model_validator(mode="after")
    def _splits_are_of_data_sets_on_the_hub(self) -> Self:
        if self.configuration is not None and self.split is None:
            raise ValueError("`configuration` needs `split` beside it, e.g. `split: train`")
        if self.split is None:
            return self
        for path in self.paths:
            if not HUB_DATA_SET.fullmatch(path):
                raise ValueError(
                    f"`split` is of a data set on the hub, hf://datasets/OWNER/NAME, got {path}; "
                    "remove `split`, or give files of one split as paths"
                )
        return self

    @property
    def locations(self) -> tuple[str, ...]:
        """The paths, those of a data set on the hub as the Parquet files of its split."""
        if self.split is None:
            return self.paths
        folder = f"{self.configuration or 'default'}/{self.split}"
        return tuple(f"{path.rstrip('/')}{CONVERTED}/{folder}/*.parquet" for path in self.paths)

    @property
    def row_kind(self) -> Literal["text", "messages", "exchange"]:
        """What the columns of a row are: a text, perhaps with a prompt; a chat; prompt and
        completion as a chat.
        """
        if self.messages_column is not None:
            return "messages"
        return "exchange" if self.as_chat else "text"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read of a table: the text, or prompt and completion, or a chat."""
        if self.messages_column is not None:
            tools = () if self.tools_column is None else (self.tools_column,)
            return (self.messages_column, *tools)
        if self.prompt_column is None or self.completion_column is None:
            return (self.text_column,)
        return (self.prompt_column, self.completion_column)

    @property
    def described(self) -> str:
        """The paths, as messages name them."""
        return listed(self.paths, 3)


class SourceSpec(FilesSpec):
    """One of several sources that are mixed."""

    paths: Annotated[tuple[str, ...], PathTo.CORPUS] = Field(
        min_length=1, description=FilesSpec.model_fields["paths"].description
    )
    weight: float = Field(
        1.0,
        gt=0,
        description="Share of the training tokens that come from this source, relative to the "
        "other sources' weights. The weight decides, not the size: a small source is repeated, a "
        "large one is not read to its end.",
    )


class CorpusSpec(FilesSpec):
    """Where the training text comes from and how it is cut into windows."""

    kind: Literal["text", "facts"] = Field(
        "text",
        description="`text`: documents from text, JSONL or Parquet files; `facts`: JSONL of "
        "subject, relation and object, from which sentences are made with templates.",
    )
    sources: tuple[SourceSpec, ...] = Field(
        (), description="Several sources with weights, instead of `paths`."
    )
    templates: Annotated[str | None, PathTo.TEMPLATES, FACTS_ONLY] = Field(
        None,
        description="JSON file, relation -> list of {pattern, lemma, tense} with [X] for the "
        "subject and [Y] for the object; may be compressed.",
    )
    relations: Annotated[tuple[str, ...] | None, FACTS_ONLY] = Field(
        None, description="Relations to use; unset: all."
    )
    max_facts: Annotated[int | None, FACTS_ONLY] = Field(
        None, ge=1, description="Use the first so many facts, for a smaller run; unset: all."
    )
    heldout_lemmas: Annotated[int, FACTS_ONLY] = Field(
        1,
        ge=0,
        description="Verb lemmas held out per relation: sentences with them are asked in "
        "evaluations and never trained on. At least one lemma of a relation is always trained; "
        "with `loss_on: answers`, one whose sentences end in the object, since only those are "
        "learned.",
    )
    loss_on: Annotated[Literal["all", "answers"], FACTS_ONLY] = Field(
        "all",
        description="`all`: every token of every sentence is learned. `answers`: only sentences "
        "that end in the object are used, and only the object is learned, so that capacity and "
        "gradient go to what the question determines.",
    )
    heldout_frac: Annotated[float, TEXT_ONLY] = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Share of each source's blocks that is held out for evaluations and never "
        "trained on.",
    )
    window: int = Field(
        96,
        ge=LEAST_WINDOW,
        le=131072,
        description="Tokens per packed sequence (the context length of a batch).",
    )
    token_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a training batch's input tokens that are replaced by random ones; "
        "the targets stay. On small corpora it teaches answers to unseen wordings.",
    )
    block_bytes: Annotated[int, Mark.ADVANCED, TEXT_ONLY] = Field(
        16384,
        ge=256,
        description="Bytes that are read, and trained on or held out, as one unit; a longer line "
        "of a text file is cut. For corpora of many gigabytes and for remote ones raise it to "
        "131072, with `shuffle_blocks: 32`: fewer requests.",
    )
    shuffle_blocks: Annotated[int, Mark.ADVANCED] = Field(
        64,
        ge=1,
        description="Blocks that are read, tokenised and shuffled together. More blocks mix "
        "better and take more host memory, about 20 bytes for each byte of text.",
    )
    spool: Annotated[str | None, PathTo.SPOOL] = Field(
        None,
        min_length=1,
        description="Local directory in which compressed text and JSONL files are unpacked, a few "
        "at a time; unset: below the system's temporary directory. Needs room for 50 unpacked "
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
            raise ValueError("kind 'facts' takes no `sources`; give the files as `paths`")
        return self

    @model_validator(mode="after")
    def _sources_say_their_own_columns(self) -> Self:
        if self.kind == "text" and not self.sources:
            return self
        misplaced = [
            name
            for name, field in FilesSpec.model_fields.items()
            if name != "paths" and getattr(self, name) != field.default
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


NO_MARK = "none"  # instead of a token that opens or closes documents


class TokenizerSpec(Spec):
    """The tokenizer: a pretrained one, or a byte-level BPE trained on the training split alone."""

    pretrained: Annotated[str | None, PathTo.TOKENIZER] = Field(
        None,
        min_length=1,
        description="A folder with tokenizer.json, such a file, or a name on the Hugging Face hub; "
        "unset: a tokenizer is trained. Set it to the model's own where `data.layer.pretrained` is "
        "set.",
    )
    special_tokens: Literal["as_text", "as_ids"] = Field(
        "as_text",
        description="How special tokens that occur in a text, such as `<|im_start|>`, are read. "
        "`as_text`: character by character, so that no text from elsewhere can end a document or "
        "impersonate a chat role. `as_ids`: as the special tokens, which is what transformers "
        "does; for chats that were written with a template. Applies to prompts of `ask` too.",
    )
    begin: str | None = Field(
        None,
        min_length=1,
        description="Pretrained tokenizers: the token that opens every document and question, or "
        "`none`; unset: what its files say. Set it where that is the mark of a chat role "
        "(`<|im_start|>`) and the model was trained on documents that open with another token.",
    )
    end: str | None = Field(
        None,
        min_length=1,
        description="Pretrained tokenizers: the token that closes every document, or `none`; "
        "unset: what its files say.",
    )
    chat_template: Annotated[str | None, PathTo.CHAT_TEMPLATE] = Field(
        None,
        min_length=1,
        description="A Jinja file that writes chats, instead of the tokenizer's own template; it "
        "is kept with the run and exported with the model. Needed for chats where the tokenizer "
        "has none.",
    )
    vocab_size: int = Field(
        2048,
        ge=300,
        le=262144,
        description="Trained tokenizers: entries of the vocabulary, the 256 bytes included.",
    )

    @model_validator(mode="after")
    def _a_trained_one_has_its_own_marks(self) -> Self:
        if self.pretrained is None and (self.begin or self.end):
            raise ValueError(
                "`begin` and `end` need `pretrained`: a tokenizer that is trained here marks "
                "documents with <|endoftext|>; remove them"
            )
        return self
