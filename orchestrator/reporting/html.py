"""Pages for people from templates: self-contained HTML, in which every text is escaped.

The templates lie in `templates/` of a package. `page.html` is what all extend, `parts.html` has the
cards, tables and plots that they share.
"""

from __future__ import annotations

from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from actors.formats import ABSENT
from actors.measuring.answers import is_answered

HERE = "orchestrator.reporting"


def render(template: str, package: str = HERE, **values: object) -> str:
    """A page from a template.

    Args:
        template: file name, in `templates/` of the package or of this one.
        package: where it lies.
        values: what it asks for; one that is missing is an error.
    """
    return _environment(package).get_template(template).render(values)


@cache
def _environment(package: str) -> Environment:
    packages = dict.fromkeys((package, HERE))
    environment = Environment(
        autoescape=True,
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests |= {"numeric": _is_numeric, "answering": _is_answering}
    return environment


def _is_numeric(text: str) -> bool:
    """Whether a cell is aligned to the right: a number, one before and after, or none known."""
    digits = "".join(char for char in text if char not in " ,.-+%→")
    return text == ABSENT or digits.isdigit()


def _is_answering(said: str, expected: str) -> bool:
    """Whether a voice says one of the answers, which ` or ` separates."""
    return any(is_answered(said, answer) for answer in expected.split(" or "))
