"""The example of `tandem check`: a document as it will be learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.corpus.corpus import build_tokenizer
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from jobs.check.example import SHOWN_CHARS, Example, Part, examples
from orchestrator.settings.config import load_config
from tests.integration.tiny import write_config, write_corpora
from tests.unit.actors.corpus.test_chat_corpus import chat_spec
from tests.unit.actors.sources.test_file_source import write_rows
from tests.unit.actors.tiny import numbered_lines, run_spec, write_text


def only(spec: RunSpec) -> Example:
    (found,) = examples(spec, build_tokenizer(spec))
    return found


def test_of_a_chat_the_answers_are_marked(tmp_path: Path) -> None:
    found = only(chat_spec(tmp_path))
    read, learned = found.parts
    assert not read.learned
    assert read.text.startswith("<|im_start|>user\nHow much is ")
    assert read.text.endswith("<|im_start|>assistant\n")
    assert learned.learned
    assert learned.text.startswith("It is ")
    assert learned.text.endswith("<|im_end|>\n")
    assert f">>{learned.text}<<" in found.shown().plain
    assert 0 < found.num_learned < found.num_tokens


def test_of_a_prompt_and_a_completion_the_completion_is_marked(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"q": f"{n}? ", "a": f"{n}!"} for n in range(300)])
    paths = (str(tmp_path / "rows.jsonl"),)
    columns = {"prompt_column": "q", "completion_column": "a"}
    found = only(run_spec(CorpusSpec(paths=paths, window=48, block_bytes=512, **columns)))
    assert [part.learned for part in found.parts] == [False, True]
    assert found.parts[1].text.endswith("!<|endoftext|>")


def test_of_a_text_all_is_learned_as_far_as_a_window_goes(tmp_path: Path) -> None:
    found = only(run_spec(write_text(tmp_path, numbered_lines(200))))
    (part,) = found.parts
    assert part.learned
    assert part.text.startswith("<|endoftext|>")
    assert found.num_tokens == found.num_learned == 48


def test_a_mixture_has_an_example_of_each_source(tmp_path: Path) -> None:
    for name in "ab":
        write_rows(tmp_path / f"{name}.jsonl", [{"text": f"{name} {n}"} for n in range(300)])
    sources = tuple({"paths": [str(tmp_path / f"{name}.jsonl")]} for name in "ab")
    spec = run_spec(CorpusSpec(sources=sources, window=48, block_bytes=512))
    found = examples(spec, build_tokenizer(spec))
    assert [example.source for example in found] == [str(tmp_path / f"{n}.jsonl") for n in "ab"]


def test_of_facts_a_sentence_is_shown(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    config = load_config(str(write_config(tmp_path)), [])
    assert all(part.learned for part in only(config).parts)


def test_a_long_stretch_is_cut_in_its_middle_and_many_are_counted() -> None:
    long = "a" * SHOWN_CHARS + "b" * SHOWN_CHARS
    parts = tuple(Part(long if n == 0 else f"{n} ", n % 2 == 1) for n in range(40))
    shown = Example("x", parts, 99, 20).shown().plain
    assert "ab" not in shown
    assert "a … b" in shown
    assert shown.endswith("… and 28 more parts")


@pytest.mark.parametrize("learned", [True, False])
def test_an_example_comes_back_from_json(learned: bool) -> None:
    example = Example("x", (Part("a", learned),), 3, 1)
    assert Example.from_dict(example.as_dict()) == example
