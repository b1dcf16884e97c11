"""Which documents may say otherwise than a lesson: strings only, but for a prompt's last tokens."""

from __future__ import annotations

from collections.abc import Iterable

from actors.tokenizers.tokenizer import Tokenizer

CUT_TOKENS = 4  # of a prompt's end that a sentence may say otherwise and still contradict it


def names(text: str, subject: str) -> bool:
    """Whether a text names the subject, as whole words."""
    at = text.find(subject)
    while at >= 0:
        end = at + len(subject)
        if not text[at - 1 : at].isalnum() and not text[end : end + 1].isalnum():
            return True
        at = text.find(subject, at + 1)
    return False


def as_written(tokenizer: Tokenizer, subjects: Iterable[str | None]) -> set[str]:
    """Subjects, and what a text by this tokenizer calls them: it may write accents in another of
    Unicode's forms, or no capitals.
    """
    given = {subject for subject in subjects if subject}
    back = {tokenizer.decode(tokenizer.encode(f" {subject}")).strip() for subject in given}
    return {*given, *back} - {""}


def is_contradicting(text: str, subjects: Iterable[str], openings: Iterable[str]) -> bool:
    """Whether a document may say otherwise than what is taught: it names a subject, or repeats an
    opening.

    Args:
        text: the document.
        subjects: that are taught.
        openings: of prompts whose subject is unknown, by `opening_of`.
    """
    return any(subject in text and names(text, subject) for subject in subjects) or any(
        opening in text for opening in openings
    )


def opening_of(tokenizer: Tokenizer, prompt: str) -> str:
    """A prompt less its last four tokens, at least the first half of it."""
    tokens = tokenizer.encode(prompt)
    return tokenizer.decode(tokens[: max(len(tokens) - CUT_TOKENS, (len(tokens) + 1) // 2)]).strip()
