"""The rules of the house, read from the source itself: who imports whom, how long things may be, what is not used."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "dualspec"

# Data walks through the rooms in this order and never back: a room imports only from rooms above it.
LEAVES = ("files", "config", "memory", "arithmetic")
ROOMS = (
    *("audio", "text", "data", "features", "latents", "diffusion", "synthesis", "hearing", "plots"),
    *(
        "importers",
        "evaluation",
        "training",
        "bundle",
        "engine",
        "model_folder",
        "compiled",
        "pipeline_call",
        "pipeline",
        "prompt_lists",
        "generation",
        "scenes",
        "roundtrip",
        "recipes",
        "stages",
        "accounting",
        "forecast",
        "cascade",
        "placing",
        "web",
        "cli",
    ),
)
ORDER = (*LEAVES, *ROOMS)
# evaluation meets generation only on disk: it may judge what any other system wrote.
NOT_FOR_EVALUATION = {"latents", "diffusion", "synthesis"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
# Lowest versions that are safe: later ones close known holes or changed what we rely on.
FLOORS = {
    "torch": "2.10",
    "transformers": "5.10.1",
    "diffusers": "0.42",
    "safetensors": "0.8",
    "h5py": "3.14",
    "soundfile": "0.13",
    "starlette": "1.3.1",
    "pydantic": "2.11",
}
FORBIDDEN = ("torchaudio", "torchvision", "torchcodec")
PICKLERS = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
RANDOM = ("rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli", "rand_like", "randn_like")

Finding = tuple[int, str]


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (REPOSITORY / folder).rglob("*.py"))


def room_of(file: Path) -> str:
    """Name the room of a source file: its folder or, at the top level, itself."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(tree: ast.Module, package: tuple[str, ...] = ()) -> Iterator[Finding]:
    """List every import wherever it stands, inside functions too, as (line, dotted module)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            if module == "dualspec":
                yield from ((node.lineno, f"dualspec.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def package_of(file: Path) -> tuple[str, ...]:
    return file.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]


def calls(tree: ast.Module) -> Iterator[tuple[int, str, ast.Call]]:
    """List every call of a plain or dotted name as (line, name, call)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            yield node.lineno, ast.unparse(node.func), node


def complain(files: list[Path], find: Callable[[Path, ast.Module], Iterator[Finding]]) -> None:
    """Fail with file and line of everything that a rule finds."""
    found = [
        f"{file.relative_to(REPOSITORY)}:{line}: {words}"
        for file in files
        for line, words in sorted(find(file, parse(file)))
    ]
    assert not found, "\n" + "\n".join(found)


