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

# A file imports only from its own wing and the wings on lower floors, and inside its wing only from lower levels.
FLOORS = {
    "errors": 1,
    "records": 1,
    "statistics": 1,
    "settings": 2,
    "tasks": 3,
    "team": 4,
    "model": 5,
    "learn": 6,
    "runs": 7,
    "stage": 8,
    "methods": 9,
    "outlets": 9,
    "serve": 9,
    "api": 10,
    "cli": 11,
    "__init__": 12,
    "__main__": 12,
}
LEVELS = {
    "settings": [
        {"layers", "plugin", "presets", "reading", "schemas", "strict_yaml", "workflow"},
        {"agents", "consistency", "flow", "keys"},
        {"grammar", "machine", "market", "prompt_search", "reinforce", "task", "teacher"},
        {"teams"},
        {"sections"},
        {"recipe"},
        {"config"},
    ],
    "tasks": [
        {"bounded", "calls", "containment", "fitting", "mathematics", "official", "pattern", "sandbox"},
        {"code", "forms"},
        {"answers"},
        {"jsonl", "world"},
        {"benchmarks", "documents", "trajectories"},
        {"questions"},
        {"apart"},
    ],
    "team": [
        {"auction", "graph", "ledger", "parsing", "regimes", "retrieval", "segments", "stream", "tree"},
        {"streamed", "tools"},
        {"dialogue", "episodes"},
        {"environment", "prompts", "search"},
        {"domains", "hearing", "population", "timeline"},
        {"talks"},
    ],
    "model": [
        {
            "adapter",
            "endpoint",
            "families",
            "libraries",
            "meter",
            "packing",
            "resources",
            "sharing",
            "spelling",
            "template",
        },
        {"chat", "config_file", "render", "sampling", "second", "shapes", "trial"},
        {"checkpoint", "memory"},
        {"hub", "policy", "prefix_cache"},
        {"embedding", "loading", "room", "states"},
        {"decoding"},
        {"generate"},
        {"remote", "selftest"},
    ],
    "learn": [
        {"advantage", "credit", "elsewhere", "parallel", "reward", "selection", "stepping", "value"},
        {"halving", "rollout"},
        {"ranking", "sft"},
        {"bidders", "dpo", "episodes", "teaching"},
        {"grpo"},
        {"rl"},
    ],
    "runs": [
        {"card", "cells", "disk", "progress"},
        {"forecast", "lock", "redo", "rows"},
        {"demonstrations", "live", "manifest"},
        {"folder", "naming"},
        {"chosen", "evaluations", "listing", "replies", "steps", "store"},
        {"evaluation_view", "market", "searches"},
        {"dialogue_view", "summary"},
        {
            "comparison",
            "market_view",
            "opened",
            "search_view",
            "spoken_view",
            "step_view",
            "stream_view",
            "team_view",
            "tree_view",
        },
        {"report"},
    ],
    "stage": [
        {"findings", "probe", "scaling", "schedule"},
        {"elsewhere"},
        {"cast"},
        {
            "asking",
            "data",
            "doctor",
            "engine",
            "evaluate",
            "importing",
            "joining",
            "lesson",
            "scaling_view",
            "simulation",
            "start",
        },
        {"crew"},
        {"helper", "pace", "worker"},
        {"preflight", "staff"},
        {"cluster"},
        {"baselines", "hiring", "stage", "survey", "transfers"},
        {"judge", "taught"},
        {"dialogues"},
    ],
    "methods": [
        {"market/evolution", "market/plan", "optima/explore", "optima/plan", "prompts/plan", "prompts/space"},
        {
            "market/births",
            "market/episode",
            "market/nurture",
            "optima/imitate",
            "optima/prefer",
            "plan",
            "prompts/acquisition",
            "prompts/choices",
        },
        {"market/loop", "optima/loop", "prompts/attention", "prompts/kernel", "reinforce"},
        {"prompts/search"},
        {"prompts/loop"},
        {"train"},
    ],
    "outlets": [
        {"blocks", "card", "hub", "measurements", "merging", "role_card", "sinks"},
        {"contents", "gguf_file", "tracking"},
        {"export", "page"},
        {"checking", "following"},
    ],
    "serve": [
        {"address", "admission", "answers", "arrivals", "bounds", "layout", "recollection"},
        {"engine", "guard"},
        {"metrics", "requests", "speaking"},
        {"company"},
        {"app"},
        {"running"},
    ],
    "cli": [
        {"arguments", "console", "early"},
        {"look", "many", "measure", "outlets", "recipes", "serving", "streams", "teaching", "teams", "train"},
        {"machine"},
        {"app"},
    ],
}
FLOOR_OF_TORCH = 5  # below it no file may need a heavy library at import
LIGHT = {
    "__main__",
    "api",
    "model/chat",
    "model/config_file",
    "model/endpoint",
    "model/families",
    "model/memory",
    "model/meter",
    "model/render",
    "model/resources",
    "model/second",
    "model/shapes",
    "model/spelling",
    "model/template",
    "model/trial",
    "outlets/blocks",
    "outlets/contents",
    "outlets/following",
    "outlets/measurements",
    "outlets/page",
    "outlets/sinks",
    "outlets/tracking",
    "serve/address",
    "serve/admission",
    "serve/answers",
    "serve/bounds",
    "serve/guard",
    "serve/layout",
    "serve/recollection",
    "serve/requests",
    "stage/doctor",
    "stage/engine",
    "stage/findings",
    "stage/scaling",
    "stage/scaling_view",
    "stage/schedule",
    "stage/simulation",
    "stage/start",
}
HEAVY = {"accelerate", "bitsandbytes", "datasets", "matplotlib", "peft", "torch", "transformers", "trl"}


