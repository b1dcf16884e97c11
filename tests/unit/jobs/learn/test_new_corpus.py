"""The corpus that a finished run is given, as a spec that fits the run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from actors.settings.corpus import CorpusSpec
from actors.sources.corpus_sources import open_sources
from actors.wire import ConfigError
from jobs.learn.learn import STEPS, default_steps
from jobs.learn.new_corpus import (
    LEAST_STEPS,
    any_corpus,
    columns_in,
    facts_corpus,
    fitting_steps,
    text_corpus,
)
from orchestrator.settings.config import Config, make_config
from tests.unit.actors.chats import talks
from tests.unit.actors.sources.test_file_source import write_rows
from tests.unit.actors.tiny import FACTS, TEMPLATES, numbered_lines, write_facts, write_text
from tests.unit.orchestrator.scripted import kept_model

NEW = {"relation": "capital", "subject": "Marovia", "object": "Pelk"}


def config_of(corpus: CorpusSpec) -> Config:
    return Config(corpus=corpus)


@pytest.fixture
def of_facts(tmp_path: Path) -> Config:
    (tmp_path / "own").mkdir()
    return config_of(
        write_facts(tmp_path / "own", max_facts=20, loss_on="answers", token_noise=0.1)
    )


@pytest.fixture
def of_text(tmp_path: Path) -> Config:
    (tmp_path / "own").mkdir()
    return config_of(write_text(tmp_path / "own", numbered_lines(100)))


@pytest.fixture
def new_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in the working directory, by its name."""
    (tmp_path / "new.jsonl").write_text(json.dumps(NEW) + "\n")
    monkeypatch.chdir(tmp_path)
    return "new.jsonl"


def test_facts_are_said_and_held_out_as_those_of_the_run(of_facts: Config, new_facts: str) -> None:
    own, given = of_facts.corpus, facts_corpus(of_facts, new_facts, None)
    assert given.templates == own.templates
    assert (given.window, given.token_noise) == (own.window, 0.1)
    assert (given.loss_on, given.max_facts) == ("answers", None)
    (_, table), (_, own_table) = open_sources(given, 3), open_sources(own, 3)
    assert table is not None
    assert own_table is not None
    assert table.heldout_wordings["capital"] == own_table.heldout_wordings["capital"]
    assert [fact.subject for fact in table.facts] == ["Marovia"]


def test_beside_a_model_that_stays_the_corpus_says_how_long_it_is_learned(
    of_facts: Config, tmp_path: Path
) -> None:
    rows = [NEW | {"subject": f"Mar{number}"} for number in range(200)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    many = facts_corpus(of_facts, str(tmp_path / "many.jsonl"), None)
    assert default_steps(of_facts, many) == STEPS
    beside = make_config({"corpus": of_facts.corpus.model_dump(), **kept_model(tmp_path)})
    assert beside.data.layer.keeps_model
    # 200 facts in 4 wordings of 14 tokens, seven times, in batches of 16 windows of 48
    assert (
        default_steps(beside, many) == fitting_steps(many, 16, 0) == 7 * 200 * 4 * 14 // (16 * 48)
    )
    assert fitting_steps(many, 64, 0) == LEAST_STEPS


def test_a_path_is_relative_to_the_working_directory(
    of_facts: Config, new_facts: str, tmp_path: Path
) -> None:
    assert facts_corpus(of_facts, new_facts, None).paths == (f"{tmp_path}/new.jsonl",)
    assert facts_corpus(of_facts, "s3://b/new.jsonl", None).paths == ("s3://b/new.jsonl",)


def test_facts_for_a_run_of_text_need_wordings(of_text: Config, new_facts: str) -> None:
    with pytest.raises(ConfigError, match=r"new.jsonl: facts need wordings.*--templates"):
        facts_corpus(of_text, new_facts, None)
    Path("t.json").write_text(json.dumps(TEMPLATES))
    assert facts_corpus(of_text, new_facts, "t.json").loss_on == "answers"


def test_a_broken_line_of_the_facts_is_named_by_file_and_number(
    of_facts: Config, new_facts: str
) -> None:
    Path(new_facts).write_text(json.dumps(NEW) + "\n\n" + '{"relation": "capital"}\n')
    with pytest.raises(ConfigError, match=r"new.jsonl, line 3: expected"):
        open_sources(facts_corpus(of_facts, new_facts, None), 0)


def test_a_relation_without_wordings_is_named(of_facts: Config, new_facts: str) -> None:
    Path(new_facts).write_text(json.dumps({**NEW, "relation": "mountain"}) + "\n")
    with pytest.raises(ConfigError, match="no wording for relation mountain"):
        open_sources(facts_corpus(of_facts, new_facts, None), 0)


@pytest.mark.parametrize("num_lines", [60, 2000])
def test_of_a_short_text_too_some_is_held_out(of_facts: Config, num_lines: int) -> None:
    folder = Path(of_facts.corpus.paths[0]).parent
    write_text(folder, numbered_lines(num_lines))
    given = text_corpus(of_facts, str(folder / "text.txt"))
    (source,), _ = open_sources(given, 0)
    assert list(source.heldout())
    assert source.num_blocks > 10
    assert given.window == of_facts.corpus.window


def test_a_text_that_is_not_there_is_named(of_facts: Config) -> None:
    with pytest.raises(ConfigError, match=r"none.txt: no such file"):
        text_corpus(of_facts, "/nowhere/none.txt")


def test_facts_are_known_by_their_first_line(
    of_facts: Config, new_facts: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "A word."}) + "\n")
    (tmp_path / "plain.txt").write_text(json.dumps(FACTS[0]) + "\n" * 400)
    assert any_corpus(of_facts, new_facts, None).kind == "facts"
    assert any_corpus(of_facts, "rows.jsonl", None).kind == "text"
    assert any_corpus(of_facts, "plain.txt", None).kind == "text"
    assert any_corpus(of_facts, "plain.txt", of_facts.corpus.templates).kind == "facts"