def test_every_file_belongs_to_a_room_of_the_plan() -> None:
    rooms = {room_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms <= set(ORDER), f"not in the plan: {sorted(rooms - set(ORDER))}"


def test_no_room_for_odds_and_ends() -> None:
    names = {file.stem for file in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_imports_go_one_way() -> None:
    def find(file: Path, tree: ast.Module) -> Iterator[Finding]:
        room = room_of(file)
        if room in ("__init__", "__main__"):
            return
        for line, module in imports(tree, package_of(file)):
            top, _, rest = module.partition(".")
            other = rest.partition(".")[0]
            if top != "dualspec" or other in ("", "__version__", room):
                continue
            if other not in ORDER:
                yield line, f"{room} imports {module}, which is no room"
            elif ORDER.index(other) > ORDER.index(room):
                yield line, f"{room} imports {other}, which stands below it"
            elif room == "evaluation" and other in NOT_FOR_EVALUATION:
                yield line, f"evaluation imports {other}; it meets generation only on disk"

    complain(python_files("src"), find)


def test_the_direction_rule_sees_every_way_of_importing() -> None:
    source = (
        "import dualspec.cli\n"
        "from dualspec import training\n"
        "from ..diffusion.sampler import sample\n"
        "def f():\n    from dualspec.recipes import paper\n"
    )
    found = list(imports(ast.parse(source), ("dualspec", "latents")))
    assert sorted(found) == [
        (1, "dualspec.cli"),
        (2, "dualspec.training"),
        (3, "dualspec.diffusion.sampler"),
        (5, "dualspec.recipes"),
    ]


def test_files_and_functions_stay_small() -> None:
    def find(file: Path, tree: ast.Module) -> Iterator[Finding]:
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            yield 1, f"{lines} lines; at most {MAX_FILE_LINES}: are there two nouns in one room?"
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
                if length > MAX_FUNCTION_LINES:
                    yield node.lineno, f"{node.name} has {length} lines; at most {MAX_FUNCTION_LINES}"

    complain(python_files("src"), find)


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


def test_nobody_imports_what_breaks_the_environment() -> None:
    def find(file: Path, tree: ast.Module) -> Iterator[Finding]:
        for line, module in imports(tree, ("dualspec",)):
            if module.partition(".")[0] in FORBIDDEN:
                yield line, f"imports {module}"

    complain(python_files("src", "tests", "benchmarks"), find)


def test_what_is_needed_needs_nothing_that_breaks_the_environment() -> None:
    """What `pip install dualspec` and every extra bring along, as the installed packages say it themselves."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *(text for e in project["optional-dependencies"].values() for text in e)]
    wanted, seen = [Requirement(text) for text in declared], set()
    while wanted:
        requirement = wanted.pop()
        for extra in ("", *sorted(requirement.extras)):
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            with contextlib.suppress(PackageNotFoundError):
                needs = map(Requirement, requires(requirement.name) or ())
                wanted += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    names = {name.lower().replace("_", "-") for name, _ in seen}
    assert {"torch", "filelock", "tokenizers", "uvicorn"} <= names and not names & set(FORBIDDEN)


def test_tests_reach_no_network() -> None:
    with pytest.raises(OSError, match="tests must work without a network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_breaks_the_environment_is_not_installed(name: str) -> None:
    assert importlib.util.find_spec(name) is None, f"{name} beside torch breaks diffusers: pip uninstall {name}"


def test_pickles_are_read_by_importers_alone() -> None:
    def find(file: Path, tree: ast.Module) -> Iterator[Finding]:
        if room_of(file) == "importers":
            return
        for line, module in imports(tree, ("dualspec",)):
            if module.partition(".")[0] in PICKLERS:
                yield line, f"imports {module}"
        for line, name, call in calls(tree):
            if name in ("torch.load", "torch.save"):
                yield line, f"calls {name}; weights and states are safetensors and JSON"
            if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in call.keywords):
                yield line, f"calls {name} with allow_pickle"

    complain(python_files("src"), find)


def test_only_the_command_line_prints() -> None:
    def find(file: Path, tree: ast.Module) -> Iterator[Finding]:
        if room_of(file) != "cli":
            yield from ((line, "prints; return it, or warn") for line, name, _ in calls(tree) if name == "print")

    complain(python_files("src"), find)


def test_audio_files_are_opened_in_one_place() -> None:
    doors = {PACKAGE / "audio" / f"{name}.py" for name in ("waveform", "audio_file", "codec")}

    def find(file: Path, tree: ast.Module) -> Iterator[Finding]:
        for line, module in imports(tree, ("dualspec",)):
            if module.partition(".")[0] == "soundfile" and file not in doors:
                yield line, "imports soundfile; audio files are opened by audio/waveform.py"

    complain(python_files("src"), find)


def test_randomness_comes_from_a_generator() -> None:
    def find(file: Path, tree: ast.Module) -> Iterator[Finding]:
        # What a layer starts from is drawn as torch's own layers draw it.
        layers = [call for _, name, call in calls(tree) if name.endswith("nn.Parameter")]
        initial = {id(node) for layer in layers for node in ast.walk(layer)}
        for line, name, call in calls(tree):
            torch_name = name.removeprefix("torch.") if name.startswith("torch.") else ""
            given = any(word.arg == "generator" for word in call.keywords)
            if torch_name in RANDOM and not given and id(call) not in initial:
                yield line, f"calls {name} without generator="
            # A training run seeds what its layers start from, and nobody else touches the state that all share.
            seeds = torch_name in ("manual_seed", "seed") and room_of(file) != "training"
            if name.startswith(("np.random.", "numpy.random.")) or seeds:
                yield line, f"calls {name}; pass a torch.Generator"
        yield from ((line, "imports random") for line, module in imports(tree, ("dualspec",)) if module == "random")

    complain(python_files("src"), find)


def test_no_broad_except_but_at_the_outermost_doors() -> None:
    def find(file: Path, tree: ast.Module) -> Iterator[Finding]:
        if room_of(file) in ("cli", "web"):
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = "" if node.type is None else ast.unparse(node.type)
                if re.search(r"\b(Base)?Exception\b", caught) or not caught:
                    yield node.lineno, f"except {caught}: name the errors"

    complain(python_files("src"), find)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "scipy", "diffusers", "transformers", "matplotlib", "typer", "h5py", "soundfile")
    code = f"import sys, dualspec; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
    )
    assert result.stdout.strip() == "[]"


def test_every_public_name_has_its_home() -> None:
    import dualspec

    for name, module in dualspec._HOMES.items():
        file = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
        defined = {node.name for node in parse(file).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        assert name in defined, f"{module} does not define {name}"
    assert set(dualspec.__all__) == {*dualspec._HOMES, "__version__"} <= set(dir(dualspec))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dualspec.nothing  # noqa: B018


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_installed_and_declared_versions_are_above_the_safe_floor(name: str, floor: str) -> None:
    assert Version(version(name)) >= Version(floor)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["web"]]
    declared = {Requirement(text).name: Requirement(text).specifier for text in texts}
    below = ".".join([*floor.split(".")[:-1], str(int(floor.split(".")[-1]) - 1)])
    assert declared[name].contains(floor) and not declared[name].contains(below)


def test_the_constraints_fit_what_is_declared() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {Requirement(line).name: Requirement(line).specifier for line in lines if line and line[0] != "#"}
    for requirement in map(Requirement, declared):
        (pin,) = pinned.pop(requirement.name)
        assert requirement.specifier.contains(pin.version), f"{requirement} does not allow {pin}"
    assert {name: str(specifier) for name, specifier in pinned.items()} == dict.fromkeys(FORBIDDEN, "<0")


def test_the_licence_of_every_dependency_is_listed_and_open() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (REPOSITORY / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| ([a-z0-9.-]+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE))
    declared = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    absent = re.findall(r"^Not installed .*: ([a-z0-9, -]+)\.$", text, re.MULTILINE)
    names = {re.sub(r"[-_.]+", "-", Requirement(line).name).lower() for line in declared}
    assert names - set(listed) == {name for line in absent for name in line.split(", ")} <= {"gradio"}
    free = r"MIT|BSD|Apache|PSF|Python Software|MPL|Mozilla|ISC|LGPL|HPND|CMU|Unlicense|CNRI|Zlib|0BSD"
    assert {name: licence for name, licence in listed.items() if not re.search(free, licence)} == {"package": "licence"}


def test_the_machine_test_uses_the_words_of_the_makefile() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    for words in (
        "pip install torch==2.13.0",
        'pip install -c constraints.txt -e ".[web,train,onnx,docs,dev]"',
        "OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 HF_HUB_OFFLINE=1",
        "-m pytest",
    ):
        assert words in makefile and words in script


@pytest.mark.parametrize(
    "document", ["conventions.md", "dataset_card.md", "decisions.md", "paper_map.md", "reliability.md"]
)
def test_the_docs_name_what_exists(document: str) -> None:
    text = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    missing = []
    for path, name in re.findall(r"`([\w/.]+\.py)(?:::(\w+))?`", text):
        file = (REPOSITORY if path.startswith("tests/") else PACKAGE) / path
        if not file.is_file():
            missing.append(path)
        elif name and name not in defined_names(file):
            missing.append(f"{path}::{name}")
    assert not missing, f"{document} speaks of what is not there: {sorted(set(missing))}"


def defined_names(file: Path) -> set[str]:
    return {node.name for node in ast.walk(parse(file)) if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def test_every_mutant_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests"))
    mutants = importlib.import_module("mutations").MUTANTS
    lost = [own.rule for own in mutants if (PACKAGE / own.file).read_text(encoding="utf-8").count(own.old) != 1]
    assert len(mutants) >= 50 and not lost, f"tests/mutations.py: the line of {lost} moved"
