"""Rows as a Parquet file and back. Arrow is imported only where that is done."""

from __future__ import annotations

import io
from collections.abc import Sequence

from orchestrator.run_dir.metrics import Row


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Rows as one Parquet file; columns that a row lacks are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def from_parquet(content: bytes) -> list[Row]:
    """The rows of a file, each without its nulls."""
    import pyarrow.parquet as pq

    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
