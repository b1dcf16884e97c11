from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.settings.fields import Mark, marked_keys, settings_of
from actors.wire import ConfigError
from jobs.tune.search import Search, SearchSpec, load_search
from orchestrator.settings.config import load_config

SHIPPED = Path(__file__).parents[4] / "jobs" / "configs" / "search.yaml"
OWN = {"losses.own": {"uniform": [0.2, 0.9]}}
PBT = {"scheduler": "pbt"}
MOVES = {**PBT, "algorithm": "random", "set": {"checkpoints.every": 1}}
TEXT = {"corpus": {"paths": ["text.txt"]}, "intervals": 8, "evaluation": {"every": 2}}


def search(folder: Path, **values: Any) -> Search:
    (folder / "base.yaml").write_text(yaml.safe_dump(TEXT))
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "space": OWN, **values}, sort_keys=False))
    return load_search(str(path))


def test_a_search_varies_its_base_by_dotted_names(tmp_path: Path) -> None:
    found = search(tmp_path, set={"intervals": 3, "data.batch_size": 2})
    assert (found.base.intervals, found.base.data.batch_size) == (3, 2)
    assert found.base.corpus.paths == (str(tmp_path / "text.txt"),)
    config = found.config({"losses.own": 0.25}, name="t1")
    assert (config.losses.own, config.name) == (0.25, "t1")
    assert found.base.losses.own != 0.25


def test_a_search_and_a_run_are_not_taken_for_each_other(tmp_path: Path) -> None:
    search(tmp_path)
    with pytest.raises(ConfigError, match=r"the config of a run, .* tandem train"):
        load_search(str(tmp_path / "base.yaml"))
    with pytest.raises(ConfigError, match=r"the file of a search, .* tandem tune"):
        load_config(str(tmp_path / "search.yaml"))


def test_a_mistyped_kind_of_domain_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key .*unform; did you mean .*own\.uniform\?"):
        search(tmp_path, space={"losses.own": {"unform": [0.2, 0.9]}})


def test_relative_paths_of_a_space_are_those_from_the_searchs_file(tmp_path: Path) -> None:
    offered = [["text.txt"], ["more/text.txt", "s3://b/text.txt"]]
    found = search(tmp_path, space={"corpus.paths": {"choice": offered}})
    points = [found.config({"corpus.paths": choice}).corpus.paths
              for choice in found.spec.space["corpus.paths"].ends]  # fmt: skip
    assert points == [
        (str(tmp_path / "text.txt"),),
        (str(tmp_path / "more" / "text.txt"), "s3://b/text.txt"),
    ]


def test_a_point_needs_no_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = search(tmp_path)  # a job's may be laid down anew while it runs
    monkeypatch.setattr("os.getcwd", _no_directory)
    assert found.config({"losses.own": 0.25}, name="t1").losses.own == 0.25


def _no_directory() -> str:
    raise FileNotFoundError(2, "No such file or directory")


def test_one_setting_of_a_sum_follows_from_the_others(tmp_path: Path) -> None:
    found = search(tmp_path, constraints=["losses.own + losses.help = 1"])
    for own in (0.2, 0.55, 0.9):
        losses = found.config({"losses.own": own}).losses
        assert losses.own + losses.help == pytest.approx(1.0, abs=1e-12)
        assert found.values({"losses.own": own})["losses.help"] == losses.help


