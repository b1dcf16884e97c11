"""A second copy of bytes that were found bad: fetched again, compared, put into the store anew.

A copy may have been altered in transit or on one node while another is sound. Where no sound copy
is left, an error is raised. Blocks; called on threads.
"""

from __future__ import annotations

from dataclasses import replace

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, ObjectLostError

from actors.machine.host_memory import ByteArray, checksum
from actors.wire import CheckpointError, SnapshotError
from orchestrator.loop.exchange import GroupCheckpoint, Version
from orchestrator.loop.ports import StoredPart

FETCH_S = 60.0  # for one bucket


def refetch_version(version: Version) -> Version:
    """The version with buckets of which each was compared with its checksum.

    Raises:
        SnapshotError: a bucket is bad in the object store itself.
        RayError: it is lost, or does not come within a minute.
    """
    name = f"snapshot {version.group} v{version.number}"
    refs: list[ObjectRef] = []
    sums = [c for header in version.headers for c in header.checksums]
    said = [c for header in version.headers for c in header.said_checksums]
    kept = (*version.bucket_refs, *version.said_refs)
    for index, (ref, expected) in enumerate(zip(kept, [*sums, *said], strict=True)):
        bucket = ray.get(ref, timeout=FETCH_S)
        if (got := checksum(bucket)) != expected:
            raise SnapshotError(
                f"{name}: bucket {index} checksum {got:016x} != {expected:016x} where it is kept, "
                "too; its bytes were altered in the object store: look for faulty memory, and go "
                "on from the last checkpoint"
            )
        refs.append(ray.put(bucket))
    num = len(version.bucket_refs)
    return replace(version, bucket_refs=tuple(refs[:num]), said_refs=tuple(refs[num:]))


def _or_none(ref: ObjectRef) -> ByteArray | None:
    """An object, or None where no copy of it is left."""
    try:
        found: ByteArray = ray.get(ref, timeout=FETCH_S)
        return found
    except (ObjectLostError, GetTimeoutError):
        return None


def refetch_checkpoint(
    saved: GroupCheckpoint, stored_part: StoredPart, then: str
) -> GroupCheckpoint:
    """The checkpoint with parts of which each was compared with its checksum: fetched again, or
    read back from storage.

    Args:
        saved: the checkpoint.
        stored_part: reads a part back.
        then: how a person resumes the run, from the pair before.

    Raises:
        CheckpointError: a part is bad, and there is no sound copy of it on storage.
    """
    name = f"checkpoint of {saved.group} interval {saved.interval}"
    refs: list[ObjectRef] = []
    sums = [c for header in saved.headers for c in header.checksums]
    for index, (ref, expected) in enumerate(zip(saved.bucket_refs, sums, strict=True)):
        part = _or_none(ref)
        if part is None or checksum(part) != expected:
            part = stored_part(saved, index)
        if part is None or checksum(part) != expected:
            raise CheckpointError(
                f"{name}: part {index} was lost or altered in the object store, and there is no "
                f"sound copy of it on storage; {then}"
            )
        refs.append(ray.put(part))
    return replace(saved, bucket_refs=tuple(refs))
