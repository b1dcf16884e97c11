"""The pages that people read: what they link to and name exists, and README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 150  # of README: the rest belongs in docs/


def pages() -> list[Path]:
    """Every page that people read."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def test_what_pages_link_to_and_the_modules_that_they_name_exist() -> None:
    missing, num_links = [], 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
        here = [link for link in links if not link.startswith(("http:", "https:"))]
        num_links += len(here)
        targets = [page.parent / link for link in here]
        if page.name not in ("LOG.md", "CHANGELOG.md"):  # these speak of what was
            named = r"`((?:actors|orchestrator|jobs|tests|benchmarks|examples)/[\w/.-]+)"
            targets += [ROOT / name for name in re.findall(named, text)]
        where = page.relative_to(ROOT)
        missing += [f"{where}: {path}" for path in targets if not path.exists()]
    assert missing == []
    assert num_links > 50


def test_every_page_can_be_reached_from_readme_or_the_guide() -> None:
    linked = set()
    for page in (ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs/cluster/README.md"):
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        linked |= {(page.parent / link).resolve() for link in links if "://" not in link}
    found = {path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "decisions"}
    assert [str(path.relative_to(ROOT)) for path in sorted(found - linked)] == []
    assert ROOT / "docs" / "decisions" in linked


def test_readme_is_short() -> None:
    num_lines = len((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    assert num_lines <= MOST_LINES, "move details to a page in docs/ and link it"


def test_the_hosted_workflow_calls_targets_that_the_makefile_has() -> None:
    text = (ROOT / ".github" / "workflows" / "test.yaml").read_text(encoding="utf-8")
    steps = yaml.safe_load(text)["jobs"]["test"]["steps"]
    calls = [step["run"] for step in steps if "run" in step]
    assert calls == ["make lint", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {call.removeprefix("make ") for call in calls} <= targets
