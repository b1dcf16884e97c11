"""Messages that cross processes: orders, headers, reports, heartbeats, errors. No torch, no Ray.

All are frozen dataclasses of plain values, so that they pickle anywhere and compare by value.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CAUSE_CHARS = 600  # of an error kept as a cause; some messages hold a whole report


@dataclass(frozen=True)
class Range:
    """Windows [start, stop) of one shuffled chunk of a group's stream."""

    chunk: int
    start: int
    stop: int


@dataclass(frozen=True)
class ToldAssociation:
    """A prompt, the answer that is to follow it, other prompts of that answer, whether they are a
    user's first turn, and what they are about; empty: it is looked for.
    """

    prompt: str
    answer: str
    wordings: tuple[str, ...] = ()
    as_chat: bool = False
    subject: str = ""


@dataclass(frozen=True)
class Told:
    """What a running run was told under one name.

    In an order without associations: one of that name is taken back.
    """

    id: str
    told_at: float  # seconds since the epoch
    associations: tuple[ToldAssociation, ...]


@dataclass(frozen=True)
class LiveLesson:
    """A lesson of a run that goes on.

    Attributes:
        prompt, answer: as in `lessons.lesson.Lesson`.
        wordings: other prompts of the answer.
        subject: documents of the corpus that name it are left out; empty: unknown.
    """

    prompt: str
    answer: str
    wordings: tuple[str, ...] = ()
    subject: str = ""


@dataclass(frozen=True)
class Order:
    """The next interval of one rank, as the coordinator orders it."""

    run: str
    incarnation: int
    interval: int
    num_steps: int
    measure: bool = False  # report the agreement with the adopted version after the last step
    publish: bool = True  # return a snapshot
    exact: bool = False  # publish in full precision, whatever `exchange.dtype` is
    checkpoint: bool = False  # return this rank's share of the group's whole state
    ranges: tuple[Range, ...] = ()  # what the peer trained on since the last adopted version
    profile: str | None = None  # folder for a trace of this interval
    told: tuple[Told, ...] = ()  # by a person, since the last order
    lessons: tuple[LiveLesson, ...] = ()  # new ones, that the group learns from here on
    lessons_digest: str = ""  # of all that it learns then; empty: none


@dataclass(frozen=True)
class Header:
    """Identity of a rank's published buckets: enough to refuse wrong ones."""

    run: str
    group: str
    rank: int
    num_ranks: int
    incarnation: int
    version: int
    step: int
    layout_hash: str
    dtype: str  # `stored`, or `bfloat16` if published rounded
    total_bytes: int
    offsets: tuple[int, ...]  # byte offset of each bucket in the whole snapshot
    sizes: tuple[int, ...]
    checksums: tuple[int, ...]
    peer_version: int  # the version of the peer that this one was trained on; -1 before the first
    ranges: tuple[Range, ...] = ()  # what the group trained on since its last snapshot
    base: str = ""  # identity of the data layer's weights that don't train; empty: all do
    told: tuple[Told, ...] = ()  # all that the memory was told and has not taken back, in order
    lessons: tuple[LiveLesson, ...] = ()  # all that the group is taught while it trains
    said_checksums: tuple[int, ...] = ()  # of the bucket with what the data layer said, if any


@dataclass(frozen=True)
class CheckpointHeader:
    """Identity of one rank's share of a group's state: enough to reassemble the shares."""

    run: str
    group: str
    rank: int
    num_ranks: int
    interval: int
    step: int
    peer_version: int
    layout: tuple[tuple[str, str, int], ...]  # name, dtype and bytes of each tensor, in order
    scalars: str  # JSON: positions in the corpus, counts
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    checksums: tuple[int, ...]
    base: str = ""  # as in `Header`

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(size for _, _, size in self.layout)


@dataclass(frozen=True)
class Report:
    """A rank's measurements of one interval; durations in seconds of its monotonic clock."""

    group: str
    rank: int
    incarnation: int
    interval: int
    step: int
    peer_version: int
    tokens: int
    adopt_s: float
    step_s: float
    publish_s: float
    wall_s: float  # from the call's start to just before its return
    started_at: float  # time.time() at the call's start
    first_step_at: float  # time.time() when the first optimizer step was done
    metrics: dict[str, float] = field(default_factory=dict)  # of the whole group, means over steps
    shares: dict[str, float] = field(default_factory=dict)  # parts of such means, summed over ranks
    costs_s: dict[str, float] = field(default_factory=dict)  # seconds by part of the step
    agreement: float | None = None
    adopted_bytes: int = 0  # of the peer's snapshot; 0 if it was adopted before
    published_bytes: int = 0  # of this rank's share of its own snapshot


