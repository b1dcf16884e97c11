"""`taught.json`: what a run that teaches did to every lesson and to what is beside them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from actors.wire import LessonAnswer, Taught
from orchestrator.loop.schedule import AGREEMENT_TOLERANCE, HARDLY, NO, YES
from orchestrator.run_dir.run_status import RunStatus

LEARNED, REWORDED, NOT_LEARNED = "taught", "in other wordings too", "not taught"
MIN_REFLECTED = 0.9  # of the changed answers that the memory has to give
MOST_EXAMPLES = 20  # of lost answers that are written down


def taught_json(
    taught: Taught,
    facts: dict[str, Any],
    summary: dict[str, Any],
    wall_s: float,
) -> dict[str, Any]:
    """All of it.

    Args:
        taught: the answers after teaching.
        facts: what was given and made before it, by `tandem teach`.
        summary: of the run.
        wall_s: seconds of the run; those of what came before are among the facts.
    """
    seconds = wall_s + float(facts.get("prepare_s", 0.0))
    return {
        **facts,
        "name": summary["name"],
        "seconds": seconds,
        "figures": figures(taught, summary, seconds),
        "lessons": [{**asdict(one), "state": lesson_state(one)} for one in taught.lessons],
        "lost": [asdict(one) for one in taught.lost[:MOST_EXAMPLES]],
        "lost_neighbours": [asdict(one) for one in taught.lost_neighbours[:MOST_EXAMPLES]],
        "memory_lost": [asdict(one) for one in taught.memory_lost[:MOST_EXAMPLES]],
    }


def figures(taught: Taught, summary: dict[str, Any], seconds: float) -> dict[str, float | None]:
    """The figures of a teaching; None: nothing was there to count."""
    lessons = taught.lessons
    states = [lesson_state(one) for one in lessons]
    changed = [one for one in lessons if one.changed]
    before = (summary.get("before") or {}).get("heldout", {}).get("own_loss")
    now = summary["heldout"].get("own_loss")
    return {
        "lessons": float(len(lessons)),
        "taught": _share([state in (LEARNED, REWORDED) for state in states]),
        "taught_with_memory": _share(["help" in one.right for one in lessons]),
        "taught_memory": _share(["memory" in one.right for one in lessons]),
        "other_wordings": _of_wordings(lessons),
        "kept_lost": _ratio(len(taught.lost), taught.num_kept),
        "neighbours_lost": _ratio(len(taught.lost_neighbours), taught.num_neighbours),
        "memory_kept_lost": _ratio(len(taught.memory_lost), taught.num_kept),
        "text_lost_frac": None if not before or now is None else now / before - 1,
        "changed": float(len(changed)),
        "reflected": _share([one.followed for one in changed]),
        "bits": sum(one.bits for one in lessons),
        "bits_per_lesson": _ratio(sum(one.bits for one in lessons), len(lessons)),
        "s_per_lesson": _ratio(seconds, len(lessons)),
    }


def reflects(found: dict[str, float | None]) -> str | None:
    """Why the memory does not reflect what was taught; None: it does."""
    share = found["reflected"]
    if share is None or share >= MIN_REFLECTED:
        return None
    return (
        f"of {found['changed']:.0f} answers that the data layer changed the memory gives "
        f"{share:.1%}, below {MIN_REFLECTED:.0%}; teach with more --steps, or have the "
        "memory follow by gradient steps (--no-tell)"
    )


def judged(found: dict[str, float | None], summary: dict[str, Any]) -> dict[str, Any]:
    """What changes in a summary where lessons were taught: its verdict is of what was taught.

    A memory that gives the changed answers too, and agrees with the data layer on the text as well
    as it did before, reflects it, however much that is: the run itself was judged by it once.
    """
    if (why := reflects(found)) is not None:
        return {"status": RunStatus.UNREFLECTED, "reflects_final": False,
                "reflects_final_verdict": NO, "reflects_final_reason": why}  # fmt: skip
    before = (summary.get("before") or {}).get("heldout", {}).get("recall_agreement")
    now, share = summary["final_agreement"], found["reflected"]
    if (
        summary["reflects_final_verdict"] != HARDLY
        or share is None
        or before is None
        or now < before - AGREEMENT_TOLERANCE
    ):
        return {}
    return {"reflects_final": True, "reflects_final_verdict": YES, "reflects_final_reason": (
        f"the memory gives {share:.0%} of the answers that the data layer changed; on the text "
        f"that it wrote both agree on {now:.2f} of the tokens, before teaching on {before:.2f}"
    )}  # fmt: skip


def _of_wordings(lessons: Sequence[LessonAnswer]) -> float | None:
    return _ratio(sum(one.reworded_right for one in lessons), sum(one.reworded for one in lessons))


def _share(which: Sequence[bool]) -> float | None:
    return _ratio(sum(which), len(which))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole and math.isfinite(part) else None


def lesson_state(lesson: LessonAnswer) -> str:
    """Whether the data layer alone gives the wanted answer: as taught, in its other wordings too,
    or not.
    """
    if "own" not in lesson.right:
        return NOT_LEARNED
    if lesson.reworded and lesson.reworded_right == lesson.reworded:
        return REWORDED
    return LEARNED
