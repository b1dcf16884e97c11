from __future__ import annotations

from orchestrator.nodes.nodes import Node, labels_seen, total


def test_the_total_adds_up_what_all_nodes_have() -> None:
    nodes = [Node({"CPU": 2.0, "GPU": 0.5}), Node({"CPU": 1.0})]
    assert total(nodes) == {"CPU": 3.0, "GPU": 0.5}


def test_labels_are_counted_and_rays_own_ids_left_out() -> None:
    nodes = [Node({}, {"pool": "a", "ray.io/node-id": str(i)}) for i in range(2)]
    assert labels_seen([*nodes, Node({})]) == "pool=a (2 node(s))"
    assert labels_seen([Node({})]) == "none"


def test_the_head_is_known_by_its_mark() -> None:
    assert Node({"node:__internal_head__": 1.0}).is_head
    assert not Node({"CPU": 1.0}).is_head
