"""Which text answers a question. Knows no tokens and no layers: called by `probing`, and by the
report, which marks the right ones.
"""

from __future__ import annotations

import unicodedata

JOINS = "'’-‐‑_·"  # where a letter or a digit follows, the word goes on
HALF = "\N{REPLACEMENT CHARACTER}"  # a character of which not all bytes were generated


def is_answered(text: str, answer: str, prompt: str = "") -> bool:
    """Whether `text` gives `answer`, whole and nothing longer, with or without a closing mark.

    The answer comes first, after white space. Then comes nothing, or what closes a word: a full
    stop, a comma, a new line, any character that is no part of a word. After a space the text may
    go on, but not in a capital or a digit: "Guinea Bissau" is another answer than "Guinea". Signs
    that are the same to Unicode (NFKC) are the same here: many tokenizers give back no others.

    Args:
        text: what follows the question.
        answer: what is wanted; a full stop at its end is no part of it.
        prompt: the question, in whose last word `text` may continue; then it is no answer.
    """
    text, answer = (unicodedata.normalize("NFKC", one) for one in (text, answer))
    wanted = answer.strip().rstrip(" .")
    rest = text.lstrip()
    if not wanted or not rest.startswith(wanted) or (_is_word(prompt[-1:]) and rest == text):
        return False
    after = rest[len(wanted) :]
    if _is_word(after[:1]) or (after[:1] in JOINS and _is_word(after[1:2])):
        return False
    following = after.lstrip(" ")
    return following == after or not (following[:1].isupper() or following[:1].isdigit())


def _is_word(character: str) -> bool:
    """Whether a character, or none, is part of a word."""
    return character != "" and (
        character.isalnum() or character == HALF or unicodedata.category(character)[0] == "M"
    )
