"""`python -m jobs.harness …`: the harness' own command, in which the model `tandem` is known.

Takes what `lm_eval` takes. It is the way for versions of lm_eval that look for no plug-ins; for
those that do, the package has an entry point `lm_eval.models`.
"""

from __future__ import annotations

from jobs.harness.model import NAME


def main() -> None:
    """Runs it."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target="jobs.harness.model:TandemLM")
    cli_evaluate()


if __name__ == "__main__":
    main()