def test_a_pipe_is_refused_and_not_waited_for(
    of_facts: Config, new_facts: str, tmp_path: Path
) -> None:
    pipe = str(tmp_path / "pipe.jsonl")
    os.mkfifo(pipe)
    for read in (
        lambda: text_corpus(of_facts, pipe),
        lambda: any_corpus(of_facts, pipe, None),
        lambda: open_sources(facts_corpus(of_facts, pipe, None), 3),
        lambda: open_sources(facts_corpus(of_facts, new_facts, pipe), 3),
    ):
        with pytest.raises(ConfigError, match=r"pipe\.jsonl is a pipe, expected a file"):
            read()


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"text": "a", "messages": []}, {}),
        ({"messages": []}, {"messages_column": "messages"}),
        (
            {"messages": [], "tools": []},
            {"messages_column": "messages", "tools_column": "tools"},
        ),
        (
            {"prompt": "a", "completion": "b"},
            {"prompt_column": "prompt", "completion_column": "completion"},
        ),
        (["a"], {}),
    ],
)
def test_chats_and_prompts_are_known_by_the_usual_names_of_their_columns(
    of_text: Config, tmp_path: Path, row: object, columns: dict[str, str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(row) + "\n") * 40)
    assert columns_in(str(path)) == columns
    given = text_corpus(of_text, str(path))
    assert {name: getattr(given, name) for name in columns} == columns


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "a"}, r"expected text, or messages, or .*, got question; rename what"),
        ({"prompt": "a"}, r"prompt and completion, got prompt; rename"),
        (FACTS[0], r"got relation, subject, object; these are facts, no text"),
    ],
)
def test_rows_without_a_column_of_those_names_are_refused(
    of_text: Config, tmp_path: Path, row: object, says: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=rf"rows\.jsonl: its rows have no column .*{says}"):
        text_corpus(of_text, str(path))


def test_of_parquet_the_columns_are_known_too(of_text: Config, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, talks(60))
    assert columns_in(str(path)) == {"messages_column": "messages"}
    assert text_corpus(of_text, str(path)).messages_column == "messages"
    write_rows(path, [{"text": "a", "messages": "b"}])
    assert columns_in(str(path)) == {}
    path.write_bytes(b"no table")
    with pytest.raises(ConfigError, match=r"rows\.parquet: not a whole Parquet file"):
        columns_in(str(path))
