"""The arrows between rooms, read from every import of the sources, inside functions too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from models.names import registry

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("models", "components", "serving", "pipeline")
# In the order of the flow: a room imports itself and what stands before it in its line.
LINES = (
    ("models.names", "models.inputs", "models.measures", "models.contract", "models.training"),
    (
        "components.beam_signatures",
        "components.component",
        "components.servers",
        "components.tables",
        "components.read",
        "components.check",
        "components.build",
        "components.transform",
        "components.gate",
        "components.canary",
        "components.refit",
        "components.bundle",
        "components.batch",
        "components.monitor",
    ),
    ("serving.wire", "serving.state", "serving.client"),
    ("serving.wire", "serving.state", "serving.server"),
)
# What a top-level room may import of the others.
TOPS_BELOW = {
    "models": (),
    "serving": (),
    "components": ("models", "serving"),
    "pipeline": ("components", "models", "serving"),
}
FAMILIES = tuple(sorted({f"models.{entry.family}" for entry in registry.MODELS.values()}))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """Every module that a file names in an import, ours by the module and not by the name in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


def inside(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def violations(importers: str, allowed) -> list[str]:
    """What the modules of a room import of ours that `allowed` does not hold."""
    return [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if inside(module, importers)
        for name in names
        if name.split(".")[0] in TOPS and not any(inside(name, room) for room in allowed)
    ]


@pytest.mark.parametrize("top", TOPS)
def test_the_tops_point_downwards(top):
    assert not violations(top, (top, *TOPS_BELOW[top]))


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[-1])
def test_the_rooms_of_a_top_point_one_way(line):
    top = line[0].split(".")[0]
    for number, room in enumerate(line):
        assert not violations(room, (*line[: number + 1], *TOPS_BELOW[top])), room
        assert any(inside(module, room) for module in MODULES), f"no module is in {room}"


def test_no_room_beneath_the_families_knows_one_of_them():
    beneath = LINES[0]
    for room in beneath:
        known = [
            f"{module} imports {name}"
            for module, names in IMPORTS.items()
            if inside(module, room)
            for name in names
            if any(inside(name, family) for family in FAMILIES)
        ]
        assert not known
    folders = {path.parent.name for path in (ROOT / "models").glob("*/__init__.py")}
    assert folders == {room.split(".")[1] for room in (*beneath, *FAMILIES)}, (
        "a folder of models/ is neither a room of this test nor a family"
    )


def test_a_family_knows_no_other():
    for family in FAMILIES:
        assert not violations(family, (family, *LINES[0])), family


def test_no_modules_import_one_another_in_a_circle():
    below = {module: {n for n in names if n in MODULES} for module, names in IMPORTS.items()}
    while leaves := {module for module, names in below.items() if not names & below.keys()}:
        below = {module: names for module, names in below.items() if module not in leaves}
    assert not below, f"in a circle: {sorted(below)}"


@pytest.mark.parametrize(
    "room, library",
    [
        ("models", "tfx"),
        ("models", "apache_beam"),
        ("models.names", "tensorflow"),
        ("serving.client", "tensorflow"),
        ("serving.state", "tensorflow"),
        ("serving.wire", "tensorflow"),
        ("components.read.layouts", "apache_beam"),
        ("components.read.layouts", "tfx"),
    ],
)
def test_a_library_stays_out_of_a_room(room, library):
    found = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if inside(module, room)
        for name in names
        if inside(name, library)
    ]
    assert not found


@pytest.mark.parametrize(
    "module, libraries",
    [
        ("models.names.registry", ["tensorflow"]),
        ("models.training.trainer", ["apache_beam", "tfx"]),
        ("serving.client", ["tensorflow", "serving.server"]),
        ("pipeline.cli", ["tensorflow"]),
        # A run is refused before anything heavy is imported.
        ("pipeline.config", ["tensorflow", "tfx", "apache_beam", "pyarrow"]),
        ("pipeline.preflight", ["tensorflow", "tfx", "apache_beam"]),
        ("components.read.typed", ["apache_beam"]),
        ("components.build.checks", ["apache_beam"]),
    ],
)
def test_importing_a_module_does_not_load_a_library(module, libraries):
    code = f"import sys, {module}; print([one for one in {libraries!r} if one in sys.modules])"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_what_decides_the_components_outputs_is_in_their_cache_key():
    """A module of another room that reading, checking and building import is hashed with theirs.

    Errors are left out: they decide what is said, not what is written.
    """
    tree = ast.parse(MODULES["pipeline.dag"].read_text("utf-8"))
    (hashed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "_READ_BY_COMPONENTS"
    )
    rooms = tuple(f"components.{room}." for room in ("tables", "read", "check", "build"))
    imported = {
        found
        for module, path in MODULES.items()
        if module.startswith(rooms)
        for found in imports_of(path)
        if found.startswith(("models.", "serving.")) and found in MODULES
    }
    needed = {str(MODULES[name].relative_to(ROOT)) for name in imported - {"models.names.errors"}}
    assert needed <= set(hashed), needed - set(hashed)
