"""Reads the imports of the three packages: floors and rooms stay apart, as their docstrings say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("actors", "orchestrator", "jobs")  # each may import itself and those before it
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
LONGEST = 400
MOST_FILES = 16  # in one room
FLOORS = {
    # Each room may import those before it; a file beside the rooms is a room of its own.
    "actors": ("wire", "formats", "storage", "settings", "machine", "operators", "sources",
               "tokenizers", "corpus", "lessons", "layers", "snapshots", "weights", "sharing",
               "measuring", "training", "pair", "learning", "teaching"),
    "orchestrator": ("errors", "console", "stop_signals", "background", "settings", "nodes", "loop",
                     "run_dir", "runtime", "processes", "in_process", "reporting", "start_check",
                     "run"),
}  # fmt: skip
HIDDEN_ARGUMENTS = ("_temp_dir", "_system_config", "_node_ip_address", "_plasma_directory")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, those inside functions too; `from a import b` is a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    """The first parts of what a file imports."""
    return {name.partition(".")[0] for name in imported(path)}


def imported_modules(module: str) -> set[str]:
    """Modules of ours that a module imports."""
    names = {n for full in imported(MODULES[module]) for n in (full, full.rpartition(".")[0])}
    return names & set(MODULES)


def test_the_house_is_not_empty() -> None:
    assert {"actors.settings.run", "orchestrator.loop.coordinator", "jobs.cli"} <= set(MODULES)


def test_actors_know_nothing_of_ray() -> None:
    paths = [path for path in FILES if path.is_relative_to(ROOT / "actors")]
    assert len(paths) > 60
    assert [path for path in paths if "ray" in packages(path)] == []


def settings_modules() -> list[str]:
    """Every settings module, and the messages."""
    rooms = ("actors.settings.", "orchestrator.settings.")
    return ["actors.wire", *(name for name in sorted(MODULES) if name.startswith(rooms))]


def modules_reached(module: str) -> set[str]:
    """Modules of ours that importing one imports, itself included."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo.extend(imported_modules(name))
    return seen


def test_settings_and_messages_know_nothing_of_torch() -> None:
    assert len(settings_modules()) > 10
    wrong = {
        f"{module} reaches torch by {name}"
        for module in settings_modules()
        for name in modules_reached(module)
        if "torch" in packages(MODULES[name])
    }
    assert wrong == set()


def test_the_driver_loads_no_torch() -> None:
    code = "import sys, orchestrator.run; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_imports_go_one_way() -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for number, package in enumerate(PACKAGES)
        for path in (ROOT / package).rglob("*.py")
        for name in packages(path) & {*PACKAGES[number + 1 :], "tests", "benchmarks"}
    }
    assert wrong == set()


def test_the_two_trainers_never_import_each_other() -> None:
    assert "actors.training.memory_trainer" not in imported_modules("actors.training.data_trainer")
    assert "actors.training.data_trainer" not in imported_modules("actors.training.memory_trainer")


def test_no_module_imports_itself_round_a_circle() -> None:
    left = {module: imported_modules(module) - {module} for module in MODULES}
    while free := [module for module, needs in left.items() if not needs & set(left)]:
        for module in free:
            del left[module]
    assert left == {}, f"circle among {sorted(left)}"


def room_of(module: str) -> tuple[str, str]:
    """Floor and room of a module."""
    floor, room = module.split(".")[:2]
    return floor, room


def rooms() -> dict[str, set[str]]:
    """The rooms of each floor: its folders of Python files, and the files beside them."""
    found: dict[str, set[str]] = {floor: set() for floor in PACKAGES}
    for module in MODULES:
        floor, room = room_of(module)
        if room != "__init__":
            found[floor].add(room)
    return found


def test_every_room_has_its_place_in_the_order() -> None:
    assert {floor: set(order) for floor, order in FLOORS.items()} == {
        floor: rooms()[floor] for floor in FLOORS
    }


