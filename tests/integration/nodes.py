"""A cluster of nodes on this machine with its dashboard, in a process of its own, until its stdin
is closed: `python -m tests.integration.nodes NUM_WORKERS`. Prints its addresses as JSON.
"""

from __future__ import annotations

import json
import socket
import sys

from ray.cluster_utils import Cluster


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": True,
            "dashboard_port": free_port(),
            "dashboard_agent_listen_port": free_port(),
        },
    )
    try:
        for _ in range(int(sys.argv[1])):
            cluster.add_node(num_cpus=1)
        where = {"dashboard": f"http://{cluster.webui_url}", "gcs": cluster.address}
        print(json.dumps(where), flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
