"""General text: which, its split, and when evaluations show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.corpus.corpus import WindowStream, build_tokenizer
from actors.corpus.general_text import SAMPLE, general_corpus, shown_general_text
from actors.corpus.windows import Windows
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError
from tests.unit.actors.tiny import numbered_lines, run_spec, write_facts, write_text


def words(windows: Windows, tokenizer: Tokenizer) -> list[str]:
    rows = [tokenizer.decode(row.tolist()) for row in windows.tokens_NT]
    return [text for text in rows if text]


def test_the_sample_is_prose_that_no_training_and_held_out_window_share(tmp_path: Path) -> None:
    spec = run_spec(write_facts(tmp_path), tokenizer__vocab_size=300)
    corpus = general_corpus(spec, build_tokenizer(spec))
    heldout = words(corpus.heldout(1000), corpus.tokenizer)
    trained = words(WindowStream(corpus, "any").next_batch(400)[0], corpus.tokenizer)
    whole = SAMPLE.read_text(encoding="utf-8")
    assert len(heldout) > 50
    for text in (heldout[3], trained[3]):
        assert json.dumps(text[20:60], ensure_ascii=False)[1:-1] in whole
    assert not {text[:20] for text in heldout} & {text[:20] for text in trained}


def test_its_windows_are_the_same_for_every_seed(tmp_path: Path) -> None:
    one = run_spec(write_facts(tmp_path), evaluation__general_text=str(SAMPLE), seed=1)
    other = one.model_copy(update={"seed": 2})
    tokenizer = build_tokenizer(one)
    found = [shown_general_text(spec, tokenizer) for spec in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    assert (found[0].tokens_NT == found[1].tokens_NT).all()
    assert len(found[0]) == one.evaluation.general_windows


def test_fresh_weights_show_it_only_where_a_text_is_named(tmp_path: Path) -> None:
    facts = write_facts(tmp_path)
    tokenizer = build_tokenizer(run_spec(facts))
    assert shown_general_text(run_spec(facts), tokenizer) is None
    named = run_spec(facts, evaluation__general_text=str(SAMPLE))
    assert shown_general_text(named, tokenizer) is not None
    pretrained = run_spec(facts, data__layer={"pretrained": "some/model"})
    assert shown_general_text(pretrained, tokenizer) is not None
    none = run_spec(facts, data__layer={"pretrained": "some/model"}, evaluation__general_windows=0)
    assert shown_general_text(none, tokenizer) is None


def test_a_text_of_ones_own_is_read_instead(tmp_path: Path) -> None:
    own = write_text(tmp_path, numbered_lines(200))
    spec = run_spec(write_facts(tmp_path), evaluation__general_text=own.paths[0])
    tokenizer = build_tokenizer(spec)
    found = shown_general_text(spec, tokenizer)
    assert found is not None
    assert "#0" in "".join(words(found, tokenizer))


@pytest.mark.parametrize("text", [None, "too short to hold anything out"])
def test_a_missing_or_short_text_is_refused_by_the_name_of_its_setting(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "general.txt").write_text(text)
    path = str(tmp_path / "general.txt")
    spec = run_spec(write_facts(tmp_path), evaluation__general_text=path)
    with pytest.raises(ConfigError, match=r"evaluation\.general_text: .*general\.txt"):
        shown_general_text(spec, build_tokenizer(run_spec(write_facts(tmp_path))))
