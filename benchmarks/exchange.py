"""What handing a snapshot over costs, beside plain copies and beside the usual way.

    python -m benchmarks.exchange [--json] [--quick] [--mib 16 64 ...] [--rounds N]

One actor publishes its live flat buffer as returned uint8 buckets, another adopts them; the driver
only hands the refs on, as `orchestrator.processes.ray_cluster` does. Interleaved with it, in every
round and on the same bytes: the same without checksums, two plain copies in one process (what any
way through shared memory must do), and the usual way, `ray.put(state_dict)`, `ray.get`,
`load_state_dict`. Before each round the publisher changes every byte, as training does. Figures are
medians.

    handover_s, handover_unchecked_s   from the call to publish until adopted, seen by the driver
    memcpy_s                           both plain copies
    ratio_to_memcpy, ratio_unchecked   handover over memcpy_s, with and without checksums
    state_dict_s                       the usual way, from the call until loaded
    speedup_vs_state_dict              state_dict_s over handover_s
    cold_rounds                        rounds thrown away, see below
    skipped                            why a size was not measured, instead of its figures

Warm: the first touch of a page of shared memory costs ten times the copy, so the store is toured
once before the start, and a round in which a process still met fresh pages is repeated.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import ray

from actors.snapshots.buckets import num_buckets, rank_buckets
from actors.wire import Header

MIB = 1 << 20
SIZES_MIB, QUICK_MIB = (16, 64, 256, 1024), (16, 64)
ROUNDS_BELOW_MIB = ((128, 15), (512, 11), (1 << 30, 7))  # small sizes are the noisier ones
QUICK_ROUNDS = 5
WARM_UP_ROUNDS = 2
COLD_ROUNDS_FACTOR = 4  # rounds that may be thrown away per round wanted, before it is an error
STORE_VERSIONS = 4  # of the largest size: frees lag behind, and the usual way needs one too
STORE_ROOM = 1.15  # what Ray keeps for itself, and the pickled form of a state_dict
PROCESS_COPIES = 14  # of a size in the memory of all processes at the worst moment, store included
TENSOR_MIB = 4  # of one parameter: a 1,024 x 1,024 matrix of floats
COLD_FRAC = 0.02  # share of a snapshot's pages that may fault in a warm round
PAGE_BYTES = resource.getpagesize()

MEASURES = ("handover_s", "handover_unchecked_s", "memcpy_s", "state_dict_s")


@ray.remote
class End:
    """One end of the exchange: a module of so many MiB in one flat buffer."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._flat: Any = None
        self._plain: Any = None  # the usual way's module, whose tensors lie where torch puts them
        self._copies: list[Any] = []
        self._version = 0

    def build(self, mib: int, seed: int, copies: int) -> int:
        """Another size; returns the snapshot's bytes. `copies` buffers are kept for `memcpy`."""
        from actors.snapshots.flat_parameters import FlatParameters
        from actors.snapshots.sections import section_of

        self._plain, self._flat, self._copies = None, None, []  # let go before the next is built
        self._flat = FlatParameters(self._module(mib, seed), section_of)
        self._plain = self._module(mib, seed)
        self._copies = [np.ones(self._flat.total_bytes, np.uint8) for _ in range(copies)]
        return int(self._flat.total_bytes)

    def _module(self, mib: int, seed: int) -> Any:
        torch = self._torch
        generator = torch.Generator().manual_seed(seed)
        side = int((min(mib, TENSOR_MIB) * MIB // 4) ** 0.5)
        tensors = [
            torch.nn.Parameter(torch.randn(side, side, generator=generator))
            for _ in range(max(1, mib // TENSOR_MIB))
        ]
        return torch.nn.ParameterList(tensors).requires_grad_(False)

    def train(self) -> None:
        """Changes every parameter, as an optimizer step does."""
        for name in self._flat.sections():
            self._flat.section(name).mul_(1.0001)
        for parameter in self._plain.parameters():
            parameter.mul_(1.0001)
        self._version += 1

    def publish(self) -> tuple[Any, ...]:
        """(header, *buckets), as a rank returns them."""
        from actors.snapshots.snapshot import publish

        fields: dict[str, Any] = {"run": "benchmark", "group": "data", "incarnation": 0}
        header, buckets = publish(
            self._flat, 0, 1, **fields, peer_version=0, version=self._version, step=self._version
        )
        return (header, *buckets)

    def publish_unchecked(self) -> tuple[Any, ...]:
        """(None, *buckets): the same without a checksum."""
        raw = self._flat.to_bytes()
        return (None, *(raw[start:stop] for start, stop in rank_buckets(raw.size, 0, 1)))

    def adopt(self, header: Header, *buckets: Any) -> None:
        """Takes a published snapshot over."""
        from actors.snapshots.snapshot import adopt

        adopt(self._flat, (header,), buckets)

    def adopt_unchecked(self, _header: None, *buckets: Any) -> None:
        """The same without looking at what came."""
        bounds = rank_buckets(self._flat.total_bytes, 0, 1)
        for (start, _), bucket in zip(bounds, buckets, strict=True):
            self._flat.copy_from(start, bucket)

    def put_state(self) -> list[Any]:
        """The usual way's first half: the ref, in a list so that Ray doesn't resolve it."""
        return [ray.put(self._plain.state_dict())]

    def load_state(self, refs: list[Any]) -> None:
        """The usual way's second half."""
        self._plain.load_state_dict(ray.get(refs[0]))

    def memcpy(self) -> float:
        """Seconds of two plain copies of the live bytes, one after the other.

        Between numpy's own allocations, which are as fast as this machine copies in one thread;
        other alignments are up to three times slower and would flatter the ratios.
        """
        live, first, second = self._copies
        np.copyto(live, self._flat.to_bytes())
        began = time.perf_counter()
        np.copyto(first, live)
        np.copyto(second, first)
        return time.perf_counter() - began

    def fill(self, num_bytes: int) -> tuple[Any, ...]:
        """An object of so many bytes, to tour the store with."""
        return (None, np.ones(num_bytes, np.uint8))

    def touch(self, *arrays: Any) -> int:
        """Reads every page."""
        return int(sum(int(array[::PAGE_BYTES].sum()) for array in arrays))

    def faults(self) -> int:
        """Pages that this process met for the first time, so far."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def digests(self) -> tuple[str, str]:
        """Digests of both modules, the flat one first."""
        import xxhash

        plain = xxhash.xxh3_64()
        for parameter in self._plain.parameters():
            plain.update(parameter.numpy())
        return str(self._flat.digest()), str(plain.hexdigest())


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


class Exchange:
    """Two ends and what the driver does between them."""

    def __init__(self) -> None:
        options: dict[str, Any] = {"num_cpus": 1}
        self.sender, self.receiver = (
            End.options(**options).remote()  # type: ignore[attr-defined]
            for _ in range(2)
        )
        self._returns = 0

    def build(self, mib: int) -> int:
        """Both ends with another size; returns the snapshot's bytes."""
        builds = [self.sender.build.remote(mib, 0, 3), self.receiver.build.remote(mib, 1, 0)]
        num_bytes = int(ray.get(builds)[0])
        self._returns = 1 + num_buckets(num_bytes, 1)
        return num_bytes

    def tour(self, store_bytes: int) -> None:
        """Lets both ends meet every page of the store."""
        step = 64 * MIB
        fill = self.sender.fill.options(num_returns=2)
        held = []
        for _ in range(int(store_bytes / STORE_ROOM) // step):
            _, ref = fill.remote(step)
            held.append(ref)
            ray.get(self.receiver.touch.remote(ref))

    def handover(self) -> None:
        """Publish to adopted, checksums on."""
        header_ref, *bucket_refs = self.sender.publish.options(num_returns=self._returns).remote()
        ray.get(self.receiver.adopt.remote(ray.get(header_ref), *bucket_refs))

    def handover_unchecked(self) -> None:
        """Publish to adopted without checksums."""
        publish = self.sender.publish_unchecked.options(num_returns=self._returns)
        header_ref, *bucket_refs = publish.remote()
        ray.get(self.receiver.adopt_unchecked.remote(ray.get(header_ref), *bucket_refs))

    def by_state_dict(self) -> None:
        """The usual way."""
        ray.get(self.receiver.load_state.remote(ray.get(self.sender.put_state.remote())))

    def faults(self) -> int:
        """Fresh pages that both ends have met so far."""
        return sum(ray.get([self.sender.faults.remote(), self.receiver.faults.remote()]))

    def round(self) -> dict[str, tuple[float, int]]:
        """Seconds of each measure, and the fresh pages met meanwhile."""
        actions: dict[str, Callable[[], object]] = {
            "handover_s": self.handover,
            "handover_unchecked_s": self.handover_unchecked,
            "state_dict_s": self.by_state_dict,
        }
        found = {}
        for name, action in actions.items():
            ray.get(self.sender.train.remote())
            before = self.faults()
            seconds = _timed(action)
            found[name] = (seconds, self.faults() - before)
        found["memcpy_s"] = (ray.get(self.sender.memcpy.remote()), 0)
        return found

    def check(self) -> None:
        """Raises: RuntimeError if a way over does not bring every byte."""
        for way in (self.handover, self.handover_unchecked):
            ray.get(self.sender.train.remote())
            way()
            self.by_state_dict()
            sent, got = ray.get([self.sender.digests.remote(), self.receiver.digests.remote()])
            if sent != got:
                raise RuntimeError(f"{way.__name__}, state_dict: {got} arrived, {sent} was sent")


def figures(
    mib: int, samples: Mapping[str, Sequence[float]], cold_rounds: int = 0, cold_used: int = 0
) -> dict[str, Any]:
    """A size's medians and their ratios.

    Args:
        mib: the size.
        samples: seconds of each measure, by round.
        cold_rounds: rounds that met fresh pages.
        cold_used: of these, how many are among the samples for want of warm ones.
    """
    middle = {name: statistics.median(samples[name]) for name in MEASURES}
    return {
        "mib": mib,
        **middle,
        "ratio_to_memcpy": middle["handover_s"] / middle["memcpy_s"],
        "ratio_unchecked": middle["handover_unchecked_s"] / middle["memcpy_s"],
        "speedup_vs_state_dict": middle["state_dict_s"] / middle["handover_s"],
        "rounds": len(samples["handover_s"]),
        "cold_rounds": cold_rounds,
        "cold_used": cold_used,
    }


def measure(exchange: Exchange, mib: int, rounds: int) -> dict[str, Any]:
    """One size: warm-up, check, rounds; those that met fresh pages are repeated a few times.

    Only the measures that end in a handover must be warm: the usual way allocates afresh each time,
    that is its price.
    """
    num_bytes = exchange.build(mib)
    allowed = COLD_FRAC * num_bytes / PAGE_BYTES + 64
    exchange.check()
    warm: list[dict[str, tuple[float, int]]] = []
    cold: list[dict[str, tuple[float, int]]] = []
    for index in range(-WARM_UP_ROUNDS, rounds * (1 + COLD_ROUNDS_FACTOR)):
        found = exchange.round()
        if index < 0:
            continue
        met_fresh_pages = any(found[name][1] > allowed for name in MEASURES if "handover" in name)
        (cold if met_fresh_pages else warm).append(found)
        if len(warm) == rounds:
            break
    taken = [*warm, *cold[: rounds - len(warm)]]  # cold ones where the machine gives no others
    samples = {name: [found[name][0] for found in taken] for name in MEASURES}
    return figures(mib, samples, len(cold), len(taken) - len(warm))


def obstacle(mib: int, free_store: int, free_memory: int) -> str | None:
    """Why a size can't be measured here, or None."""
    store = int(STORE_VERSIONS * STORE_ROOM * mib * MIB)
    if store > free_store:
        return f"needs a store of {store / MIB:,.0f} MiB, /dev/shm has {free_store / MIB:,.0f} free"
    if (needed := PROCESS_COPIES * mib * MIB) > free_memory:
        return f"needs {needed / MIB:,.0f} MiB, {free_memory / MIB:,.0f} are free"
    return None


def run(sizes: Sequence[int], rounds: int | None) -> dict[str, Any]:
    """All sizes on a Ray of its own; those that don't fit this machine are said to be skipped."""
    free_memory = psutil.virtual_memory().available
    try:
        free_store = psutil.disk_usage("/dev/shm").free
    except OSError:  # no such place here: Ray uses a file, and memory decides
        free_store = free_memory
    why = {mib: obstacle(mib, free_store, free_memory) for mib in sizes}
    found: dict[int, dict[str, Any]] = {
        mib: {"mib": mib, "skipped": reason} for mib, reason in why.items() if reason
    }
    fitting = [mib for mib in sizes if mib not in found]
    if fitting:
        store_bytes = max(int(STORE_VERSIONS * STORE_ROOM * max(fitting)), 128) * MIB
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        try:
            exchange = Exchange()
            exchange.tour(store_bytes)
            for mib in fitting:
                usual = next(num for below, num in ROUNDS_BELOW_MIB if mib < below)
                found[mib] = measure(exchange, mib, rounds or usual)
        finally:
            ray.shutdown()
    return {"sizes": [found[mib] for mib in sizes], "cpus": psutil.cpu_count()}


def table(result: dict[str, Any]) -> str:
    """The figures as lines of text."""
    heads = (*MEASURES, "ratio_to_memcpy", "ratio_unchecked", "speedup_vs_state_dict")
    lines = [f"{'mib':>6}" + "".join(f"{head:>23}" for head in heads)]
    for row in result["sizes"]:
        cells = (
            f"   {row['skipped']}"
            if "skipped" in row
            else "".join(f"{row[head]:23.4f}" for head in heads)
        )
        lines.append(f"{row['mib']:6}{cells}")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes, few rounds")
    parser.add_argument("--mib", type=int, nargs="+", help="other sizes")
    parser.add_argument("--rounds", type=int, help="rounds of every size")
    arguments = parser.parse_args()
    sizes = arguments.mib or (QUICK_MIB if arguments.quick else SIZES_MIB)
    result = run(sizes, arguments.rounds or (QUICK_ROUNDS if arguments.quick else None))
    print(json.dumps(result) if arguments.json else table(result))


if __name__ == "__main__":
    main()