def test_rooms_of_a_floor_import_each_other_in_one_direction() -> None:
    wrong = {
        f"{module} imports {other}"
        for floor, order in FLOORS.items()
        for module in MODULES
        for other in imported_modules(module)
        if room_of(module)[0] == room_of(other)[0] == floor
        and room_of(module)[1] != "__init__"
        and room_of(other)[1] != "__init__"
        and order.index(room_of(other)[1]) > order.index(room_of(module)[1])
    }
    assert wrong == set()


def test_no_room_imports_itself_round_a_circle() -> None:
    left: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for module in MODULES:
        others = {room_of(other) for other in imported_modules(module)}
        left.setdefault(room_of(module), set()).update(others - {room_of(module)})
    while free := [room for room, needs in left.items() if not needs & set(left)]:
        for room in free:
            del left[room]
    assert left == {}, f"circle among {sorted(left)}"


def test_no_room_is_crowded() -> None:
    counts: dict[str, int] = {}
    for path in FILES:
        folder = path.parent.relative_to(ROOT).as_posix()
        counts[folder] = counts.get(folder, 0) + 1
    assert {folder: num for folder, num in counts.items() if num > MOST_FILES} == {}


def test_an_init_file_holds_only_a_docstring_which_says_what_the_room_may_import() -> None:
    folders = {path.parent for path in FILES} | {ROOT / "benchmarks"}
    wrong = set()
    for folder in folders:
        module, name = tree(folder / "__init__.py"), folder.relative_to(ROOT).as_posix()
        docstring = ast.get_docstring(module) or ""
        if len(module.body) != 1 or not docstring:
            wrong.add(f"{name}: something other than a docstring")
        elif "/" in name and not re.search(r"\bimports?\b", docstring, re.IGNORECASE):
            wrong.add(f"{name}: what may it import?")
    assert wrong == set()


def test_actors_are_made_in_one_place_only() -> None:
    makers = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr == "remote"
        and isinstance(node.value, ast.Name)
        and node.value.id == "ray"
    }
    importers = {p.relative_to(ROOT).as_posix() for p in FILES if "ray.remote" in imported(p)}
    assert makers | importers == {"orchestrator/processes/ray_actors.py"}


CONSOLE = "orchestrator/console.py"
PRINTING = (*FILES, *(ROOT / "benchmarks").glob("*.py"))
# What another program reads: the answers of processes that we start.
ANSWERS = {
    "orchestrator/reporting/tracker_process.py",
    "jobs/submit/place_inputs.py",
    "jobs/submit/survey.py",
}


def test_text_becomes_terminal_output_in_one_place_which_reads_no_markup() -> None:
    markup = ("rich.console.Console", "rich.print", "rich.markup", "rich.get_console", "typer.echo",
              "typer.secho", "rich.prompt", "rich.logging")  # fmt: skip
    wrong = {
        path.relative_to(ROOT).as_posix(): name
        for path in PRINTING
        for name in imported(path)
        if name.startswith(markup) and path != ROOT / CONSOLE
    }
    wrong |= {
        path.relative_to(ROOT).as_posix(): node.attr
        for path in PRINTING
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in ("from_markup", "echo", "secho")
    }
    assert wrong == {}


def test_commands_print_on_the_console_alone() -> None:
    wrong = {
        f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree(path))
        if path.relative_to(ROOT).as_posix() not in {*ANSWERS, CONSOLE}
        and (
            (isinstance(node, ast.Name) and node.id == "print")
            or (isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
                and isinstance(node.value, ast.Name) and node.value.id == "sys")
        )
    }  # fmt: skip
    assert wrong == set()


def test_clusters_are_asked_in_one_place_which_guards_the_token() -> None:
    asking = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if {"ray.job_submission.JobSubmissionClient", "ray.dashboard"} & set(imported(path))
    }
    assert asking == {"jobs/submit/job_server.py"}


