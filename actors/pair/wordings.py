"""Other wordings of a sentence, found in text that the memory wrote: strings only, no tokens.

Two sentences that name one subject and end in one object say the same of it, so that what stands
between is two wordings of one relation. A template is a sentence up to its object with [X] in the
place of the subject: "The capital of [X] is". Called by `proposing` and by teaching.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from actors.sources.facts import SUBJECT

MOST_WORDS = 24  # of a sentence that is read
SUBJECT_WORDS, OBJECT_WORDS = 6, 4  # at most
MIN_SUBJECTS, MIN_OBJECTS = 3, 2  # on which two wordings have to meet
MIN_AGREED = 0.5  # share of the subjects said in both wordings that have one object in both
CLOSINGS = ("'s", "’s", ",", ":", ";")  # after a subject, and no part of it
ENOUGH_FRAC = 0.005  # of all sentences: as many subjects make a template half believable


@dataclass(frozen=True)
class MinedWording:
    """Another wording of a template.

    Attributes:
        template: up to the object, with [X].
        support: distinct pairs of subject and object that were written in both wordings.
        agreed_frac: of the subjects written in both, the share that has one object in both.
    """

    template: str
    support: int
    agreed_frac: float


class WrittenText:
    """Sentences, and what they say.

    Args:
        texts: documents; those that are no single sentence with a full stop say nothing here.

    Attributes:
        documents: each once, without spaces around it.
        sentences: of those that say something, less the full stop, sorted.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.documents = {text.strip() for text in texts}
        self.sentences = sorted(
            text[:-1].rstrip()
            for text in self.documents
            if text.endswith(".") and 3 <= text.count(" ") + 1 <= MOST_WORDS
        )

    def said(self, template: str) -> set[tuple[str, str]]:
        """Every (subject, object) that a sentence says in this wording."""
        return {pair for sentence in self.sentences for pair in readings(sentence, template)}

    def objects(self, templates: Iterable[str]) -> Counter[str]:
        """What these wordings end in, with numbers of distinct subjects."""
        pairs = {pair for template in templates for pair in self.said(template)}
        return Counter(obj for _, obj in pairs)

    def mine(self, template: str, most: int = 8) -> list[MinedWording]:
        """Other wordings of `template`, the best supported first.

        Counted are those on which at least three subjects and two objects meet, and of whose
        subjects no more than half have another object there: where two relations often have one
        answer, as birthplace and place of death, they meet by chance, and differ elsewhere.
        """
        own = self.said(template)
        subjects: defaultdict[str, set[str]] = defaultdict(set)
        for subject, obj in own:
            subjects[obj].add(subject)
        met: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        for sentence in self.sentences:
            for head, obj in _heads(sentence):
                for subject in subjects.get(obj, ()):
                    if (other := _without(head, subject)) not in (None, template):
                        met[str(other)].add((subject, obj))
        found = []
        for other, pairs in met.items():
            if (
                len({s for s, _ in pairs}) < MIN_SUBJECTS
                or len({o for _, o in pairs}) < MIN_OBJECTS
            ):
                continue
            agreed_frac = _agreed(own, self.said(other))
            if agreed_frac >= MIN_AGREED:
                found.append(MinedWording(other, len(pairs), agreed_frac))
        return sorted(found, key=lambda w: (-w.support, w.template))[:most]

    def template_of(self, prompt: str) -> tuple[str, str] | None:
        """The template and the subject of a prompt; None where nothing like it was written.

        Of all spans of words the one is taken that leaves many words of the prompt and was written
        with many other subjects: so that neither "[X] is" wins, nor "Paris [X] of", which was
        written with a few of its own verbs.
        """
        words, enough = prompt.split(" "), max(MIN_SUBJECTS, ENOUGH_FRAC * len(self.sentences))
        best: tuple[float, str, str] | None = None
        for i, j in _spans(len(words)):
            template, subject = _cut_out(words, i, j)
            others = len(self._subjects.get(template, frozenset()) - {subject})
            if others < MIN_SUBJECTS:
                continue
            score = (len(words) - (j - i)) * others / (others + enough)
            if best is None or score > best[0]:
                best = score, template, subject
        return None if best is None else (best[1], best[2])

    @cached_property
    def _subjects(self) -> dict[str, set[str]]:
        """By template, the subjects that may be written in it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for sentence in self.sentences:
            for head, _ in _heads(sentence):
                words = head.split(" ")
                for i, j in _spans(len(words)):
                    template, subject = _cut_out(words, i, j)
                    found[template].add(subject)
        return found


def readings(sentence: str, template: str) -> Iterator[tuple[str, str]]:
    """Every (subject, object) with which a sentence, less its full stop, is the template's."""
    before, _, after = template.partition(SUBJECT)
    if not sentence.startswith(before) or after not in sentence:
        return
    rest = sentence[len(before) :]
    after = f"{after} "
    at = rest.find(after)
    while at > 0:
        subject, obj = rest[:at], rest[at + len(after) :]
        if _is_name(subject, SUBJECT_WORDS) and _is_name(obj, OBJECT_WORDS):
            yield subject, obj
        at = rest.find(after, at + 1)


def template_with(prompt: str, subject: str) -> str | None:
    """The template of a prompt whose subject is known; None: it does not name it."""
    return _without(prompt.strip(), subject)


def _agreed(own: set[tuple[str, str]], other: set[tuple[str, str]]) -> float:
    mine, theirs = _by_subject(own), _by_subject(other)
    both = mine.keys() & theirs.keys()
    return sum(bool(mine[s] & theirs[s]) for s in both) / max(1, len(both))


def _by_subject(pairs: set[tuple[str, str]]) -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for subject, obj in pairs:
        found[subject].add(obj)
    return found


def _heads(sentence: str) -> Iterator[tuple[str, str]]:
    """Every way to cut an object off the end of a sentence: what is before it, and it."""
    words = sentence.split(" ")
    for num in range(1, min(OBJECT_WORDS, len(words) - 2) + 1):
        yield " ".join(words[:-num]), " ".join(words[-num:])


def _without(head: str, subject: str) -> str | None:
    """The text with [X] where it first names the subject; None: it does not, or has no other
    word.
    """
    at = head.find(subject)
    while at >= 0:
        end = at + len(subject)
        if not head[at - 1 : at].isalnum() and not head[end : end + 1].isalnum():
            return None if head == subject else head[:at] + SUBJECT + head[end:]
        at = head.find(subject, at + 1)
    return None


def _spans(num_words: int) -> Iterator[tuple[int, int]]:
    """Where a subject may be among so many words: never all of them."""
    for i in range(num_words):
        for j in range(i + 1, min(i + SUBJECT_WORDS, num_words) + 1):
            if j - i < num_words:
                yield i, j


def _cut_out(words: Sequence[str], i: int, j: int) -> tuple[str, str]:
    """The words with [X] for those from i to j, and these; what closes them stays outside."""
    subject = " ".join(words[i:j])
    for closing in CLOSINGS:
        if subject.endswith(closing) and len(subject) > len(closing):
            subject = subject[: -len(closing)]
            return " ".join([*words[:i], SUBJECT + closing, *words[j:]]), subject
    return " ".join([*words[:i], SUBJECT, *words[j:]]), subject


def _is_name(text: str, most_words: int) -> bool:
    return text.strip() == text != "" and text.count(" ") < most_words


def wordings_of(
    written: WrittenText, templates: Sequence[str], most: int = 8
) -> dict[str, list[MinedWording]]:
    """Mined wordings of each template."""
    return {template: written.mine(template, most) for template in dict.fromkeys(templates)}
