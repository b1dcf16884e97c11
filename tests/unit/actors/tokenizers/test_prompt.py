"""The export's tokenizer for prompts: the run's own splits, documents begun, padding left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.measuring.probing import prompt_tokens
from actors.tokenizers.prompt import load_prompt_tokenizer
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError
from tests.unit.actors.tiny import FAMILIES
from tests.unit.actors.tiny_pair import exported

TEXT = "The capital of Avaria isn't Köln 🙂, 12345."


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def export(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("prompt") / "export"
    return str(folder), exported(folder, request.param)[1]


def test_a_prompt_is_what_the_evaluator_asks(export: tuple[str, Tokenizer]) -> None:
    folder, tokenizer = export
    found = load_prompt_tokenizer(folder, tokenizer)
    assert found(TEXT)["input_ids"] == prompt_tokens(tokenizer, TEXT)
    assert found.decode(found(TEXT)["input_ids"], skip_special_tokens=True) == TEXT


def test_what_goes_on_begins_no_document(export: tuple[str, Tokenizer]) -> None:
    folder, tokenizer = export
    found = load_prompt_tokenizer(folder, tokenizer)
    assert found(TEXT, add_special_tokens=False)["input_ids"] == tokenizer.encode(TEXT)


def test_padding_goes_to_the_left_and_is_masked(export: tuple[str, Tokenizer]) -> None:
    folder, tokenizer = export
    mark = tokenizer.end_of_text
    batch = load_prompt_tokenizer(folder, tokenizer)(["Avaria", ""], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    length = len(prompt_tokens(tokenizer, "Avaria"))
    assert batch["input_ids"][1] == [mark] * length
    assert batch["attention_mask"] == [[1] * length, [0] * (length - 1) + [1]]


def test_a_prompt_begins_as_documents_did_whatever_the_files_put_round_a_text(
    export: tuple[str, Tokenizer],
) -> None:
    folder, tokenizer = export
    path = Path(folder) / "data_layer" / "tokenizer.json"
    before = path.read_text(encoding="utf-8")
    described = json.loads(before)
    mark = {"SpecialToken": {"id": "Ġ", "type_id": 0}}
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [mark, {"Sequence": {"id": "A", "type_id": 0}}, mark],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"Ġ": {"id": "Ġ", "ids": [7], "tokens": ["Ġ"]}},
    }
    path.write_text(json.dumps(described), encoding="utf-8")
    try:
        found = load_prompt_tokenizer(folder, tokenizer)
    finally:
        path.write_text(before, encoding="utf-8")
    assert found(TEXT)["input_ids"] == prompt_tokens(tokenizer, TEXT)


def test_the_weights_are_left_where_they_are(export: tuple[str, Tokenizer]) -> None:
    folder, tokenizer = export
    weights = Path(folder) / "data_layer" / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    try:
        assert load_prompt_tokenizer(folder, tokenizer)("")["input_ids"] == [0]
    finally:
        weights.write_bytes(before)


def test_a_folder_without_one_is_refused(export: tuple[str, Tokenizer], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the tokenizer can't be loaded"):
        load_prompt_tokenizer(str(tmp_path), export[1])