def private_names_of_ray(path: Path) -> set[str]:
    """What a file imports of Ray that is private, its strings that name such, and underscored
    attributes of `ray` and its modules.
    """
    private = re.compile(r"^ray\.(core\b|_(?!_)|.*\._(?!_))")
    found = {name for name in imported(path) if private.match(name)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if private.match(node.value) or node.value in HIDDEN_ARGUMENTS:
                found.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg in HIDDEN_ARGUMENTS:
            found.add(node.arg)
        elif isinstance(node, ast.Attribute) and private.match(ast.unparse(node)):
            found.add(ast.unparse(node))
    return found


def test_one_module_only_touches_what_ray_keeps_private() -> None:
    everywhere = [*FILES, *sorted((ROOT / "benchmarks").rglob("*.py"))]
    found = {path.relative_to(ROOT).as_posix(): private_names_of_ray(path) for path in everywhere}
    assert {file for file, names in found.items() if names} == {"orchestrator/nodes/private_ray.py"}


@pytest.mark.parametrize(
    "line",
    [
        "import ray._private.worker",
        "from ray._raylet import GcsClient",
        "from ray.core.generated import autoscaler_pb2",
        "ray._private.state.state",
        "sys.modules['ray._private.worker']",
        "ray.init(_temp_dir='/tmp/x')",
        "ray.init(**{'_system_config': {}})",
    ],
)
def test_what_is_private_is_recognised(line: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(line)
    assert private_names_of_ray(tmp_path / "file.py")


# Packages whose distribution has another name, and those that only an extra brings.
DISTRIBUTIONS = {"yaml": "pyyaml", "mlflow": "mlflow_skinny"}
OPTIONAL = {"accelerate", "datasets", "fastapi", "lm_eval", "mlflow_skinny", "peft", "wandb"}


def declared() -> tuple[set[str], set[str]]:
    """Distributions that pyproject names: as dependencies, and in extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[\[><=!~ ;]", line)[0].lower().replace("-", "_") for line in lines}

    extras = project["optional-dependencies"].values()
    return names(project["dependencies"]), {name for lines in extras for name in names(lines)}


def test_what_is_imported_is_declared() -> None:
    always, in_extras = declared()
    ours = {*PACKAGES, "benchmarks", "tests"}
    may_import = dict.fromkeys(PACKAGES, always | (OPTIONAL & in_extras))
    may_import["benchmarks"] = always | in_extras  # they are not installed
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for package, distributions in may_import.items()
        for path in (ROOT / package).rglob("*.py")
        for name in packages(path) - sys.stdlib_module_names - ours
        if DISTRIBUTIONS.get(name, name).lower() not in distributions
    }
    assert undeclared == set()


RANKS = "orchestrator.processes.ray_actors, actors.training.data_trainer, " \
        "actors.training.memory_trainer, actors.pair.evaluator"  # fmt: skip


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (RANKS, {"matplotlib", "tensorboardX", "optuna"}),
        ("orchestrator.run", {"matplotlib", "tensorboardX", "optuna"}),
    ],
)
def test_what_only_draws_or_searches_is_loaded_only_there(modules: str, unwanted: set[str]) -> None:
    script = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert "numpy" in done.stdout.split()
    assert unwanted & set(done.stdout.split()) == set()


def test_files_that_are_no_python_are_in_the_wheel_too() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    packed = {
        path
        for package, patterns in tools["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    others = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert others - packed == set()
    assert ROOT / "orchestrator/reporting/templates/page.html" in packed


def test_a_module_says_in_a_docstring_what_it_is() -> None:
    assert [name for name, path in MODULES.items() if not ast.get_docstring(tree(path))] == []


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines())
               for name, path in MODULES.items()}  # fmt: skip
    too_long = {name: num for name, num in lengths.items() if num > LONGEST}
    assert too_long == {}, "look for the seam"
