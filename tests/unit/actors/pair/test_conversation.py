"""A conversation is continued where the corpus of chats has the assistant's turn begin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.corpus.corpus import Corpus
from actors.corpus.kept_windows import kept_windows
from actors.layers.named_writes import Association
from actors.layers.pair import Pair
from actors.pair.conversation import conversation_ids, has_template, turn_ends
from actors.pair.speech import SpeechOptions, speak
from actors.pair.tandem_model import TandemModel, load_tandem_model
from actors.sources.chats import read_chat
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.weights.pair_export import export_pair
from actors.wire import ConfigError
from tests.unit.actors.chats import CHATML, INST, MARKED, TALK, chat_tokenizer
from tests.unit.actors.tiny import run_spec, write_facts
from tests.unit.actors.tiny_pair import shake
from tests.unit.jobs.serve.served import call, served


def chat_model(folder: Path, template: str) -> TandemModel:
    tokenizer = chat_tokenizer(folder / "tokenizer", template)
    (folder / "corpus").mkdir()
    spec = run_spec(write_facts(folder / "corpus"))
    device = torch.device("cpu")
    data = build_data_layer(spec, tokenizer, device)
    pair = shake(Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, device)))
    pair.memory.kept = kept_windows(Corpus.open(spec, tokenizer), "memory", 64)
    export_pair(spec, tokenizer, pair, str(folder / "pair"))
    return load_tandem_model(str(folder / "pair"))


@pytest.mark.parametrize("template", [CHATML, MARKED, INST])
def test_a_conversation_is_continued_as_chats_were_learned(tmp_path: Path, template: str) -> None:
    model = chat_model(tmp_path, template)
    assert has_template(model)
    assert model.words is not None
    talk = TALK if template != INST else TALK[1:]
    ids = conversation_ids(model, talk[:-1])
    pieces = model.words.chat.encode([read_chat(talk, None, lambda: "here")])[0]
    learned = pieces[-1]
    assert learned.tokens_T[: len(ids)].tolist() == ids
    assert not learned.learn_T[len(ids) - 1]
    said = model.words.decode(learned.tokens_T[len(ids) :].tolist())
    assert said.strip().startswith("Dastan is.")


def test_what_a_template_refuses_is_said(tmp_path: Path) -> None:
    model = chat_model(tmp_path, INST)
    with pytest.raises(ConfigError, match="refuses them: Only user and assistant roles"):
        conversation_ids(model, TALK[:-1])
    with pytest.raises(ConfigError, match="one of the user last"):
        conversation_ids(model, TALK)
    with pytest.raises(ConfigError, match="at least one"):
        conversation_ids(model, [])


@pytest.mark.parametrize("template", [CHATML, INST])
def test_what_is_told_as_a_chat_is_what_the_assistant_answers_and_is_kept(
    tmp_path: Path, template: str
) -> None:
    model = chat_model(tmp_path, template)
    asked = [{"role": "user", "content": "And of Atlantis?"}]
    assert len(turn_ends(model)) == 1
    options = SpeechOptions("memory", max_tokens=12, ends=turn_ends(model))
    ids = conversation_ids(model, asked)
    [before] = speak(model, [ids], options)
    model.tell(Association("And of Atlantis?", "Dastan", as_chat=True))
    [after] = speak(model, [ids], options)
    assert after.text.strip() == "Dastan."
    assert after.why == "stop"  # the turn's end was told too
    model.save(tmp_path / "saved")
    again = load_tandem_model(str(tmp_path / "saved"))
    assert again.told()[0].associations[0].as_chat
    assert speak(again, [ids], options) == [after]
    model.untell("1")
    assert speak(model, [ids], options) == [before]


def test_what_is_told_as_a_chat_over_http_is_the_next_answer_of_the_chat(tmp_path: Path) -> None:
    chat_model(tmp_path, CHATML)
    turn = {"role": "user", "content": "And of Atlantis?"}
    with served(str(tmp_path / "pair")) as url:
        body = {"prompt": turn["content"], "answer": "Dastan", "as_chat": True}
        status, told = call(url, "/v1/tell", body)
        assert (status, told["said"][0]["right"]) == (200, True), told
        asked = {"messages": [turn], "max_tokens": 12}
        status, reply = call(url, "/v1/chat/completions", asked)
        assert (status, reply["choices"][0]["message"]["content"].strip()) == (200, "Dastan.")
        assert reply["choices"][0]["finish_reason"] == "stop"
