"""Facts, wordings, the split by lemma and the probes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from actors.sources.facts import Fact, FactTable, Probe, Wording, baseline_accuracy
from actors.wire import CorpusError
from tests.unit.actors.tiny import FACTS, TEMPLATES, write_facts

FACT = Fact("capital", "Avaria", "Korvik")


def read(folder: Path, seed: int = 0, **given: Any) -> FactTable:
    spec = write_facts(folder, **given)
    return FactTable.read(spec, list(spec.paths), seed)


def fact(relation: str, subject: str, object_: str) -> dict[str, str]:
    return {"relation": relation, "subject": subject, "object": object_}


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("The capital of [X] is [Y].", "The capital of Avaria is Korvik."),
        ("The capital of [X] is [Y]", "The capital of Avaria is Korvik."),
        ("The capital of [X] is [Y] .", "The capital of Avaria is Korvik."),
        ("[Y] is to [X] what [X] says.", "Korvik is to Avaria what Avaria says."),
    ],
)
def test_a_sentence_is_the_pattern_with_both_names_and_one_full_stop(
    pattern: str, sentence: str
) -> None:
    assert Wording(pattern, "be").sentence(FACT) == sentence


def test_an_object_that_ends_in_a_full_stop_gets_no_second_one() -> None:
    wording = Wording("[X] is ruled by [Y].", "rule")
    assert wording.sentence(Fact("ruler", "Avaria", "Otto Jr.")) == "Avaria is ruled by Otto Jr."


def test_a_pattern_that_names_the_object_twice_says_it_twice() -> None:
    sentence = Wording("[Y], yes, [X] has [Y].", "have").sentence(FACT)
    assert sentence == "Korvik, yes, Avaria has Korvik."


def test_a_prompt_is_the_sentence_up_to_the_object() -> None:
    assert Wording("The capital of [X] is [Y].", "be").prompt(FACT) == "The capital of Avaria is"


@pytest.mark.parametrize(
    ("pattern", "askable"),
    [
        ("The capital of [X] is [Y].", True),
        ("[X] has [Y]", True),
        ("[Y] is the capital of [X].", False),
        ("[X] has [Y] as its capital.", False),
        ("The city [Y] rules [X].", False),
    ],
)
def test_only_a_pattern_that_ends_in_the_object_is_askable(pattern: str, askable: bool) -> None:
    assert Wording(pattern, "be").askable == askable


def test_repeated_facts_are_kept_once_and_in_order(tmp_path: Path) -> None:
    facts = [FACTS[1], FACTS[0], FACTS[1], {**FACTS[0], "source": "elsewhere"}]
    kept = read(tmp_path, facts=facts).facts
    assert kept == (Fact(**FACTS[1]), Fact(**FACTS[0]))


def test_facts_that_differ_in_outer_spaces_are_the_same(tmp_path: Path) -> None:
    assert len(read(tmp_path, facts=[FACTS[0], {**FACTS[0], "object": " Korvik "}]).facts) == 1


def test_only_the_relations_asked_for_are_kept(tmp_path: Path) -> None:
    kept = read(tmp_path, relations=("river",)).facts
    assert {f.relation for f in kept} == {"river"}


def test_only_so_many_facts_are_kept(tmp_path: Path) -> None:
    assert read(tmp_path, max_facts=5).facts == tuple(Fact(**f) for f in FACTS[:5])


@pytest.mark.parametrize("seed", range(8))
def test_all_patterns_of_one_lemma_are_on_the_same_side(tmp_path: Path, seed: int) -> None:
    table = read(tmp_path, seed)
    for relation in TEMPLATES:
        train = {w.lemma for w in table.train_wordings[relation]}
        assert not train & {w.lemma for w in table.heldout_wordings[relation]}


@pytest.mark.parametrize("seed", range(8))
def test_every_wording_is_on_one_side(tmp_path: Path, seed: int) -> None:
    table = read(tmp_path, seed)
    for relation, rows in TEMPLATES.items():
        both = [*table.train_wordings[relation], *table.heldout_wordings[relation]]
        assert sorted(w.pattern for w in both) == sorted(row["pattern"] for row in rows)


@pytest.mark.parametrize("seed", range(8))
def test_each_relation_holds_out_as_many_lemmas_as_asked(tmp_path: Path, seed: int) -> None:
    table = read(tmp_path, seed, heldout_lemmas=2)
    assert {len({w.lemma for w in side}) for side in table.heldout_wordings.values()} == {2}


@pytest.mark.parametrize("seed", range(8))
def test_at_least_one_lemma_stays_in_training(tmp_path: Path, seed: int) -> None:
    table = read(tmp_path, seed, heldout_lemmas=99)
    assert all(table.train_wordings.values())


@pytest.mark.parametrize("seed", range(8))
def test_a_lemma_that_can_not_be_asked_is_not_held_out(tmp_path: Path, seed: int) -> None:
    table = read(tmp_path, seed)
    assert "serve" not in {w.lemma for w in table.heldout_wordings["capital"]}


def pattern(text: str, lemma: str) -> dict[str, str]:
    return {"pattern": text, "lemma": lemma}


ONE_CAN_BE_ASKED = [
    pattern("The capital of [X] is [Y].", "be"),
    pattern("[Y] rules [X].", "rule"),
    pattern("[Y] serves [X] as its capital.", "serve"),
]
TWO_CAN_BE_ASKED = [*ONE_CAN_BE_ASKED, pattern("[X] has its capital in [Y].", "have")]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num", [1, 2, 99])
def test_where_answers_are_learned_an_askable_lemma_stays_in_training(
    tmp_path: Path, seed: int, num: int
) -> None:
    templates = {"capital": TWO_CAN_BE_ASKED, "river": TEMPLATES["river"]}
    given = {"templates": templates, "loss_on": "answers", "heldout_lemmas": num}
    table = read(tmp_path, seed, **given)
    for relation in templates:
        assert any(w.askable for w in table.train_wordings[relation])
        assert any(w.askable for w in table.heldout_wordings[relation])
    assert table.unasked == {}


def test_a_relation_with_one_askable_lemma_is_trained_on_and_not_asked(tmp_path: Path) -> None:
    templates = {"capital": ONE_CAN_BE_ASKED, "river": TEMPLATES["river"]}
    table = read(tmp_path, templates=templates, loss_on="answers")
    assert "be" in {w.lemma for w in table.train_wordings["capital"]}
    assert table.unasked == {"capital": 12}
    assert {p.relation for p in table.probes(False, 100, 0)} == {"river"}
    assert read(tmp_path, templates=templates, loss_on="all").unasked == {}


def test_a_relation_of_which_nothing_would_be_learned_is_refused_by_name(tmp_path: Path) -> None:
    templates = {"capital": ONE_CAN_BE_ASKED[1:], "river": TEMPLATES["river"]}
    with pytest.raises(CorpusError, match=r"relation capital \(12 facts\) would be trained on"):
        read(tmp_path, templates=templates, loss_on="answers")
    others = read(tmp_path, templates=templates, loss_on="answers", relations=("river",))
    assert {f.relation for f in others.facts} == {"river"}


def test_facts_of_which_none_can_be_asked_in_a_wording_held_out_are_refused(
    tmp_path: Path,
) -> None:
    templates = {"capital": TEMPLATES["capital"][:1], "river": TEMPLATES["river"]}
    with pytest.raises(CorpusError, match="no relation has a wording to hold out"):
        read(tmp_path, templates=templates, max_facts=12)  # those of capitals alone


def test_different_seeds_hold_out_different_lemmas(tmp_path: Path) -> None:
    held = [read(tmp_path, seed).heldout_wordings["capital"][0].lemma for seed in range(20)]
    assert set(held) == {"be", "have", "live"}


def test_the_same_seed_holds_out_the_same_wordings(tmp_path: Path) -> None:
    assert read(tmp_path, 5).heldout_wordings == read(tmp_path, 5).heldout_wordings


def test_probes_of_unseen_wordings_ask_in_held_out_ones_alone(tmp_path: Path) -> None:
    table = read(tmp_path)
    want = {
        wording.prompt(f) for f in table.facts for wording in table.heldout_wordings[f.relation]
    }
    assert {probe.prompt for probe in table.probes(False, 10_000, 0)} == want


def test_probes_of_seen_wordings_ask_in_askable_training_ones_alone(tmp_path: Path) -> None:
    table = read(tmp_path)
    want = {
        wording.prompt(f)
        for f in table.facts
        for wording in table.train_wordings[f.relation]
        if wording.pattern.endswith("[Y].")
    }
    assert {probe.prompt for probe in table.probes(True, 10_000, 0)} == want


def test_a_probe_accepts_either_of_two_true_answers(tmp_path: Path) -> None:
    facts = [fact("capital", "Avaria", "Korvik"), fact("capital", "Avaria", "Dastan"), FACTS[1]]
    probes = read(tmp_path, facts=facts).probes(False, 100, 0)
    assert {p.answers for p in probes if p.subject == "Avaria"} == {("Korvik", "Dastan")}


def test_a_prompt_that_two_relations_share_is_asked_once(tmp_path: Path) -> None:
    templates = {
        relation: [
            {"pattern": "People link [X] with [Y].", "lemma": "link"},
            {"pattern": f"[Y] is the {relation} of [X].", "lemma": "be"},
        ]
        for relation in ("capital", "river")
    }
    facts = [fact("capital", "Avaria", "Korvik"), fact("river", "Avaria", "Oda")]
    probes = read(tmp_path, facts=facts, templates=templates).probes(False, 100, 0)
    assert [p.answers for p in probes] == [("Korvik", "Oda")]


def test_probes_are_limited_to_the_first_of_their_order(tmp_path: Path) -> None:
    table = read(tmp_path)
    assert table.probes(False, 5, 1) == table.probes(False, 100, 1)[:5]


def test_the_order_of_the_probes_depends_on_the_seed(tmp_path: Path) -> None:
    table = read(tmp_path)
    assert table.probes(False, 100, 1) != table.probes(False, 100, 2)


def test_the_majority_is_the_most_frequent_object_of_a_relation(tmp_path: Path) -> None:
    facts = [fact("river", f"x{i}", y) for i, y in enumerate("ABBCB")]
    facts += [fact("capital", f"x{i}", y) for i, y in enumerate("DCDC")]
    assert read(tmp_path, facts=facts).majority() == {"river": "B", "capital": "C"}


def test_the_baseline_is_the_share_that_the_majority_answers() -> None:
    probes = [
        Probe("river", "x", "x", ("A",), False),
        Probe("river", "x", "x", ("C", "B"), False),
        Probe("capital", "x", "x", ("B",), False),
        Probe("capital", "x", "x", ("D",), False),
    ]
    assert baseline_accuracy(probes, {"river": "B", "capital": "D"}) == 0.5


@pytest.mark.parametrize(
    "line",
    [
        '{"relation": "capital", "subject": "Avaria"',
        '["capital", "Avaria", "Korvik"]',
        '{"relation": "capital", "subject": "Avaria"}',
        '{"relation": "capital", "subject": "Avaria", "object": 7}',
        '{"relation": "capital", "subject": " ", "object": "Korvik"}',
        "null",
    ],
)
def test_a_malformed_line_is_refused_with_file_and_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(CorpusError, match=r"facts\.jsonl, line 3: "):
        read(tmp_path, facts=[FACTS[0], "", line, FACTS[1]])


def test_a_file_of_facts_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    spec = write_facts(tmp_path)
    Path(spec.paths[0]).write_bytes(json.dumps(FACTS[0]).encode() + b"\n\xff\xfe\n")
    with pytest.raises(CorpusError, match=r"facts\.jsonl: byte [0-9]+ is not UTF-8"):
        FactTable.read(spec, list(spec.paths), 0)


def test_a_missing_file_of_facts_is_refused(tmp_path: Path) -> None:
    spec = write_facts(tmp_path)
    with pytest.raises(CorpusError, match=r"gone\.jsonl: no such file"):
        FactTable.read(spec, [str(tmp_path / "gone.jsonl")], 0)


def test_an_empty_file_of_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no facts"):
        read(tmp_path, facts=[])


def test_a_relation_without_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="currency: no fact"):
        read(tmp_path, relations=("capital", "currency"))


def test_a_relation_without_wordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no wording for relation currency"):
        read(tmp_path, facts=[*FACTS, fact("currency", "Avaria", "crown")])


@pytest.mark.parametrize(
    "templates",
    [
        {"capital": TEMPLATES["capital"][:1]},
        {"capital": [TEMPLATES["capital"][4], {"pattern": "[Y] rules [X].", "lemma": "rule"}]},
    ],
)
def test_templates_with_nothing_to_hold_out_are_refused(
    tmp_path: Path, templates: dict[str, Any]
) -> None:
    with pytest.raises(CorpusError, match="no relation has a wording to hold out"):
        read(tmp_path, facts=FACTS[:3], templates=templates)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"line 1: not JSON"),
        (b"[]", "expected an object"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b'{"capital": [{"pattern": "no names", "lemma": "be"}]}', "relation capital: expected"),
        (b'{"capital": ["[X] has [Y]"]}', "relation capital: expected"),
    ],
)
def test_malformed_templates_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    spec = write_facts(tmp_path)
    (tmp_path / "templates.json").write_bytes(text)
    with pytest.raises(CorpusError, match=message):
        FactTable.read(spec, list(spec.paths), 0)


def test_missing_templates_are_refused(tmp_path: Path) -> None:
    spec = write_facts(tmp_path)
    (tmp_path / "templates.json").unlink()
    with pytest.raises(CorpusError, match=r"templates\.json: no such file"):
        FactTable.read(spec, list(spec.paths), 0)


@pytest.mark.parametrize("name", ["templates.json", "facts.jsonl"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    spec = write_facts(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CorpusError, match=rf"{name} is a pipe, expected a file"):
        FactTable.read(spec, list(spec.paths), 0)
