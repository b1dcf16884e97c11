from __future__ import annotations

from tests.integration.conftest import own_tmp, shared_ray, workplace

__all__ = ["own_tmp", "shared_ray", "workplace"]
