"""Which trainer a group of a run has: of training, or of teaching. Imports only what it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.settings.run import DATA, RunSpec

if TYPE_CHECKING:
    from actors.training.data_trainer import DataTrainer
    from actors.training.memory_trainer import MemoryTrainer


def trainer_class(spec: RunSpec, group: str) -> type[DataTrainer | MemoryTrainer]:
    """The class whose instances are the ranks of the group of that name."""
    if spec.teach.is_on:
        if group == DATA:
            from actors.training.teaching_data import TeachingDataTrainer

            return TeachingDataTrainer
        from actors.training.teaching_memory import TeachingMemoryTrainer

        return TeachingMemoryTrainer
    if spec.memory.teacher == "said":
        from actors.training.said_memory import SaidMemoryTrainer, SayingDataTrainer

        return SayingDataTrainer if group == DATA else SaidMemoryTrainer
    if group == DATA:
        from actors.training.data_trainer import DataTrainer

        return DataTrainer
    from actors.training.memory_trainer import MemoryTrainer

    return MemoryTrainer