def name_of(path: Path) -> str:
    """Path of a file inside the package without its ending, as the tables name it."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def place_of(name: str) -> tuple[int, int]:
    """Floor of a file's wing and the file's level inside it; a wing's own docstring stands on the ground."""
    wing, _, inside = name.partition("/")
    level = next((k for k, files in enumerate(LEVELS.get(wing, [])) if inside in files), -1)
    return FLOORS[wing], level


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
    """Line and name of every file of the package that a file imports."""
    for line, (top, *rest) in imported(path):
        if top == PACKAGE.name:
            yield line, next(filter(None, (file_of(rest[:k]) for k in range(len(rest), -1, -1))))


def file_of(parts: list[str]) -> str | None:
    """Name of the file that a module is, when there is one."""
    if (PACKAGE.joinpath(*parts) / "__init__.py").exists():
        return "/".join([*parts, "__init__"])
    return "/".join(parts) if parts and PACKAGE.joinpath(*parts).with_suffix(".py").exists() else None


def text_files() -> list[Path]:
    """Every text file that git tracks, or would track: not what .gitignore names."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so what belongs to the project is not known")
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return [path for path in paths if b"\0" not in path.read_bytes()]


def test_every_file_has_its_place_and_every_place_a_file() -> None:
    names = {name_of(path) for path in FILES}
    bare = {name for name in names if name.endswith("/__init__") and is_docstring_alone(PACKAGE / f"{name}.py")}
    inside = {f"{wing}/{file}" for wing, levels in LEVELS.items() for files in levels for file in files}
    placed = inside | {name for name in FLOORS if name not in LEVELS}
    assert names - bare - placed == set(), "give these files a place in the tables of this test"
    assert placed - names == set(), "these are in the tables and not in the package"


def is_docstring_alone(path: Path) -> bool:
    """Whether a file is a docstring and nothing else."""
    tree = parse(path)
    return len(tree.body) == 1 and bool(ast.get_docstring(tree))


def test_each_wing_says_what_it_is_for_and_where_to_start() -> None:
    for wing in LEVELS:
        said = ast.get_docstring(parse(PACKAGE / wing / "__init__.py")) or ""
        assert "Start with `" in said, f"optima_lite/{wing}/__init__.py does not say where to start reading"


def test_files_import_only_downwards() -> None:
    climbing = [
        f"{short(path)}:{line}: {name} {place_of(name)} imports {other} {place_of(other)}"
        for path in FILES
        for name in [name_of(path)]
        for line, other in imports_within(path)
        if other != name and place_of(other) >= place_of(name)
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


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-older.txt"])
def test_tested_versions_lie_in_the_declared_ranges(file: str) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in requirements():
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
from optima_lite.cli.app import main
sys.argv = ["optima-lite", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert loaded_after(code) == set()


def test_pure_modules_are_light() -> None:
    names = {name_of(path) for path in FILES}
    light = LIGHT | {name for name in names if place_of(name)[0] < FLOOR_OF_TORCH or name.startswith(("runs/", "cli/"))}
    modules = sorted(name.replace("/", ".").removesuffix(".__init__") for name in light)
    assert loaded_after("\n".join(f"import optima_lite.{name}" for name in modules)) == set()


OUTSIDE = {"ray", "torch.distributed", "http.client", "http.server", "urllib.request"}
OF_A_CLUSTER = {
    *("stage/cluster", "stage/joining", "stage/staff", "stage/survey"),
    *("model/chat", "model/endpoint", "model/remote"),
}


def test_a_cluster_and_a_server_are_only_imported_where_one_is_named() -> None:
    """At the top of a file that a run in one process imports there is nothing of either."""
    found = []
    for path in FILES:
        name = name_of(path)
        if name in OF_A_CLUSTER or place_of(name)[0] > FLOORS["methods"] or name.startswith("outlets/"):
            continue
        tops = [node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        lines = {node.lineno for node in tops}
        modules = {(line, ".".join(parts)) for line, parts in imported(path) if line in lines}
        own = {(line, other) for line, other in imports_within(path) if line in lines}
        outside = [(line, what) for line, what in modules if any(f"{what}.".startswith(f"{one}.") for one in OUTSIDE)]
        found += [f"{name}:{line}: {what}" for line, what in outside]
        found += [f"{name}:{line}: {other}" for line, other in own if other in OF_A_CLUSTER]
    assert not found, found


def swallows_everything(handler: ast.ExceptHandler) -> bool:
    """Whether it catches every exception and does not raise it again."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    everything = any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds)
    return everything and ast.unparse(handler.body[-1]) != "raise"


def test_nothing_swallows_every_exception() -> None:
    found = [
        f"{short(path)}:{node.lineno}"
        for path in FILES
        if name_of(path) not in ("settings/plugin", "tasks/calls")  # they run code of others, which may raise anything
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


def test_readme_tree_matches_the_wings() -> None:
    readme = ROOT / "README.md"
    assert readme.exists(), "README.md is missing; its tree of optima_lite/ is checked here"
    listed = tree_block(readme.read_text(encoding="utf-8"))
    folders = {f"{path.name}/" for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.relative_to(PACKAGE).as_posix() for path in FILES}
    on_top = {file for file in files if "/" not in file} - {"__init__.py"}
    assert (on_top | folders) - listed == set(), "these are missing in the README's tree"
    assert listed - files - folders == set(), "these are in the README's tree and do not exist"


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
