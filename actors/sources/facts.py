"""Facts, their wordings, the split of the wordings, and the probes made from them.

Wordings are held out by verb lemma: patterns that differ by a comma or a tense are on the same side
of the split. Nothing here tokenises.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from actors.settings.corpus import CorpusSpec
from actors.sources.text_file import EncodingError, lines_of, read_text
from actors.storage import storage_errors
from actors.wire import CorpusError, TandemError

SUBJECT, OBJECT = "[X]", "[Y]"


@dataclass(frozen=True)
class Fact:
    """One row of the table."""

    relation: str
    subject: str
    object: str


@dataclass(frozen=True)
class Wording:
    """One sentence pattern of a relation, with [X] for the subject and [Y] for the object."""

    pattern: str
    lemma: str

    @property
    def askable(self) -> bool:
        """Whether the object comes last and after a space, so that the rest can be a prompt."""
        head, _, tail = self.pattern.partition(OBJECT)
        return SUBJECT in head and not tail.strip(" .") and head.endswith(" ")

    def sentence(self, fact: Fact) -> str:
        """The fact in this wording, ending in one full stop."""
        parts = [part.replace(SUBJECT, fact.subject) for part in self.pattern.split(OBJECT)]
        return fact.object.join(parts).rstrip(" .") + "."

    def prompt(self, fact: Fact) -> str:
        """The wording up to the object."""
        return self.pattern.partition(OBJECT)[0].replace(SUBJECT, fact.subject).rstrip()


@dataclass(frozen=True)
class Probe:
    """A prompt and every answer that counts as right."""

    relation: str
    subject: str
    prompt: str
    answers: tuple[str, ...]
    seen: bool  # whether its wording was trained on


@dataclass(frozen=True)
class FactTable:
    """Facts without repeats, and the wordings of each relation on both sides of the split."""

    facts: tuple[Fact, ...]
    train_wordings: dict[str, tuple[Wording, ...]]
    heldout_wordings: dict[str, tuple[Wording, ...]]

    @classmethod
    def read(cls, spec: CorpusSpec, files: Sequence[str], seed: int) -> FactTable:
        """Reads JSONL facts and JSON templates, compressed ones too.

        Raises:
            CorpusError: with file and line number where a line is malformed; nothing left to hold
                out or to train on.
        """
        assert spec.templates is not None
        wordings = read_templates(spec.templates)
        facts: dict[Fact, None] = {}
        for path in files:
            for fact in read_facts(path):
                if spec.relations is None or fact.relation in spec.relations:
                    facts[fact] = None
        relations = sorted({fact.relation for fact in facts})
        if spec.relations is not None and (missing := sorted(set(spec.relations) - set(relations))):
            raise CorpusError(
                f"corpus.relations: {', '.join(missing)}: no fact of it in {', '.join(spec.paths)}"
            )
        if not facts:
            raise CorpusError(
                f"corpus {', '.join(spec.paths)}: no facts; give JSONL lines of relation, "
                "subject, object"
            )
        if unworded := [r for r in relations if r not in wordings]:
            raise CorpusError(f"{spec.templates}: no wording for relation {', '.join(unworded)}")
        kept = tuple(facts)[: spec.max_facts]
        train, heldout = {}, {}
        for relation in relations:
            train[relation], heldout[relation] = _split(
                wordings[relation],
                spec.heldout_lemmas,
                f"{seed}:{relation}",
                spec.loss_on == "answers",
            )
        if spec.loss_on == "answers":
            _refuse_untaught(spec, kept, train)
        if not any(heldout[fact.relation] for fact in kept):
            needs = (
                "two lemmas with a wording that ends in [Y]"
                if spec.loss_on == "answers"
                else "two lemmas, one of them ending in [Y]"
            )
            raise CorpusError(
                f"{spec.templates}: no relation has a wording to hold out (needs {needs}, and "
                "corpus.heldout_lemmas >= 1)"
            )
        return cls(kept, train, heldout)

    @property
    def unasked(self) -> dict[str, int]:
        """Relations without a probe in a held-out wording, with their numbers of facts: too few of
        their lemmas have an askable wording.
        """
        asked = {r for r, side in self.heldout_wordings.items() if any(w.askable for w in side)}
        return dict(Counter(fact.relation for fact in self.facts if fact.relation not in asked))

    def majority(self) -> dict[str, str]:
        """Each relation's most frequent object; among equals, the first in the alphabet."""
        counts: dict[str, Counter[str]] = {}
        for fact in self.facts:
            counts.setdefault(fact.relation, Counter())[fact.object] += 1
        return {r: min(c, key=lambda o: (-c[o], o)) for r, c in counts.items()}

    def probes(self, seen: bool, limit: int, seed: int) -> list[Probe]:
        """Up to `limit` probes, each prompt once, in an order that depends on the seed alone.

        A prompt that several facts share (two true answers, or one wording for two relations)
        accepts the object of each.
        """
        side = self.train_wordings if seen else self.heldout_wordings
        by_prompt: dict[str, list[Fact]] = {}
        for fact in self.facts:
            for wording in side[fact.relation]:
                if wording.askable:
                    by_prompt.setdefault(wording.prompt(fact), []).append(fact)
        prompts = sorted(by_prompt)
        random.Random(f"probes:{seed}:{seen}").shuffle(prompts)
        probes = []
        for prompt in prompts[:limit]:
            facts = by_prompt[prompt]
            answers = tuple(dict.fromkeys(fact.object for fact in facts))
            probes.append(Probe(facts[0].relation, facts[0].subject, prompt, answers, seen))
        return probes