@dataclass(frozen=True)
class Answer:
    """A sample question and the answer of each voice."""

    prompt: str
    expected: str
    own: str
    help: str
    memory: str


@dataclass(frozen=True)
class LessonAnswer:
    """What a pair says to one lesson after teaching.

    Attributes:
        prompt, answer: of the lesson, as given.
        before: what the data layer said before.
        own, help, memory: what each voice says now.
        right: the voices that give the wanted answer: own, help, memory.
        reworded, reworded_right: its other prompts, and those that the data layer answers.
        changed: whether the data layer's answer is another one than before.
        followed: whether the memory then gives that of the data layer.
        bits: what a person said by giving it.
    """

    prompt: str
    answer: str
    before: str
    own: str
    help: str
    memory: str
    right: tuple[str, ...]
    reworded: int
    reworded_right: int
    changed: bool
    followed: bool
    bits: float


@dataclass(frozen=True)
class LostAnswer:
    """An answer that was not to change and did."""

    prompt: str
    before: str
    now: str


@dataclass(frozen=True)
class Taught:
    """What teaching did: every lesson, and what was lost beside them.

    Attributes:
        lessons: in the order of the file.
        num_kept, num_neighbours: questions whose answers were not to change.
        lost, lost_neighbours: of these, the data layer's that changed.
        memory_lost: of the kept ones, the memory's that changed.
    """

    lessons: tuple[LessonAnswer, ...]
    num_kept: int
    num_neighbours: int
    lost: tuple[LostAnswer, ...]
    lost_neighbours: tuple[LostAnswer, ...]
    memory_lost: tuple[LostAnswer, ...]


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of one committed pair."""

    data_version: int
    memory_version: int
    figures: dict[str, float]  # of the held-out windows
    # by own, help, memory, baseline, on unseen wordings; empty without probes
    accuracy: dict[str, float]
    accuracy_seen: dict[str, float]
    num_probes: int
    reflection_changed: int  # probes whose answer changed since the evaluation before
    reflection_followed: int
    answers: tuple[Answer, ...]
    eval_s: float
    taught: Taught | None = None  # of a run that teaches, at its last evaluation
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Location:
    """Where a rank's process runs; known before it has built its layers."""

    group: str
    rank: int
    pid: int
    node_id: str
    host: str
    gpu_ids: tuple[str, ...]  # as Ray counts them on the node
    visible_devices: str  # CUDA_VISIBLE_DEVICES of the process


@dataclass(frozen=True)
class RankDescription:
    """Properties of a rank, reported once when it has started."""

    group: str
    rank: int
    incarnation: int
    device: str
    num_parameters: int
    snapshot_bytes: int  # in full precision
    wire_bytes: int  # as published between two exact ones
    checkpoint_bytes: int
    layout_hash: str
    warnings: tuple[str, ...] = ()  # about the machine that it runs on
    said_bytes: int = 0  # of a version's bucket with what the data layer said


@dataclass(frozen=True)
class Heartbeat:
    """What the main thread of a rank last noted about itself."""

    group: str
    rank: int
    incarnation: int
    phase: str
    interval: int
    step: int
    at: float
    host_bytes: int = 0  # of the process' memory
    gpu_bytes: int = 0  # reserved by its torch on the GPU


class TandemError(Exception):
    """Base of the typed errors; survives pickling because its only state is its arguments.

    Attributes:
        heading: first words of the printed message.
    """

    heading = "the run failed"


class ConfigError(TandemError, ValueError):
    """The user's input is wrong; the message says what to change. Exit code 2."""

    heading = "error"


class StorageError(TandemError):
    """Storage is unreachable, full or broken; the request may be right. Exit code 4."""

    heading = "storage error"


class CorpusError(ConfigError):
    """A corpus is missing, unreadable, empty or malformed."""


class SnapshotError(TandemError):
    """A snapshot is not the expected one, or its bytes were altered."""


class CheckpointError(TandemError):
    """A checkpoint is incomplete, was altered, or belongs to another run."""


class ExportError(TandemError):
    """An export, read back, differs from what was trained."""


class OrderError(TandemError):
    """A rank was ordered an interval that is not its next."""


class DivergedError(TandemError):
    """A loss or a gradient is NaN or infinite."""


class UnwiredMemoryError(TandemError):
    """The memory does not reach the data layer's output."""


def one_line(err: BaseException) -> str:
    """An error in one line: its message, after its type's name unless the message is written for
    users; the name alone if there is no message, as for most timeouts.
    """
    text, name = " ".join(str(err).split()), type(err).__name__
    text = text if len(text) <= CAUSE_CHARS else f"{text[:CAUSE_CHARS]} …"
    if isinstance(err, TandemError) or (isinstance(err, OSError) and err.strerror):
        return text or name
    return f"{name}: {text}" if text else name
