"""What is told is said, kept apart from the table, and taken back to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.corpus.corpus import Corpus, train_tokenizer
from actors.corpus.kept_windows import kept_windows, positions_of
from actors.layers.kept_reads import KeptReads, number_of
from actors.layers.named_writes import Association, NamedWrite, NamedWrites
from actors.layers.pair import Pair
from actors.layers.places import SAME, OfKeys, Places
from actors.machine.progress import unseen
from actors.measuring.probing import answer_tokens, decodes_to, pad_right, prompt_tokens
from actors.measuring.told_keys import locate, sequences, unsure_tokens
from actors.operators.token_bags import TOKENS
from actors.pair import table_writes, telling
from actors.pair.table_writes import Naming, calibrated, read_sum, solved_write, withheld
from actors.settings.run import MEMORY
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from tests.unit.actors.tiny import COUNTRIES, memory_spec, run_spec, write_facts
from tests.unit.actors.tiny_pair import CPU, shake

# Shapes: N positions, D the memory's width.
TOWNS = [town for _, town in COUNTRIES]
NAMES = [name for name, _ in COUNTRIES]


class Told:
    """A pair with fresh weights (writing needs no training), its tokenizer and kept reads.

    `by_rows`: it is told as by earlier versions, and as memories addressed by n-grams are.
    """

    def __init__(self, folder: Path, by_rows: bool = False, vocab: int = 300, **layer: Any) -> None:
        self.by_rows = by_rows
        sizes = {"slots_side": 24, "dim": 32, "topk": 8, "key_dim": 16, **layer}
        spec = run_spec(
            write_facts(folder),
            memory__layer=memory_spec(**sizes).model_dump(),
            tokenizer__vocab_size=vocab,
        )
        self.tokenizer: Tokenizer = train_tokenizer(spec)
        data = build_data_layer(spec, self.tokenizer, CPU)
        memory = build_memory_layer(spec, self.tokenizer, data.vocab_rows, CPU)
        self.pair = shake(Pair(data, memory))
        self.memory = self.pair.memory
        self.memory.kept = kept_windows(Corpus.open(spec, self.tokenizer), MEMORY, 60)
        self.kept = KeptReads.of(self.memory, self.memory.kept)

    def tell(self, prompt: str, answer: str, *wordings: str) -> str:
        id = telling.free_id(self.memory.writes)
        self.write(id, [Association(prompt, answer, wordings)])
        return id

    def write(
        self, id: str, some: Sequence[Association], kept: KeptReads | None = None
    ) -> NamedWrite:
        kept = self.kept if kept is None else kept
        if not self.by_rows:
            return telling.tell(self.memory, self.tokenizer, some, kept, id)
        if id in self.memory.writes:
            raise ValueError(f"there is a write {id!r} already; give another id")
        located = locate(self.memory, sequences(self.tokenizer, some))
        about = Naming(id, 0.0, tuple(some))
        write = solved_write(self.memory, located, about, kept, telling.LOUDER, unseen)
        self.memory.writes = calibrated(self.memory, self.memory.writes.add(write), kept)
        return write

    def says(self, prompts: Sequence[str], answers: Sequence[str], voice: str = "memory") -> float:
        tokens = [prompt_tokens(self.tokenizer, prompt) for prompt in prompts]
        wanted = [answer_tokens(self.tokenizer, answer) for answer in answers]
        right = decodes_to(self.pair, voice, tokens, wanted)  # type: ignore[arg-type]
        return sum(right) / len(right)

    def freshness(self, prompts: Sequence[str]) -> Tensor:
        """At the last token of each."""
        tokens_BT, segments_BT = pad_right(
            [prompt_tokens(self.tokenizer, prompt) for prompt in prompts], 0, CPU
        )
        ends = [len(prompt_tokens(self.tokenizer, prompt)) - 1 for prompt in prompts]
        freshness_BT = self.memory.read(tokens_BT, segments_BT).freshness
        assert freshness_BT is not None
        return freshness_BT[torch.arange(len(ends)), torch.tensor(ends)]

    def kept_y(self) -> Tensor:
        return self.memory.read_at(self.kept.u_MD).y

    def kept_sums(self) -> Tensor:
        return read_sum(self.memory, self.memory.writes, self.kept.reads)[0]


@pytest.fixture(params=[False, True], ids=["found", "solved"])
def told(tmp_path: Path, request: pytest.FixtureRequest) -> Told:
    return Told(tmp_path, by_rows=request.param)


@pytest.fixture
def solved(tmp_path: Path) -> Told:
    return Told(tmp_path, by_rows=True)


@pytest.fixture
def found(tmp_path: Path) -> Told:
    return Told(tmp_path)


def asked(name: str) -> str:
    return f"The seat of {name} is"


def test_what_is_told_is_said_by_the_memory_and_with_it_from_its_first_token_to_its_last(
    told: Told,
) -> None:
    prompts = [asked(name) for name in NAMES]
    assert told.says(prompts, TOWNS) < 0.2
    one = [Association(p, town, (f"{p} still",)) for p, town in zip(prompts, TOWNS, strict=True)]
    told.write("all", one)
    assert told.says(prompts, TOWNS) == 1
    assert told.says([f"{prompt} still" for prompt in prompts], TOWNS) == 1
    assert told.says(prompts, TOWNS, "help") == 1
    assert told.says(prompts, TOWNS, "own") < 0.2
    located = locate(told.memory, sequences(told.tokenizer, one))
    freshness_N = told.memory.read_at(located.u_ND).freshness
    assert freshness_N is not None
    assert freshness_N.min() > 0.9


def test_a_solved_write_meets_what_is_wanted_to_its_stated_residual(solved: Told) -> None:
    write = solved.write("all", [Association(asked(n), town) for n, town in COUNTRIES])
    assert write.figures["residual"] < 1e-5


def test_what_is_told_leaves_no_trace_where_kept_text_is_read_and_no_row(found: Told) -> None:
    before_MD = found.kept_y()
    write = found.write("all", [Association(asked(n), town) for n, town in COUNTRIES])
    assert not len(write.rows_U)
    torch.testing.assert_close(found.kept_y(), before_MD, atol=1e-3, rtol=1e-3)


def test_nothing_of_what_was_taken_back_or_of_the_order_is_left_in_what_is_read(
    found: Told,
) -> None:
    ids = torch.tensor([prompt_tokens(found.tokenizer, asked(name)) for name in NAMES[:1]])
    for name, town in COUNTRIES[:3]:
        found.tell(asked(name), town)
    telling.untell(found.memory, "2", found.kept)
    left = found.memory.read(ids, torch.zeros_like(ids))
    found.memory.writes = NamedWrites()
    for name, town in (COUNTRIES[0], COUNTRIES[2]):
        found.tell(asked(name), town)
    never = found.memory.read(ids, torch.zeros_like(ids))
    assert torch.equal(left.y, never.y)
    found.memory.writes = replace(
        found.memory.writes, writes=tuple(reversed(found.memory.writes.writes))
    )
    torch.testing.assert_close(found.memory.read(ids, torch.zeros_like(ids)).y, never.y)


def test_what_is_told_is_found_in_a_wording_that_shares_its_rare_tokens_and_not_of_another(
    found: Told,
) -> None:
    """A fresh encoder puts these prompts anywhere; the tokens that they share tell them apart."""
    associations = [Association(asked(name), town) for name, town in COUNTRIES]
    prompts = [f"Which seat, of {name}, is it? It is" for name in NAMES]
    found.write("all", associations)
    assert found.says(prompts, TOWNS) > 0.5  # names are of letters that patterns have too
    telling.untell(found.memory, "all", found.kept)
    found.write("most", associations[1:])
    assert found.says(prompts[:1], TOWNS[:1]) == 0


def test_what_is_told_of_one_is_not_said_of_others_that_are_asked_about_in_the_same_words(
    tmp_path: Path,
) -> None:
    """Nothing is kept that could say that others have other answers."""
    found = Told(tmp_path, vocab=900)  # names are tokens, other words are letters
    people = [" ".join(NAMES[at : at + 4]) for at in (0, 4, 8)]
    prompts = [asked(name) for name in people]
    write = found.write(
        "one", [Association(prompts[0], "ferret")], kept=KeptReads.none(found.memory)
    )
    assert found.freshness(prompts[:1]).item() > 0.99
    others_B = found.freshness(prompts[1:])
    assert others_B.mean() < 0.1
    assert found.freshness([f"It is {people[0]} whose seat is"]).item() > 0.8
    assert write.places is not None
    nothing = OfKeys.none(TOKENS)
    unlike = replace(write, places=replace(write.places, patterns=nothing, aliases=nothing))
    found.memory.writes = NamedWrites().add(unlike)
    assert found.freshness(prompts[1:]).min() > 0.9


def test_a_prompt_without_a_word_is_told_too(found: Told) -> None:
    found.tell("->", "ferret", "=>")
    assert found.says(["->", "=>"], ["ferret"] * 2) == 1


def test_a_subject_that_no_prompt_names_is_refused_and_nothing_is_told(found: Told) -> None:
    with pytest.raises(ValueError, match="'cat' is in none of the prompts"):
        found.write("one", [Association("my dog is called", "Rex", subject="cat")])
    assert not found.memory.writes.writes


def test_keys_of_whose_tokens_there_is_no_other_text_are_read_as_they_are_wanted(
    found: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    associations = [Association(asked(name), town) for name, town in COUNTRIES]
    quick = found.write("all", associations)
    found.memory.writes = NamedWrites()
    assert quick.places is not None
    looked_at = telling._crowded(found.memory.writes, quick.places, found.kept.places)
    assert len(looked_at) < len(quick.keys.targets_N)
    monkeypatch.setattr(
        telling, "_crowded", lambda _, places, __: torch.arange(len(places.said_NC))
    )
    slow = found.write("all", associations)
    assert torch.equal(quick.keys.counts_N, slow.keys.counts_N)
    for name, value in slow.figures.items():
        if name != "seconds":
            assert quick.figures[name] == pytest.approx(value, rel=1e-3), name


def test_kept_text_of_a_changed_fact_counts_no_more_and_of_others_as_before(found: Told) -> None:
    old = found.kept.places
    said_NC, nothing = old.said_OC[:1], [OfKeys.none(old.said_OC.shape[1])] * 2
    places = Places.of(
        F.normalize(torch.randn(1, old.u_OD.shape[1]), dim=1),
        said_NC,
        torch.zeros(1, 0),
        torch.zeros(1, dtype=torch.int64),
        old.targets_O[:1],  # what the memory was sure of there
        old,
        *nothing,
    )
    assert old.contexts_O[0] in places.gone_G
    alike_O = old.bags_OW @ old.bags_OW[0] > SAME
    of_fact_O = alike_O & (old.targets_O == old.targets_O[0])
    assert sorted(places.gone_G.tolist()) == sorted(old.contexts_O[of_fact_O].tolist())
    unsure = Places.of(
        places.u_ND,
        said_NC,
        places.m_ND,
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([-1]),
        old,
        *nothing,
    )
    assert not len(unsure.gone_G)


def test_a_memory_whose_addresses_hardly_tell_texts_apart_says_what_it_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded = Told(tmp_path, by_rows=True, slots_side=5, topk=5, heads=1)
    with monkeypatch.context() as patch:
        patch.setattr(table_writes, "LOUDEST", 1.0)
        quiet = crowded.tell(asked("Avaria"), "Dastan")
        assert crowded.says([asked("Avaria")], ["Dastan"]) == 0
        telling.untell(crowded.memory, quiet, crowded.kept)
    crowded.tell(asked("Avaria"), "Dastan")
    assert crowded.says([asked("Avaria")], ["Dastan"]) == 1
    (write,) = crowded.memory.writes
    assert write.keys.counts_N.max() > 1
    crowded.tell(asked("Borvia"), "Kelm")  # what counts more also stays
    assert crowded.says([asked("Avaria")], ["Dastan"]) == 1


def test_the_table_and_rows_that_no_key_reads_keep_their_bits(solved: Told) -> None:
    told = solved
    before = {name: p.clone() for name, p in told.memory.named_parameters()}
    told.tell(asked("Avaria"), "Dastan")
    assert all(torch.equal(p, before[name]) for name, p in told.memory.named_parameters())
    (write,) = told.memory.writes
    read = locate(told.memory, sequences(told.tokenizer, write.associations)).reads.slots_NE
    assert torch.equal(write.rows_U, read.unique())


def test_old_reads_change_less_with_kept_reads_than_without(told: Told) -> None:
    before_MD = told.kept_y()

    def change(kept: KeptReads) -> float:
        id = telling.free_id(told.memory.writes)
        one = [Association("The capital of Avaria is", "Dastan")]
        told.write(id, one, kept)
        found = float((told.kept_y() - before_MD).norm())
        told.memory.writes = told.memory.writes.remove(id)
        return found

    nothing = told.kept.at(torch.zeros(0, dtype=torch.int64))
    assert change(told.kept) < 0.7 * change(nothing)


def test_with_everything_taken_back_predictions_have_their_old_bits(told: Told) -> None:
    ids = torch.tensor([prompt_tokens(told.tokenizer, asked("Avaria"))])
    segments = torch.zeros_like(ids)
    before = told.memory.read(ids, segments)
    names = [told.tell(asked(name), town) for name, town in COUNTRIES[:5]]
    assert not torch.equal(told.memory.read(ids, segments).y, before.y)
    for name in (names[2], names[0], names[4], names[1], names[3]):
        telling.untell(told.memory, name, told.kept)
    after = told.memory.read(ids, segments)
    assert torch.equal(after.y, before.y)
    assert after.freshness is None


def test_what_is_told_twice_is_said_as_it_was_told_last(told: Told) -> None:
    first = told.tell(asked("Avaria"), "Dastan")
    second = told.tell(asked("Avaria"), "Elbor")
    assert told.says([asked("Avaria")], ["Elbor"]) == 1
    assert told.says([asked("Avaria")], ["Elbor"], "help") == 1
    telling.untell(told.memory, second, told.kept)
    assert told.says([asked("Avaria")], ["Dastan"]) == 1
    told.tell(asked("Avaria"), "Elbor")
    telling.untell(told.memory, first, told.kept)
    assert told.says([asked("Avaria")], ["Elbor"]) == 1, "solved again without the first"


def test_a_write_switched_off_is_not_read_and_switched_on_again_is(told: Told) -> None:
    names = [told.tell(asked(name), town) for name, town in COUNTRIES[:4]]
    prompts = [asked(name) for name in NAMES[:4]]
    telling.switch(told.memory, names[0], False, told.kept)
    assert told.says(prompts[:1], TOWNS[:1]) == 0
    assert told.says(prompts[1:], TOWNS[1:4]) == 1
    telling.switch(told.memory, names[0], True, told.kept)
    assert told.says(prompts, TOWNS[:4]) == 1
    assert [write.id for write in told.memory.writes] == names


def test_forty_writes_in_a_row_keep_the_first_and_move_old_reads_little(tmp_path: Path) -> None:
    # more rows than these writes have keys, which differ enough
    told = Told(tmp_path, by_rows=True, slots_side=48, heads=4)
    # a fresh encoder tells prompts apart by their last tokens
    prompts = [f"Where is {NAMES[n % 12]} {n}{n}" for n in range(40)]
    answers = [TOWNS[(7 * n + n // 12) % 12] for n in range(40)]
    before_MD = told.kept_sums()

    def moved() -> float:
        return float((told.kept_sums() - before_MD)[~withheld(told.kept)].norm())

    all_of_them = [Association(p, answer) for p, answer in zip(prompts, answers, strict=True)]
    told.write("all", all_of_them)
    at_once = moved()
    told.memory.writes = NamedWrites()
    for prompt, answer in zip(prompts, answers, strict=True):
        told.tell(prompt, answer)
    assert told.says(prompts[:20], answers[:20]) >= 0.95
    assert told.says(prompts, answers) >= 0.95
    assert moved() < 8 * at_once, "4.5 times; 15 times where what has moved is not brought back"


def test_the_same_telling_gives_the_same_bits(told: Told, tmp_path: Path) -> None:
    again = Told(tmp_path, by_rows=told.by_rows)
    for one in (told, again):
        one.tell(asked("Avaria"), "Dastan")
        one.tell(asked("Belmont"), "Elbor")
    for ours, theirs in zip(told.memory.writes, again.memory.writes, strict=True):
        both = ours.to_tensors(), theirs.to_tensors()
        assert both[0].keys() == both[1].keys()
        assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())


def test_generation_with_a_cache_has_the_freshness_of_a_whole_pass(told: Told) -> None:
    from actors.measuring.probing import decode_greedily
    from actors.measuring.voices import predict_everywhere

    told.tell(asked("Avaria"), "Dastan")
    prompt = prompt_tokens(told.tokenizer, asked("Avaria"))
    (decoded,) = decode_greedily(told.pair, "help", [prompt], told.tokenizer.end)
    whole = torch.tensor([[*prompt, *decoded.tokens]])
    said = predict_everywhere(told.pair, "help", whole, torch.zeros_like(whole))
    assert said.freshness is not None
    assert said.mixing is not None
    at = slice(len(prompt) - 1, -1)
    torch.testing.assert_close(torch.tensor(decoded.freshness), said.freshness[0, at])
    torch.testing.assert_close(torch.tensor(decoded.mixing), said.mixing[0, at])
    assert min(decoded.freshness) > 0.8


def one(prompt: str, answer: str, *wordings: str) -> list[Association]:
    return [Association(prompt, answer, wordings)]


@pytest.mark.parametrize(
    ("associations", "message"),
    [
        ([], "nothing to tell"),
        (one("  ", "Dastan"), "empty prompt"),
        (one("The seat is", " . "), "holds no word"),
        (one("The seat is", "Dastan", "  "), "empty prompt"),
        (one("a b c d e f " * 9, "Dastan"), "reads at most 48"),
        ([*one("The seat is", "Dastan"), *one("The seat is ", "Elbor")], "two answers at once"),
    ],
)
def test_what_cannot_be_told_is_refused_and_nothing_changes(
    told: Told, associations: list[Association], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        telling.tell(told.memory, told.tokenizer, associations, told.kept, "x", longest=48)
    assert not len(told.memory.writes)


def test_a_known_id_is_refused_and_an_unknown_one_is_named(told: Told) -> None:
    id = told.tell(asked("Avaria"), "Dastan")
    with pytest.raises(ValueError, match="is a write '1' already"):
        telling.tell(told.memory, told.tokenizer, one("a", "b"), told.kept, id)
    with pytest.raises(KeyError, match="no write '7'; told and not taken back: 1"):
        telling.untell(told.memory, "7", told.kept)


def test_the_sample_is_of_trained_windows_the_same_each_time_and_of_its_size(
    tmp_path: Path,
) -> None:
    spec = run_spec(write_facts(tmp_path))
    corpus = Corpus.open(spec, train_tokenizer(spec))
    first, second = (kept_windows(corpus, MEMORY, 40) for _ in "ab")
    assert (first.tokens_NT == second.tokens_NT).all()
    whole = corpus.chunk(MEMORY, 0)
    rows = {row.tobytes() for row in whole.tokens_NT}
    assert all(row.tobytes() in rows for row in first.tokens_NT)
    counted = positions_of(first)
    assert counted.sum() >= 40 > counted.sum() - counted.max()
    assert len(kept_windows(corpus, MEMORY, 0)) == 0


def test_kept_reads_are_those_of_training_at_positions_with_something_to_predict(
    told: Told,
) -> None:
    from actors.layers.batch import rows_at, to_batch

    assert told.memory.kept is not None
    batch = to_batch(told.memory.kept, CPU)
    read = told.memory.read(batch.tokens_BT, batch.segments_BT)
    slots = rows_at(read.slots, batch.valid_at_N).flatten(1)
    assert torch.equal(told.kept.reads.slots_NE, slots)
    assert torch.equal(told.kept.targets_M, batch.targets_N)
    row, at = (int(places[0]) for places in batch.host.valid_BT.nonzero())
    segment = batch.host.segments_BT[row]
    tokens = batch.tokens_BT[row, : at + 1][torch.from_numpy(segment[: at + 1] == segment[at])]
    assert int(told.kept.contexts_M[0]) == number_of(tokens.tolist())
    few = KeptReads.of(told.memory, told.memory.kept, most=7)
    assert len(few) == 7
    assert len(replace(told.kept, most_solved=5).few) == 5


def test_a_write_survives_its_tensors_and_json(told: Told) -> None:
    told.tell(asked("Avaria"), "Dastan", "Rule over Avaria sits in")
    (write,) = told.memory.writes
    again = NamedWrite.from_tensors(write.to_tensors(), write.to_json())
    taught = replace(write, taught=True)
    assert (again.taught, "taught" in write.to_json()) == (False, False)
    assert NamedWrite.from_tensors(taught.to_tensors(), taught.to_json()).taught
    told.memory.writes = replace(told.memory.writes, writes=(again,))
    assert told.says([asked("Avaria")], ["Dastan"], "help") == 1


def test_what_the_data_layer_was_taught_is_known_to_the_memory_and_never_fresh(found: Told) -> None:
    some = [Association(asked("Avaria"), "Dastan", ())]
    ids = torch.tensor([prompt_tokens(found.tokenizer, asked("Avaria"))])
    segments = torch.zeros_like(ids)
    telling.tell(found.memory, found.tokenizer, some, found.kept, "told")
    fresh = found.memory.read(ids, segments)
    found.memory.writes = NamedWrites()
    telling.tell(found.memory, found.tokenizer, some, found.kept, "taught", taught=True)
    taught = found.memory.read(ids, segments)
    assert torch.equal(taught.y, fresh.y)
    assert found.says([asked("Avaria")], ["Dastan"]) == 1
    assert fresh.freshness is not None
    assert taught.freshness is not None
    assert fresh.freshness[0, -1] > 0.9
    assert taught.freshness.eq(0).all()
    write = replace(found.memory.writes.writes[0], unsure={7: 9.0})
    assert torch.equal(NamedWrites((write,)).unsure_at, NamedWrites().unsure_at)


def test_only_tokens_that_are_said_unsurely_are_noted_each_with_its_highest_entropy() -> None:
    targets_N, entropy_N = torch.tensor([5, 5, 6, 7]), torch.tensor([3.0, 4.0, 0.5, 1.8])
    found = unsure_tokens(targets_N, entropy_N)
    assert found == {5: 4.0, 7: pytest.approx(1.8)}


def test_a_number_is_not_another_one_of_the_same_digits(found: Told) -> None:
    found.tell("Order 1041 was shipped to", "Dastan")
    same, *others = found.freshness(
        [f"Order {number} was shipped to" for number in (1041, 1014, 1042, 4110, 104, 10411)]
    )
    assert same > 0.99
    assert max(others) < 0.1
    again = found.freshness(["Order 1041 went to"])
    assert again.item() > 0.9


def test_numbers_are_told_apart_after_a_write_was_kept(found: Told) -> None:
    found.tell("Order 1041 was shipped to", "Dastan")
    (write,) = found.memory.writes
    assert write.places is not None
    assert len(write.places.numerals) >= 10
    before = found.freshness(["Order 1014 was shipped to"])
    kept = NamedWrite.from_tensors(write.to_tensors(), write.to_json())
    found.memory.writes = NamedWrites().add(kept)
    assert torch.equal(found.freshness(["Order 1014 was shipped to"]), before)


def test_what_names_no_number_keeps_none_and_is_read_as_before(found: Told) -> None:
    found.tell("The capital of Atlantis is", "Dastan")
    (write,) = found.memory.writes
    assert write.places is not None
    assert "places.numerals" not in write.to_tensors()
