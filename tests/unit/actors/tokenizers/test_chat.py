"""Chats as tokens: the text is transformers', and what is learned is the assistant's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerFast

from actors.sources.chats import read_chat
from actors.tokenizers.chat import ChatTokens, checked_template
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError, CorpusError
from tests.unit.actors.chats import CHATML, INST, MARKED, TALK, THINKING, chat_tokenizer

Messages = list[dict[str, Any]]


def place() -> str:
    return "rows.jsonl, line 7"


def encoded(
    tokenizer: Tokenizer, messages: Messages, tools: Any = None, num_given: int = 0
) -> list[ChatTokens]:
    (found,) = tokenizer.chat.encode([read_chat(messages, tools, place, num_given)])
    return found


def learned(tokenizer: Tokenizer, piece: ChatTokens) -> list[str]:
    """The stretches of a piece that are learned, as text."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], piece.learn_T, [False]])))
    spans = zip(edges[::2], edges[1::2], strict=True)
    return [tokenizer.decode(piece.tokens_T[start:stop].tolist()) for start, stop in spans]


def theirs(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("template", [CHATML, MARKED, INST])
def test_the_tokens_are_those_of_transformers(tmp_path: Path, template: str) -> None:
    tokenizer = chat_tokenizer(tmp_path, template)
    messages = TALK if template != INST else TALK[1:]
    (piece,) = encoded(tokenizer, messages)
    want = theirs(tmp_path).apply_chat_template(messages, tokenize=True)
    assert piece.tokens_T.tolist() == want["input_ids"]


def test_what_the_template_marks_is_learned_as_transformers_marks_it(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, MARKED)
    (piece,) = encoded(tokenizer, TALK)
    want = theirs(tmp_path).apply_chat_template(
        TALK, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert piece.learn_T.tolist() == [bool(mark) for mark in want["assistant_masks"]]
    assert learned(tokenizer, piece) == ["Korvik.<|im_end|>", "Dastan is.<|im_end|>"]


def test_without_marks_the_turns_are_learned_and_nothing_else(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, CHATML)
    (piece,) = encoded(tokenizer, TALK)
    assert learned(tokenizer, piece) == ["Korvik.<|im_end|>\n", "Dastan is.<|im_end|>\n"]


def test_special_tokens_are_ids_there_and_text_elsewhere(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, CHATML)
    (piece,) = encoded(tokenizer, TALK)
    end = tokenizer.vocabulary()["<|im_end|>"]
    assert np.count_nonzero(piece.tokens_T == end) == len(TALK)
    assert end not in tokenizer.encode("a<|im_end|>b")


def test_a_template_without_a_generation_prompt_leaves_the_answers(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, INST)
    (piece,) = encoded(tokenizer, TALK[1:])
    text = tokenizer.decode(piece.tokens_T[~piece.learn_T].tolist())
    assert text == "[INST] The capital of Avaria? [/INST][INST] And of Belmont? [/INST]"
    eos = tokenizer.vocabulary()["</s>"]
    assert piece.learn_T[piece.tokens_T == eos].all()


def test_turns_that_are_written_otherwise_later_are_learned_each_by_itself(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, THINKING)
    pieces = encoded(tokenizer, TALK)
    thought = "<think>\n\n</think>\n\n"
    assert [learned(tokenizer, piece) for piece in pieces] == [
        [f"{thought}Korvik.<|im_end|>\n"],
        [f"{thought}Dastan is.<|im_end|>\n"],
    ]
    for piece, num in zip(pieces, (3, 5), strict=True):
        want = theirs(tmp_path).apply_chat_template(TALK[:num], tokenize=True)
        assert piece.tokens_T.tolist() == want["input_ids"]


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_given_turn_of_the_assistant_is_read_only(tmp_path: Path, template: str) -> None:
    tokenizer = chat_tokenizer(tmp_path, template)
    (piece,) = encoded(tokenizer, TALK, num_given=4)
    assert [text.strip() for text in learned(tokenizer, piece)] == ["Dastan is.<|im_end|>"]


def test_tools_and_calls_and_system_turns_are_in_the_text(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, CHATML)
    call = {"function": {"name": "look", "arguments": {"of": "Avaria"}}}
    messages = [
        *TALK[:2],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Korvik"},
        {"role": "assistant", "content": "It is Korvik."},
    ]
    (piece,) = encoded(tokenizer, messages, tools=[{"name": "look"}])
    text = tokenizer.decode(piece.tokens_T.tolist())
    assert text.startswith('<|im_start|>tools\n[{"name": "look"}]<|im_end|>\n<|im_start|>system\n')
    first, second = learned(tokenizer, piece)
    assert '"name": "look"' in first
    assert second == "It is Korvik.<|im_end|>\n"


def test_one_of_several_templates_is_chosen_by_whether_there_are_tools(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": MARKED}]
    tokenizer = chat_tokenizer(tmp_path, None, chat_template=templates)
    (plain,), (tools,) = encoded(tokenizer, TALK), encoded(tokenizer, TALK, tools=[{"name": "f"}])
    assert learned(tokenizer, plain)[0].endswith("\n")
    assert learned(tokenizer, tools)[0].endswith("<|im_end|>")


def test_a_template_by_file_replaces_the_tokenizers_own_and_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    chat_tokenizer(folder, INST)
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text(INST)
    tokenizer = Tokenizer.from_pretrained(str(folder), chat_template=MARKED)
    again = Tokenizer.from_json(tokenizer.to_json())
    for tools in (None, [{"name": "f"}]):
        (piece,) = encoded(again, TALK, tools)
        assert learned(again, piece) == ["Korvik.<|im_end|>", "Dastan is.<|im_end|>"]
    (tmp_path / "exported").mkdir()
    again.write(tmp_path / "exported")
    assert theirs(tmp_path / "exported").chat_template == MARKED


def test_a_tokenizer_that_was_trained_here_takes_a_template_by_file(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["the land and the river"] * 9, 300, chat_template=INST)
    again = Tokenizer.from_json(tokenizer.to_json())
    (piece,) = encoded(again, TALK[1:])
    assert piece.tokens_T[0] == piece.tokens_T[-1] == again.end
    again.write(tmp_path)
    assert theirs(tmp_path).chat_template == INST


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no chat template: .*set tokenizer\.chat_template"):
        encoded(chat_tokenizer(tmp_path, None), TALK)


def test_a_template_that_fails_is_named_with_the_line_of_the_row(tmp_path: Path) -> None:
    said = r"^rows\.jsonl, line 7: the chat template can't write it: .*Only user and assistant"
    with pytest.raises(CorpusError, match=said):
        encoded(chat_tokenizer(tmp_path, INST), TALK)


def test_a_turn_that_does_not_begin_as_it_is_opened_is_refused(tmp_path: Path) -> None:
    template = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>model\n' }}")
    said = r"line 7, message 3: the chat template opens .*'model.* goes on with 'assistant"
    with pytest.raises(CorpusError, match=said):
        encoded(chat_tokenizer(tmp_path, template), TALK)


def test_a_template_that_leaves_out_the_answers_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(CorpusError, match=r"line 7: nothing in it would be learned"):
        encoded(chat_tokenizer(tmp_path, template), TALK)


def test_a_template_reads_no_clock(tmp_path: Path) -> None:
    """A run that is resumed on another day has to read the same tokens."""
    clock = "{% if strftime_now is defined %}{{ strftime_now('%Y-%m-%d') }}{% endif %}"
    tokenizer = chat_tokenizer(tmp_path, clock + CHATML)
    (piece,) = encoded(tokenizer, TALK)
    assert tokenizer.decode(piece.tokens_T.tolist()).startswith("26 Jul 2024<|im_start|>")
    assert learned(tokenizer, piece)[0] == "Korvik.<|im_end|>\n"


@pytest.mark.parametrize("template", [CHATML, MARKED, INST, THINKING])
def test_a_template_that_can_be_read_is_left_as_it_is(template: str) -> None:
    assert checked_template(template) == template


def test_a_template_that_is_none_is_refused_with_its_line() -> None:
    with pytest.raises(TemplateSyntaxError, match=r"'endfor'"):
        checked_template("{% for m in messages %}\n{{ m }}")


@pytest.mark.parametrize(
    ("template", "ends"),
    [(CHATML, ["<|im_end|>", "</s>"]), (INST, ["</s>"]), (None, ["</s>"])],
)
def test_an_answer_ends_where_the_turn_or_the_document_does(
    tmp_path: Path, template: str | None, ends: list[str]
) -> None:
    tokenizer = chat_tokenizer(tmp_path, template)
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.ends == {theirs(tmp_path).convert_tokens_to_ids(end) for end in ends}


def test_an_answer_of_a_trained_tokenizer_ends_with_its_mark() -> None:
    tokenizer = Tokenizer.train(["a text"], 300)
    assert tokenizer.ends == {tokenizer.end}