def baseline_accuracy(probes: Sequence[Probe], majority: dict[str, str]) -> float:
    """Share of the probes for which their relation's most frequent object is a right answer."""
    return sum(majority[p.relation] in p.answers for p in probes) / max(1, len(probes))


def _split(
    wordings: Sequence[Wording], num_lemmas: int, seed: str, answers_only: bool
) -> tuple[tuple[Wording, ...], tuple[Wording, ...]]:
    """Training and held-out wordings. At least one lemma stays in training; where only answers are
    learned, one with an askable wording, since the others are not trained on.
    """
    lemmas = sorted({w.lemma for w in wordings})
    askable = [lemma for lemma in lemmas if any(w.askable for w in wordings if w.lemma == lemma)]
    most = max(0, len(askable if answers_only else lemmas) - 1)
    random.Random(seed).shuffle(askable)
    held_out = set(askable[: min(num_lemmas, most)])
    return tuple(w for w in wordings if w.lemma not in held_out), tuple(
        w for w in wordings if w.lemma in held_out
    )


def _refuse_untaught(
    spec: CorpusSpec, facts: Sequence[Fact], train: dict[str, tuple[Wording, ...]]
) -> None:
    """Raises: CorpusError naming the relations that have no askable wording in training."""
    untaught = {r for r, wordings in train.items() if not any(w.askable for w in wordings)}
    lost = Counter(fact.relation for fact in facts if fact.relation in untaught)
    if lost:
        named = ", ".join(f"{relation} ({num} facts)" for relation, num in sorted(lost.items()))
        raise CorpusError(
            f"{spec.templates}: with corpus.loss_on 'answers' no fact of relation {named} would be "
            "trained on: none of its training wordings ends in [Y] after a space. Add one, "
            "leave it out by corpus.relations, or set corpus.loss_on: all"
        )


def read_templates(path: str) -> dict[str, list[Wording]]:
    """The wordings of each relation. Raises: CorpusError: it can't be read, or is malformed."""
    try:
        raw = json.loads(_text("corpus.templates", path))
    except json.JSONDecodeError as err:
        raise CorpusError(
            f"corpus.templates {path}, line {err.lineno}: not JSON: {err.msg}"
        ) from err
    if not isinstance(raw, dict):
        raise CorpusError(
            f"corpus.templates {path}: expected an object relation -> list, got "
            f"{type(raw).__name__}"
        )
    wordings: dict[str, list[Wording]] = {}
    for relation, rows in raw.items():
        for row in rows if isinstance(rows, list) else [rows]:
            pattern = row.get("pattern") if isinstance(row, dict) else None
            if not isinstance(pattern, str) or SUBJECT not in pattern or OBJECT not in pattern:
                raise CorpusError(
                    f'corpus.templates {path}, relation {relation}: expected {{"pattern": "… [X] '
                    '… [Y] …", "lemma": "…"}}, '
                    f"got {json.dumps(row)[:80]}"
                )
            wordings.setdefault(relation, []).append(
                Wording(pattern.strip(), str(row.get("lemma", pattern)))
            )
    return wordings


def read_facts(path: str) -> list[Fact]:
    """The facts of a JSONL file. Raises: CorpusError: it can't be read; or the malformed line."""
    return [
        _parse_fact(path, number, line)
        for number, line in enumerate(lines_of(_text("corpus file", path)), start=1)
        if line.strip()
    ]


def _text(what: str, path: str) -> str:
    try:
        with storage_errors(f"{what} {path}", "can't be read"):
            return read_text(path)
    except TandemError:
        raise
    except EncodingError as err:
        raise CorpusError(f"{what} {path}: {err}") from err
    except FileNotFoundError as err:
        raise CorpusError(f"{what} {path}: no such file; give an existing one") from err
    except Exception as err:  # remote file systems and decompressors have errors of their own
        raise CorpusError(f"{what} {path}: can't be read: {err}") from err


def _parse_fact(path: str, number: int, line: str) -> Fact:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as err:
        raise CorpusError(
            f"{path}, line {number}: not JSON: {err.msg} at column {err.colno}"
        ) from err
    values = [
        row.get(key) if isinstance(row, dict) else None for key in ("relation", "subject", "object")
    ]
    if not all(isinstance(v, str) and v.strip() for v in values):
        raise CorpusError(
            f'{path}, line {number}: expected {{"relation": "…", "subject": "…", "object": "…"}}, '
            f"got {line.strip()[:80]}"
        )
    return Fact(*(str(v).strip() for v in values))
