"""A model's settings out of its file, without what else the file imports.

A model declares its `HyperParameters` beside its layers, so importing its file imports TensorFlow,
which takes many seconds. A run that names a setting wrongly is told so before: of the file those
statements are run that the class needs, and no others.
"""

import ast
import functools
import importlib
from pathlib import Path
from typing import Any

from models.names import registry
from models.names.hyper_parameters import HyperParameters

_CLASS = "HyperParameters"


@functools.cache
def hyper_parameters(model: str) -> type[HyperParameters]:
    """Returns the class `HyperParameters` of a model: equal to the one that its module holds.

    Args:
        model: its name.

    Raises:
        ConfigError: no such model; the nearest is named.
    """
    declared: type[HyperParameters] = _value(registry.get(model).module, _CLASS)
    return declared


@functools.cache
def _value(module: str, name: str) -> Any:
    """What a module calls `name`, of a statement of its top level."""
    statement = _statements(module)[name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return _imported(statement, name)
    needed = {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    names = {one: _value(module, one) for one in needed - {name} if one in _statements(module)}
    names["__name__"] = module
    code = compile(ast.Module([statement], []), str(_file(module)), "exec", dont_inherit=True)
    exec(code, names)
    return names[name]


def _imported(statement: ast.Import | ast.ImportFrom, name: str) -> Any:
    """What an import calls `name`; a model's file is read likewise, any other module imported."""
    alias = next(one for one in statement.names if name in (one.asname, one.name.split(".")[0]))
    if isinstance(statement, ast.Import):
        imported = importlib.import_module(alias.name)
        return imported if alias.asname else importlib.import_module(name)
    of = statement.module or ""
    is_light = not of.startswith("models.") or of.startswith("models.names")
    module = f"{of}.{alias.name}"
    if _file(module).is_file():
        return importlib.import_module(module) if is_light else _Module(module)
    return getattr(importlib.import_module(of), alias.name) if is_light else _value(of, alias.name)


class _Module:
    """Stands for a model's module whose names are asked for one by one."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return _value(self._name, name)


@functools.cache
def _statements(module: str) -> dict[str, ast.stmt]:
    """Name -> the statement of a module's top level that gives it a value."""
    found: dict[str, ast.stmt] = {}
    for statement in ast.parse(_file(module).read_text("utf-8")).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names = [alias.asname or alias.name.split(".")[0] for alias in statement.names]
        elif isinstance(statement, ast.ClassDef | ast.FunctionDef):
            names = [statement.name]
        elif isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        else:
            names = []
        found |= dict.fromkeys(names, statement)
    return found


def _file(module: str) -> Path:
    return Path(__file__).resolve().parents[2].joinpath(*module.split(".")).with_suffix(".py")
