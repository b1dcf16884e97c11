"""What a pair is asked of a window of held-out text where there are no questions: a few of them are
shown beside what really follows. Called by the evaluator.
"""

from __future__ import annotations

from collections.abc import Sequence


def given_and_learned(
    tokens: Sequence[int], segments: Sequence[int], valid: Sequence[bool]
) -> tuple[list[int], list[int]] | None:
    """The first document of a window of which a part is only read, up to the end of that part, and
    what is learned after it: a prompt and its completion, the turns of a chat and the assistant's.
    None: all that the window has is learned.

    Args:
        tokens: of the window.
        segments: number of the document at each.
        valid: whether the next one is learned.
    """
    for at in range(2, len(tokens)):
        if valid[at - 1] and not valid[at - 2] and segments[at - 2] == segments[at]:
            end = at
            while end < len(tokens) and valid[end - 1]:
                end += 1
            return list(tokens[list(segments).index(segments[at]) : at]), list(tokens[at:end])
    return None
