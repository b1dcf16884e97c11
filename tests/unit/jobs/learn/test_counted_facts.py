"""What `tandem learn` says of the facts that it was given."""

from __future__ import annotations

from types import SimpleNamespace

from actors.sources.facts import Fact
from jobs.learn.learn import count_facts


def corpus(*facts: tuple[str, str]) -> SimpleNamespace:
    """A corpus of offices, a subject and an object each."""
    return SimpleNamespace(facts=SimpleNamespace(facts=[Fact("office", *f) for f in facts]))


def test_facts_that_the_run_has_that_contradict_it_and_each_other_are_counted() -> None:
    old = corpus(("Ada", "Graz"), ("Ben", "Porto"))
    new = corpus(
        ("Ada", "Graz"), ("Ben", "Turin"), ("Cyd", "Graz"), ("Dan", "Graz"), ("Dan", "Oslo")
    )
    assert count_facts(new, old) == {
        "given": 5,
        "in_run": 1,
        "contradicting": 1,
        "among_themselves": 2,
    }
    assert count_facts(SimpleNamespace(facts=None), old) is None
