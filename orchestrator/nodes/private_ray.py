"""The private names of Ray that Tandem uses, which another version of Ray may lack.

The only module that may touch a private name of Ray (a test says so). Each has a row in `NAMES`:
what it is for, and what is missing without it. All were tested with the version `TESTED`. Where
another Ray lacks a name that a run can do without, `missing` says so at its start; a name that is
indispensable raises `MissingPrivateNameError`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from actors.wire import TandemError

TESTED = "2.60.0"
REPLY_S = 10  # for the control service to answer
CHATTY_LOGGERS = ("ray.dashboard", "ray._private.runtime_env")  # of uploads, which we report
UPLOAD_LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")


class MissingPrivateNameError(TandemError):
    """This Ray lacks a private name without which what was asked for can't be done."""

    heading = "error"


@dataclass(frozen=True)
class PrivateName:
    """One private name of Ray.

    Attributes:
        module, path: where it is, and its dotted path in there.
        purpose: what it is used for.
        without: what does not work where Ray lacks it.
    """

    module: str
    path: str
    purpose: str
    without: str

    def __str__(self) -> str:
        return f"{self.module}.{self.path}"


DRAINING = PrivateName(
    "ray._private.state",
    "state.get_draining_nodes",
    "to see the notice that a node will be taken away",
    "a run is not stopped in time where a node is taken away",
)
CONTROL_CLIENT = PrivateName(
    "ray._raylet",
    "GcsClient",
    "to ask the cluster's control service for the autoscaler's report",
    "what an autoscaler could add is not known",
)
CONTROL_REPLY = PrivateName(
    "ray.core.generated.autoscaler_pb2",
    "GetClusterStatusReply",
    "to read that report",
    "what an autoscaler could add is not known",
)
NOTICES = PrivateName(
    "ray._private.worker",
    "print_to_stdstream",
    "to keep Ray's own notices out of the live view",
    "Ray's notices of ended processes tear the live view",
)
CLUSTER_HERE = PrivateName(
    "ray._private.services",
    "get_ray_address_from_environment",
    "to find the cluster that the address `auto` means",
    "an address `auto` is not tried before Ray waits for it",
)
TOKEN = PrivateName(
    "ray._raylet",
    "AuthenticationTokenLoader",
    "to find the token of a cluster as Ray finds it",
    "no cluster can be asked with a token",
)
NODE_STATS = PrivateName(
    "ray._private.internal_api",
    "node_stats",
    "to measure the use of an object store (benchmarks)",
    "the use of an object store is not measured",
)
NAMES = (DRAINING, CONTROL_CLIENT, CONTROL_REPLY, NOTICES, CLUSTER_HERE, TOKEN, NODE_STATS)
IN_RUNS = (DRAINING, CONTROL_CLIENT, CONTROL_REPLY, NOTICES, CLUSTER_HERE)


def find(name: PrivateName) -> Any | None:
    """What Ray has under that name; None where it has no such name."""
    try:
        found: Any = importlib.import_module(name.module)
    except ImportError:
        return None
    for part in name.path.split("."):
        found = getattr(found, part, None)
    return found


def need(name: PrivateName) -> Any:
    """What Ray has under that name.

    Raises:
        MissingPrivateNameError: it has no such name.
    """
    found = find(name)
    if found is None:
        raise MissingPrivateNameError(
            f"Ray {ray.__version__} has no {name}, which is used {name.purpose}: {name.without}; "
            f"install the Ray that this version was tested with: pip install 'ray=={TESTED}'"
        )
    return found


def missing() -> list[str]:
    """A sentence for each private name that runs use and this Ray lacks."""
    return [
        f"Ray {ray.__version__} has no {name}, which is used {name.purpose}: {name.without} "
        f"(tested with ray=={TESTED})"
        for name in IN_RUNS
        if find(name) is None
    ]


def draining_nodes() -> Mapping[str, int]:
    """Ids of nodes that will be taken away, with their deadlines: milliseconds since the epoch, 0
    where there is none.
    """
    ask = find(DRAINING)  # Ray Train and Serve use it, too
    return dict(ask()) if ask is not None else {}


def autoscaling_state() -> Any | None:
    """The `AutoscalingState` of the cluster's control service; None where this Ray has no such
    report, or does not answer.
    """
    make_client, reply_type = find(CONTROL_CLIENT), find(CONTROL_REPLY)
    if make_client is None or reply_type is None:
        return None
    try:
        client = make_client(address=ray.get_runtime_context().gcs_address)
        reply = reply_type.FromString(client.get_cluster_status(timeout_s=REPLY_S))
        return reply.autoscaling_state
    except (AttributeError, RayError):  # another Ray, or no answer now
        return None


@contextmanager
def without_notices() -> Iterator[None]:
    """Silences Ray's paragraph for every process that dies, which would break into a live view; the
    run itself says which one died and what follows. Ray has no public switch for it.
    """
    printed = find(NOTICES)
    if printed is None:
        yield
        return
    module: Any = sys.modules[NOTICES.module]
    setattr(module, NOTICES.path, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(module, NOTICES.path, printed)


def cluster_here() -> str | None:
    """host:port of the cluster that `auto` means on this machine, whatever RAY_ADDRESS says; None
    where this Ray lacks the private name for it.

    Raises:
        ConnectionError: no Ray runs on this machine, and none is known to have run.
    """
    search = find(CLUSTER_HERE)
    return str(search("auto", None)) if search is not None else None


def token_header() -> dict[str, str]:
    """The HTTP header with Ray's token, found as Ray's client finds it, whatever RAY_AUTH_MODE is;
    empty where there is none.

    Raises:
        ray.exceptions.AuthenticationError: a token that can't be read.
        MissingPrivateNameError: this Ray lacks the private name for it.
    """
    loader = need(TOKEN).instance()
    return dict(loader.get_token_for_http_header(ignore_auth_mode=True))


def started_with_niceness(niceness: int) -> dict[str, Any]:
    """Arguments of `ray.init` that give the workers of an embedded Ray that niceness."""
    return {"_system_config": {"worker_niceness": niceness}}


def store_bytes_used() -> int:
    """Bytes in the object store of the cluster's first node."""
    node = ray.nodes()[0]
    stats = need(NODE_STATS)(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return int(stats.store_stats.object_store_bytes_used)
