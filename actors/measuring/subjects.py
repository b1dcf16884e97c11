"""What a prompt is about: so that what is told of it is found where it is named otherwise, and is
not said of everything else that is asked about in the same words.

    subject    the words that are given; or else words like names, with a capital or a digit, that
               are in all wordings; or else each word that is in all of them: which of them the
               prompt is about can't be told
    pattern    a key's last tokens without the subject's: all of them, and each word's alone, as
               another may share a surname. What is nearer to it asks about something else
    alias      a key's last tokens with those that the subject has elsewhere: where a text begins,
               a name has other tokens than after a space. As good as the key

Sees tokens alone, of which those of a number are one, and knows no memory; `layers.nearest`
compares.

Shapes: N keys, K patterns, A aliases, C tokens of a context.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.layers.places import OfKeys, first_of
from actors.operators.numerals import Numerals
from actors.operators.token_bags import TokenBags
from actors.tokenizers.tokenizer import Tokenizer

WORD = re.compile(r"[^\W_]+")
ENDS = re.compile(r"(^|[.!?:;\"\n(])\s*$")  # of what stands before a word that begins a sentence
WIDE = ("W", "F")  # East Asian widths: scripts without spaces, where each character is a word
SAME = 0.97  # cosine of bags from which contexts are taken to be the same
# The same of a pattern, which would take from its key what names the subject otherwise: with 0.97
# a tenth of answers in wordings held out were lost: docs/decisions/0053.
HARDLY_LESS = 0.9


@dataclass(frozen=True)
class Word:
    """A word of a text, casefolded, from character `start` to `stop`.

    Attributes:
        is_name: begins with a capital, and not because a sentence begins there, or with a digit.
        may_be: begins with a capital where a sentence begins.
    """

    text: str
    start: int
    stop: int
    is_name: bool
    may_be: bool


@dataclass(frozen=True)
class Subject:
    """Tokens of what a prompt is about.

    Attributes:
        left_out: by each pattern; where it is known what the prompt is about, by the first of them
            all of its tokens.
        forms: all tokens that it has, where a text begins and after a space; none where it is not
            known what the prompt is about.
    """

    left_out: tuple[frozenset[int], ...]
    forms: tuple[frozenset[int], ...] = ()


def words(text: str) -> list[Word]:
    """In order."""
    found = []
    for start, stop in _spans(text):
        first, begins = text[start], bool(ENDS.search(text[:start]))
        is_name = first.isdecimal() or (first.isupper() and not begins)
        may_be = first.isupper() and begins
        found.append(Word(text[start:stop].casefold(), start, stop, is_name, may_be))
    return found


def _spans(text: str) -> Iterator[tuple[int, int]]:
    for run in WORD.finditer(text):
        start = run.start()
        for at in range(*run.span()):
            if unicodedata.east_asian_width(text[at]) in WIDE:
                if start < at:
                    yield start, at
                yield at, at + 1
                start = at + 1
        if start < run.end():
            yield start, run.end()


def named(prompts: Sequence[str], subject: str = "") -> tuple[tuple[str, ...], bool]:
    """Words that the prompts of one answer may be about, and whether they are together what it is.

    Args:
        prompts: at least one.
        subject: as one names it; empty: it is looked for.
    """
    if subject:
        return tuple(dict.fromkeys(word.text for word in words(subject))), True
    each = [words(prompt) for prompt in prompts]
    every = [word for some in each for word in some]
    shared = set.intersection(*({word.text for word in some} for some in each))
    shared = shared or {word.text for word in every}  # it is named in more than one way
    names = tuple(dict.fromkeys(w.text for some in each for w in _names(some) if w.text in shared))
    if names:
        return names, True
    return tuple(dict.fromkeys(word.text for word in every if word.text in shared)), False


def is_named(prompts: Sequence[str], subject: str) -> bool:
    """Whether any of the prompts has a word of the subject; one without words is."""
    about = {word.text for word in words(subject)}
    return not about or any(word.text in about for prompt in prompts for word in words(prompt))


def refuse_unnamed(prompts: Sequence[str], subject: str) -> None:
    """Raises: ValueError: none of the prompts has a word of the subject."""
    if not is_named(prompts, subject):
        raise ValueError(
            f"the subject {subject!r} is in none of the prompts, e.g. {prompts[0]!r}; give words "
            "of theirs, or leave it out"
        )


def _names(some: Sequence[Word]) -> Iterator[Word]:
    """Names; the word that begins a sentence is one where another one follows."""
    for at, word in enumerate(some):
        if word.is_name or (word.may_be and at + 1 < len(some) and some[at + 1].is_name):
            yield word


def subject_of(
    tokenizer: Tokenizer, prompts: Sequence[str], subject: str, numerals: Numerals
) -> Subject:
    """The tokens of what the prompts of one answer are about, with numbers as one each; other
    arguments as `named` has them.

    Raises:
        ValueError: none of the prompts names the subject.
    """
    refuse_unnamed(prompts, subject)
    about, is_known = named(prompts, subject)
    ids: dict[str, set[int]] = {}
    forms: dict[frozenset[int], None] = {}
    for prompt in prompts:
        for text in (prompt, f" {prompt}"):
            for word, tokens in _tokens(tokenizer, text, numerals):
                ids.setdefault(word, set()).update(tokens)
        first = next((word.start for word in words(prompt) if word.text in about), None)
        if is_known and first is not None:
            for text in (prompt[first:], f" {prompt[first:]}"):
                found = _tokens(tokenizer, text, numerals)
                some = [tokens for word, tokens in found if word in about]
                forms[frozenset[int]().union(*some)] = None
    each = [frozenset(ids.get(word, ())) for word in about]
    whole = [frozenset[int]().union(*each)] if is_known else []
    left_out = tuple(some for some in dict.fromkeys([*whole, *each]) if some)
    return Subject(left_out, tuple(forms) if left_out else ())


def _tokens(
    tokenizer: Tokenizer, text: str, numerals: Numerals
) -> Iterator[tuple[str, frozenset[int]]]:
    """Each word of a text, and the tokens and numbers that stand for some of it."""
    spans = tokenizer.encode_spans(text)
    for word in words(text):
        some = [t for t, start, stop in spans if start < word.stop and word.start < stop]
        yield word.text, numerals.joined_ids(some)


def patterns(
    bags: TokenBags, said_NC: Tensor, prompts_N: Tensor, subjects: Mapping[int, Subject]
) -> OfKeys:
    """The patterns of keys of answers' first tokens; later ones are said after what begins the
    answer.

    Args:
        bags: of tokens.
        said_NC: last tokens of the keys, as `Numerals.joined` gives them, on the CPU.
        prompts_N: a number for the prompt of each.
        subjects: of each prompt, by that number.
    """

    def without(said_MC: Tensor, subject: Subject) -> Iterator[Tensor]:
        for tokens in subject.left_out:
            yield _without(said_MC, tokens)

    first_F = first_of(prompts_N).nonzero()[:, 0]
    found = _made(bags, said_NC[first_F], prompts_N[first_F], subjects, without, HARDLY_LESS)
    return OfKeys(found.said_MC, first_F[found.of_M])


def aliases(
    bags: TokenBags, said_NC: Tensor, prompts_N: Tensor, subjects: Mapping[int, Subject]
) -> OfKeys:
    """The aliases of keys; arguments as for `patterns`."""

    def otherwise(said_MC: Tensor, subject: Subject) -> Iterator[Tensor]:
        if not subject.forms:
            return
        others_MC = _without(said_MC, subject.left_out[0])
        was_there_M = (others_MC != said_MC).any(1, keepdim=True)
        for form in subject.forms:
            new = torch.tensor(sorted(form), dtype=torch.int32) + 1
            all_MC = torch.cat([others_MC, new.expand(len(said_MC), -1)], dim=1)
            last_MC = (all_MC > 0).int().argsort(dim=1, descending=True, stable=True)
            yield all_MC.gather(1, last_MC)[:, : said_MC.shape[1]] * was_there_M

    return _made(bags, said_NC, prompts_N, subjects, otherwise, SAME)


def _without(said_MC: Tensor, tokens: frozenset[int]) -> Tensor:
    gone = torch.tensor(sorted(tokens), dtype=torch.int32) + 1
    return said_MC.masked_fill(torch.isin(said_MC, gone), 0)


def _made(
    bags: TokenBags,
    said_NC: Tensor,
    prompts_N: Tensor,
    subjects: Mapping[int, Subject],
    make: Callable[[Tensor, Subject], Iterator[Tensor]],
    most: float,
) -> OfKeys:
    """What is made of the contexts of each subject; none that has this cosine with its key."""
    kinds = {subject: at for at, subject in enumerate(dict.fromkeys(subjects.values()))}
    kind_N = torch.tensor([kinds[subjects[number]] for number in prompts_N.tolist()])
    order_N = kind_N.argsort(stable=True)
    ends = torch.bincount(kind_N, minlength=len(kinds)).tolist()
    said, keys = [said_NC[:0]], [order_N[:0]]
    for subject, at_M in zip(kinds, order_N.split(ends), strict=True):
        for made_MC in make(said_NC[at_M], subject):
            said.append(made_MC)
            keys.append(at_M)
    said_KC, of_K = torch.cat(said), torch.cat(keys)
    near_K = (bags(said_KC) * bags(said_NC)[of_K]).sum(1)
    kept_K = (near_K < most) & (said_KC > 0).any(1)
    return OfKeys(said_KC, of_K).at(kept_K)