def test_objectives_are_figures_with_a_goal(tmp_path: Path) -> None:
    goals = search(
        tmp_path, objectives=["min heldout.own_loss", "max heldout.help_gain"]
    ).spec.goals
    assert [(g.figure, g.goal) for g in goals] == [
        ("heldout.own_loss", "min"),
        ("heldout.help_gain", "max"),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"space": {"losses.onw": {"uniform": [0, 1]}}}, r"unknown key losses.onw; did you mean "),
        ({"space": {"losses.own": {"uniform": [1, 0]}}}, r"uniform \[1, 0\] is empty"),
        ({"space": {"losses.own": {"uniform": [1, 1]}}}, r"uniform \[1, 1\] is empty"),
        ({"space": {"losses.own": {"loguniform": [0, 1]}}}, r"loguniform begins at 0, but must"),
        ({"space": {"losses.own": {"randint": [3, 3]}}}, r"randint \[3, 3\] is empty"),
        ({"space": {"losses.own": {"choice": []}}}, r"space.losses.own.choice: "),
        ({"space": {"losses.own": {}}}, r"expected exactly one of .*, got none"),
        ({"space": {}}, r"space: "),
        ({"space": {"seed": {"randint": [0, 9]}}}, r"seed can't be set here"),
        ({"space": {"losses.own": {"uniform": [-1, 1]}}}, r"with losses.own=-1.0: .*losses.own"),
        ({"trails": 3}, r"unknown key trails; did you mean trials\?"),
        ({"objectives": ["heldout.help_loss"]}, r"expected min or max and one of heldout.own_loss"),
        ({"objectives": ["min loss"]}, r"expected min or max and one of"),
        ({"objectives": ["max accuracy.help"]}, r"accuracy.help needs a corpus of facts"),
        ({"constraints": ["losses.own = x"]}, r"expected e\.g\. losses.own \+ losses.help = 1"),
        (
            {"constraints": ["losses.recall + losses.help = 1"]},
            r"left out: losses.recall, losses.h",
        ),
        ({"constraints": ["losses.own = 1"]}, r"left out: none"),
        ({"constraints": ["losses.own + losses.help = 0.5"]}, r"with losses.help=-0.4: .*losses.h"),
        ({"algorithm": "grid"}, r"algorithm grid needs every domain"),
        ({"space": {"losses.own": {"grid": [0.1, 1]}}}, r"algorithm tpe can't follow a grid"),
        ({"set": {"evaluation.every": 0}}, r"asha .* set evaluation.every \(now 0\) between 0"),
        ({"set": {"evaluation.every": 8}}, r"evaluation.every \(now 8\) .* intervals \(8\)"),
        ({"seeds": 2}, r"seeds 2 needs scheduler: none"),
        (
            {"scheduler": "none", "set": {"evaluation.every": 0}},
            r"objective heldout.reflection_rate compares evaluations",
        ),
        (PBT, r"scheduler pbt moves the points itself: set algorithm: random or grid"),
        ({**PBT, "algorithm": "random", "trials": 1}, r"pbt needs trials of at least 2"),
        (
            {**PBT, "algorithm": "random", "set": {"checkpoints.every": 3}},
            r"evaluation.every \(2\) must be a multiple of checkpoints.every \(3\)",
        ),
        (
            {**MOVES, "space": {"data.batch_size": {"choice": [2, 4]}}},
            r"pbt can't change data.batch_size in a running pair",
        ),
        (
            {**MOVES, "space": {"data.optimizer.warmup_steps": {"choice": [2, 4]}}},
            r"pbt can't change data.optimizer.warmup_steps in a running pair",
        ),
        (
            {"space": {"losses.sync": {"uniform": [0, 1]}}},
            r"search.yaml: losses.sync was removed: losses.recall, 1.25 by default",
        ),
        (
            {"algorithm": "random", "space": {"losses.own": {"grid": [0.1, 1]}}},
            r"algorithm random can't follow a grid",
        ),
        ({"set": {"intervalls": 3}}, r"unknown key intervalls; did you mean intervals\?"),
        ({"base": "nowhere.yaml"}, r"nowhere.yaml: no such file"),
    ],
)
def test_a_mistake_is_named_before_anything_starts(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search(tmp_path, **values)


def test_overrides_set_the_searchs_own_settings(tmp_path: Path) -> None:
    search(tmp_path)
    found = load_search(str(tmp_path / "search.yaml"), ["trials=3", "algorithm=random"])
    assert (found.spec.trials, found.spec.algorithm) == (3, "random")


def test_a_mistake_in_an_override_begins_with_it(tmp_path: Path) -> None:
    search(tmp_path)
    for override, line in {
        "trials=0": "override trials=0: trials: ",
        "trails=3": "override trails=3: unknown key trails; did you mean trials?",
    }.items():
        with pytest.raises(ConfigError) as raised:
            load_search(str(tmp_path / "search.yaml"), [override])
        assert str(raised.value).startswith(line)


def test_paths_among_the_set_values_are_relative_to_the_searchs_file(tmp_path: Path) -> None:
    found = search(tmp_path, set={"corpus.paths": ["other.txt"]})
    assert found.base.corpus.paths == (str(tmp_path / "other.txt"),)


def test_what_the_base_sets_is_the_first_point_where_it_lies_in_the_space(tmp_path: Path) -> None:
    inside = {"losses.own": {"uniform": [0.2, 1.8]}}
    summed = search(tmp_path, space=inside, constraints=["losses.own + losses.help = 2"])
    assert summed.base_point == {"losses.own": 1.0}
    broken = search(tmp_path, space=inside, constraints=["losses.own + losses.help = 3"])
    assert broken.base_point is None
    assert search(tmp_path).base_point is None  # own is 1.0, and the space ends at 0.9


def test_a_grid_has_as_many_trials_as_points(tmp_path: Path) -> None:
    space = {"losses.own": {"grid": [0.5, 1, 2]}, "data.batch_size": {"grid": [2, 4]}}
    assert search(tmp_path, space=space, algorithm="grid").num_trials == 6


def test_every_setting_of_a_search_says_what_it_means() -> None:
    assert [s.key for s in settings_of(SearchSpec) if not s.field.description] == []


def test_a_search_continues_with_other_values_of_what_decides_no_result() -> None:
    changeable = {"trials", "at_once", "max_failures", "trackers"}
    assert set(marked_keys(SearchSpec, Mark.RESUMABLE)) == changeable


def test_the_shipped_search_tries_the_shipped_weights_first() -> None:
    found = load_search(str(SHIPPED))
    assert found.base_point is not None
    assert found.config(found.base_point) == found.base
    assert found.spec.space.keys() | {c.derived for c in found.spec.sums} >= {
        f"losses.{name}" for name in ("own", "help", "recall", "self", "balance")
    }


def test_the_command_line_sets_the_searchs_own_keys_only() -> None:
    assert load_search(str(SHIPPED), ["trials=3"]).num_trials == 3
    with pytest.raises(ConfigError, match=r"unknown key intervals"):
        load_search(str(SHIPPED), ["intervals=3"])


def test_a_search_and_its_base_may_lie_in_a_folder_whose_name_could_be_a_pattern(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "proj [v1]::x"
    (tmp_path / "proj v::x").mkdir()  # what the name would stand for as a pattern
    folder.mkdir()
    for name in (SHIPPED.name, "quickstart.yaml"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + SHIPPED.with_name(name).read_bytes())
    found = load_search(f"{folder}/search.yaml")
    assert found.base.corpus.paths[0] == f"{tmp_path}/corpora/world/facts.jsonl"  # ../corpora


def test_a_trials_runs_are_named_by_number_exploit_and_seed(tmp_path: Path) -> None:
    found = search(tmp_path, storage=str(tmp_path), name="s", seed=5)
    point = {"losses.own": 0.3}
    config = found.trial_config({"number": 7, "point": point})
    assert config.run_url == f"{tmp_path}/s/trials/007"
    assert (config.losses.own, config.seed) == (0.3, 5)
    assert found.trial_config({"number": 7, "point": point, "generation": 2}).name == "007-2"
    several = search(tmp_path, seeds=3, seed=5, scheduler="none")
    runs = [several.trial_config({"number": 7, "point": point}, n) for n in range(3)]
    assert [(run.name, run.seed) for run in runs] == [("007-s0", 5), ("007-s1", 6), ("007-s2", 7)]
