"""The house rules that a reader cannot check at a glance: who imports whom, what stays light, what the files say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "optima_lite"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports only from the levels below its own. `tasks` is one module that happens to be a folder.
LEVELS = {
    "bounded": 0,
    "errors": 0,
    "layers": 0,
    "mathematics": 0,
    "meter": 0,
    "official": 0,
    "presets": 0,
    "records": 0,
    "schemas": 0,
    "strict_yaml": 0,
    "answers": 1,
    "backend": 1,
    "config": 1,
    "progress": 1,
    "prompts": 1,
    "tree": 1,
    "dialogue": 2,
    "memory": 2,
    "render": 2,
    "reward": 2,
    "scaling": 2,
    "selection": 2,
    "store": 2,
    "tasks": 2,
    "halving": 3,
    "model": 3,
    "prefix_cache": 3,
    "sampling": 3,
    "search": 3,
    "generate": 4,
    "sft": 4,
    "dpo": 5,
    "rollout": 5,
    "selftest": 5,
    "cast": 6,
    "probe": 6,
    "report": 6,
    "evaluate": 7,
    "preflight": 7,
    "scaling_view": 7,
    "tree_view": 7,
    "baselines": 8,
    "explore": 8,
    "stage": 8,
    "imitate": 9,
    "judge": 9,
    "prefer": 9,
    "loop": 10,
    "cli": 11,
    "__init__": 12,
    "__main__": 12,
}
LIGHT = [
    "__main__",
    "cli",
    "report",
    "search",
    "scaling_view",
    "tree_view",
    *(name for name in LEVELS if LEVELS[name] <= 2),
]
HEAVY = {"accelerate", "bitsandbytes", "datasets", "matplotlib", "peft", "torch", "transformers", "trl", "unsloth"}


def module_of(path: Path) -> str:
    """Name in the level table of a file of the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def short(path: Path) -> str:
    """The path as messages show it."""
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=short(path))


