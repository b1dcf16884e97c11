"""Base of every settings class: frozen, validated at birth, unknown keys refused. No torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """Base of all settings: frozen, unknown keys refused, defaults validated too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )
