"""Documents that a memory writes by itself."""

from __future__ import annotations

import pytest
import torch

from actors.layers.memory_layer import MemoryLayer
from actors.pair.drawing import Draws
from actors.pair.writing import write_documents
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import Exchange

WINDOW = 16


@pytest.fixture
def memory(trained: Exchange) -> MemoryLayer:
    return trained.memory.layer


def tokens_of(
    memory: MemoryLayer, tokenizer: Tokenizer, num: int = 9, **options: object
) -> list[list[int]]:
    pieces = write_documents(memory, tokenizer, num, 3, WINDOW, **options)  # type: ignore[arg-type]
    return [list(piece.tokens) for piece in pieces]


def test_documents_open_and_close_with_the_marks_and_nothing_in_them_is_given(
    memory: MemoryLayer, tokenizer: Tokenizer
) -> None:
    for piece in write_documents(memory, tokenizer, 20, 0, WINDOW, windows=2):
        assert piece.tokens[0] == tokenizer.begin
        assert piece.num_given == 0
        assert len(piece.tokens) > 2
        assert tokenizer.end not in piece.tokens[1:-1]
        assert piece.tokens[-1] == tokenizer.end or len(piece.tokens) == 2 * WINDOW - 1


@pytest.mark.parametrize("at_a_time", [1, 2, 64])
def test_a_document_is_the_same_however_many_are_written_with_it(
    memory: MemoryLayer, tokenizer: Tokenizer, at_a_time: int
) -> None:
    all_of_them = tokens_of(memory, tokenizer)
    assert tokens_of(memory, tokenizer, at_a_time=at_a_time) == all_of_them
    assert tokens_of(memory, tokenizer, num=4) == all_of_them[:4]


def test_another_seed_writes_other_documents(memory: MemoryLayer, tokenizer: Tokenizer) -> None:
    first, again, other = (write_documents(memory, tokenizer, 9, s, WINDOW) for s in (0, 0, 1))
    assert [list(p.tokens) for p in first] == [list(p.tokens) for p in again]
    assert [list(p.tokens) for p in first] != [list(p.tokens) for p in other]


def test_every_token_is_drawn_from_what_the_memory_predicts_there(
    memory: MemoryLayer, tokenizer: Tokenizer
) -> None:
    """The oracle reads each whole prefix anew and takes the token by the same draw."""
    for number, tokens in enumerate(tokens_of(memory, tokenizer, num=5, windows=1)):
        draws = Draws.of("write", 3, [number], WINDOW, torch.device("cpu"))
        for at in range(1, len(tokens)):
            prefix = torch.tensor([tokens[:at]])
            with torch.no_grad():
                logits = memory.predict(memory.read(prefix, torch.zeros_like(prefix)).y)[:, -1]
            assert draws.take(logits, at).tolist() == [tokens[at]]


def test_openings_are_continued_by_turns_and_count_as_given(
    memory: MemoryLayer, tokenizer: Tokenizer
) -> None:
    openings = [[*tokenizer.opening, *tokenizer.encode(text)] for text in ("The capital", "People")]
    pieces = write_documents(memory, tokenizer, 6, 0, WINDOW, openings)
    assert len(pieces) == 6
    for number, piece in enumerate(pieces):
        opening = openings[number % 2]
        assert list(piece.tokens[: len(opening)]) == opening
        assert piece.num_given == len(opening) < len(piece.tokens)


def test_an_opening_that_fills_a_window_or_is_empty_is_refused(
    memory: MemoryLayer, tokenizer: Tokenizer
) -> None:
    for opening in ([], [1] * WINDOW):
        with pytest.raises(ValueError, match=f"an opening has {len(opening)} tokens"):
            write_documents(memory, tokenizer, 2, 0, WINDOW, [opening])


def test_writing_touches_no_global_generator_and_no_weight(
    memory: MemoryLayer, tokenizer: Tokenizer
) -> None:
    before = torch.get_rng_state()
    weights = {name: value.clone() for name, value in memory.state_dict().items()}
    tokens_of(memory, tokenizer)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[n]) for n, value in memory.state_dict().items())
