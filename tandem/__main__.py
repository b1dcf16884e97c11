"""`python -m tandem`: the `tandem` command."""

from __future__ import annotations

from jobs.cli import app

if __name__ == "__main__":
    app(prog_name="tandem")
