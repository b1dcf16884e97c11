"""Settings of a corpus: which go together, and what is read of a table."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from actors.settings.corpus import CONVERTED, CorpusSpec

PATHS = {"paths": ("a",)}
HUB = {"paths": ["hf://datasets/somebody/talks"]}
SOURCES = {"sources": [{"paths": ["a"]}, {"paths": ["b"], "weight": 3, "text_column": "body"}]}
FACTS = {"kind": "facts", "templates": "t.json"}


def test_paths_alone_are_one_source() -> None:
    (source,) = CorpusSpec(paths=("a", "b"), text_column="body", format="jsonl").files
    assert (source.paths, source.columns, source.format) == (("a", "b"), ("body",), "jsonl")


def test_sources_keep_their_own_columns_and_weights() -> None:
    one, other = CorpusSpec.model_validate(SOURCES).files
    assert (one.columns, one.weight) == (("text",), 1.0)
    assert (other.columns, other.weight) == (("body",), 3.0)


def test_prompt_and_completion_are_read_in_that_order() -> None:
    spec = CorpusSpec(paths=("a",), completion_column="a", prompt_column="q")
    assert spec.columns == ("q", "a")


@pytest.mark.parametrize("fields", [{**PATHS}, SOURCES, {**PATHS, "prompt_column": "q",
                                    "completion_column": "a"}, {**PATHS, **FACTS}])  # fmt: skip
def test_a_corpus_is_the_same_when_it_was_written_and_read(fields: dict[str, Any]) -> None:
    spec = CorpusSpec.model_validate(fields)
    assert CorpusSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "`paths` is missing"),
        ({**PATHS, **SOURCES}, "`paths` and `sources` exclude each other"),
        ({**PATHS, "prompt_column": "q"}, "`prompt_column` needs `completion_column`"),
        ({**PATHS, "completion_column": "a"}, "`completion_column` needs `prompt_column`"),
        (
            {**PATHS, "prompt_column": "q", "completion_column": "a", "text_column": "t"},
            "exclude each other",
        ),
        ({**PATHS, "prompt_column": "q", "completion_column": "q"}, "are both q"),
        ({**SOURCES, "text_column": "body"}, "`text_column`: belongs to each of `sources`"),
        ({**SOURCES, "format": "jsonl"}, "`format`: belongs to each of `sources`"),
        ({**SOURCES, **FACTS}, "kind 'facts' takes no `sources`"),
        ({**PATHS, **FACTS, "format": "jsonl"}, "`format`: belongs to a corpus of kind 'text'"),
        ({"sources": [{"paths": ["a"], "weight": 0}]}, "greater than 0"),
        ({"sources": [{"paths": []}]}, "at least 1 item"),
        ({"sources": [{"paths": ["a"], "prompt_column": "q"}]}, "needs `completion_column`"),
        ({**PATHS, "as_chat": True}, "`as_chat` needs `prompt_column`"),
        ({**PATHS, "tools_column": "t"}, "`tools_column` needs `messages_column`"),
        (
            {**PATHS, "messages_column": "m", "text_column": "t"},
            "`text_column` (t) and `messages_column` (m) exclude each other",
        ),
        (
            {**PATHS, "messages_column": "m", "prompt_column": "q", "completion_column": "a"},
            "`prompt_column` (q) and `messages_column` (m) exclude each other",
        ),
        ({**PATHS, "messages_column": "m", "tools_column": "m"}, "are both m"),
        ({**SOURCES, "messages_column": "m"}, "`messages_column`: belongs to each of `sources`"),
        ({**HUB, "configuration": "short"}, "`configuration` needs `split`"),
        ({**PATHS, "split": "train"}, "hf://datasets/OWNER/NAME, got a"),
        ({**PATHS, "format": "csv"}, "'auto', 'text', 'jsonl' or 'parquet'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CorpusSpec.model_validate(fields)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({}, "hf://datasets/somebody/talks"),
        ({"split": "train"}, f"hf://datasets/somebody/talks{CONVERTED}/default/train/*.parquet"),
        (
            {"split": "test", "configuration": "short"},
            f"hf://datasets/somebody/talks{CONVERTED}/short/test/*.parquet",
        ),
    ],
)
def test_a_split_of_a_data_set_is_its_converted_files(fields: dict[str, Any], place: str) -> None:
    (source,) = CorpusSpec.model_validate({**HUB, **fields}).files
    assert source.locations == (place,)


@pytest.mark.parametrize(
    ("fields", "columns", "kind"),
    [
        ({}, ("text",), "text"),
        ({"messages_column": "m"}, ("m",), "messages"),
        ({"messages_column": "m", "tools_column": "t"}, ("m", "t"), "messages"),
        (
            {"prompt_column": "q", "completion_column": "a", "as_chat": True},
            ("q", "a"),
            "exchange",
        ),
    ],
)
def test_the_columns_say_what_a_row_is(
    fields: dict[str, Any], columns: tuple[str, ...], kind: str
) -> None:
    spec = CorpusSpec.model_validate({**PATHS, **fields})
    assert (spec.columns, spec.row_kind) == (columns, kind)


def test_many_paths_are_described_by_a_few() -> None:
    assert CorpusSpec(paths=tuple("abcde")).described == "a, b, c and 2 more"