def imported(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and absolute dotted name, in parts, of everything a file imports, wherever in the file."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((node.lineno, [*base, alias.name]) for alias in node.names)


def imports_within(path: Path) -> Iterator[tuple[int, str]]:
    """Line and level-table name of every module of the package that a file imports."""
    for line, (top, *rest) in imported(path):
        if top == PACKAGE.name:
            is_module = rest and ((PACKAGE / f"{rest[0]}.py").exists() or (PACKAGE / rest[0]).is_dir())
            yield line, rest[0] if is_module else "__init__"


def text_files() -> list[Path]:
    """Every text file that git tracks, or would track: not what .gitignore names."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so what belongs to the project is not known")
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return [path for path in paths if b"\0" not in path.read_bytes()]


def test_every_module_has_a_level_and_every_level_a_module() -> None:
    modules = {module_of(path) for path in FILES}
    assert modules - LEVELS.keys() == set(), "give these modules a level in the table of this test"
    assert LEVELS.keys() - modules == set(), "these are in the table and not in the package"


def test_modules_import_only_from_lower_levels() -> None:
    climbing = [
        f"{short(path)}:{line}: {module} (level {LEVELS.get(module)}) imports {name} (level {LEVELS.get(name)})"
        for path in FILES
        for module in [module_of(path)]
        for line, name in imports_within(path)
        if name != module and LEVELS.get(name, 0) >= LEVELS.get(module, 99)
    ]
    assert not climbing, "\n" + "\n".join(climbing)


def requirements(*left_out: str) -> list[Requirement]:
    """What pyproject.toml declares: the dependencies and those of every extra that is not left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [lines for extra, lines in project["optional-dependencies"].items() if extra not in left_out]
    return [Requirement(line) for line in chain(project["dependencies"], *extras)]


def test_every_third_party_import_is_declared() -> None:
    names = {canonicalize_name(requirement.name) for requirement in requirements("dev")}
    providers = packages_distributions()
    missing = {
        f"{short(path)}:{line}: {top}"
        for path in FILES
        for line, (top, *_) in imported(path)
        if top not in {PACKAGE.name, *sys.stdlib_module_names}
        and not names & {canonicalize_name(name) for name in providers.get(top, [top])}
    }
    assert not missing, "imported, but not among the dependencies:\n" + "\n".join(sorted(missing))


@pytest.mark.parametrize(("file", "left_out"), [("constraints.txt", ["gpu"]), ("constraints-gpu.txt", [])])
def test_tested_versions_lie_in_the_declared_ranges(file: str, left_out: list[str]) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in requirements(*left_out):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{file} has no version of {requirement.name}"
        assert version in requirement.specifier, f"{requirement.name} {version} of {file} is outside {requirement}"


def loaded_after(code: str) -> set[str]:
    """Which heavy libraries a fresh Python holds after running `code`."""
    tell = "import sys; print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.rsplit("LOADED", 1)[1].split())


def test_help_is_light() -> None:
    code = """
import sys
from optima_lite.cli import main
sys.argv = ["optima-lite", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert loaded_after(code) == set()


def test_pure_modules_are_light() -> None:
    names = [name for name in LIGHT if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()]
    assert loaded_after("\n".join(f"import optima_lite.{name}" for name in names)) == set()


def swallows_everything(handler: ast.ExceptHandler) -> bool:
    """Whether it catches every exception and does not raise it again."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    everything = any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds)
    return everything and ast.unparse(handler.body[-1]) != "raise"


def test_nothing_swallows_every_exception() -> None:
    found = [
        f"{short(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ExceptHandler) and swallows_everything(node)
    ]
    assert not found, f"a bug must keep its traceback; name the exceptions that are expected: {found}"


def test_everything_public_has_a_docstring() -> None:
    bare = []
    for path in FILES:
        tree = parse(path)
        public = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        bare += [f"{short(path)}: {node.name}" for node in public if not ast.get_docstring(node)]
        bare += [] if ast.get_docstring(tree) else [f"{short(path)}: the module"]
    assert not bare, "without a docstring:\n" + "\n".join(bare)


def test_no_file_names_a_place_on_one_machine() -> None:
    place = re.compile(r"(?<![\w.:/~*-])/(?:home|root|work|tmp)\b")
    found = [
        f"{short(path)}:{number}: {line.strip()[:100]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if place.search(line)
    ]
    assert not found, "\n" + "\n".join(found)


def tree_block(text: str) -> set[str]:
    """Paths under `optima_lite/`, folders with a slash, that the README lists between its two tree comments.

    Each line holds a name ending in .py or /, indented below its folder, then what the file is for.
    """
    block = re.search(r"<!-- tree -->(.*?)<!-- /tree -->", text, re.DOTALL)
    assert block, "README.md has no block between <!-- tree --> and <!-- /tree --> that lists the files of optima_lite/"
    paths, folders = set(), [(-1, "")]
    for indent, name in re.findall(r"^([ │├└─]*)([\w./-]+(?:\.py|/))(?:\s|$)", block[1], re.MULTILINE):
        while folders[-1][0] >= len(indent):
            folders.pop()
        path = folders[-1][1] + name
        paths.add(path)
        if name.endswith("/"):
            folders.append((len(indent), path))
    return {path.removeprefix("optima_lite/") for path in paths if path.startswith("optima_lite/")} - {""}


def test_readme_tree_matches_the_files() -> None:
    readme = ROOT / "README.md"
    assert readme.exists(), "README.md is missing; its tree of optima_lite/ is checked here"
    listed = tree_block(readme.read_text(encoding="utf-8"))
    folders = {f"{path.name}/" for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.relative_to(PACKAGE).as_posix() for path in FILES if path.name != "__init__.py"}
    inside = {path for path in files if f"{path.split('/')[0]}/" in folders}  # the README may leave these to the folder
    assert (files - inside | folders) - listed == set(), "these are missing in the README's tree"
    assert listed - files - folders - {"__init__.py"} == set(), "these are in the README's tree and do not exist"


def test_the_tree_of_a_readme_is_read_by_indentation() -> None:
    text = """
<!-- tree -->
```
optima_lite/
├── errors.py      the exception tree
├── tasks/         rows to questions
│   └── world.py   a world
└── tiny_llama/
tests/
  test_x.py
```
<!-- /tree -->
"""
    assert tree_block(text) == {"errors.py", "tasks/", "tasks/world.py", "tiny_llama/"}
