from __future__ import annotations

from orchestrator.settings.dotted import leaves


def test_leaves_have_dotted_keys_in_order() -> None:
    values = {"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}
    assert list(leaves(values)) == [("a.b", 1), ("a.c.d", [2]), ("e", None), ("f", {})]
