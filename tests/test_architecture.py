"""Who may import whom, and what `import masa` may load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"masa": "runtime", "masa_training": "training", "masa_export": "export"}
MAY_IMPORT = {
    "masa": {"masa"},
    "masa_training": {"masa", "masa_training"},
    "masa_export": {"masa", "masa_training", "masa_export"},
}
# Private names of other people's libraries that are called like ours.
OF_LIBRARIES = {"llama.py": {"_model"}}
# The command alone may load click when it is imported.
COMMAND = ("masa.cli",)


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    source = ROOT / PACKAGES[package]
    found = {}
    for path in sorted((source / package).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """The dotted names that an import statement loads; nothing for any other node."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package]
            yield ".".join([*base, *([node.module] if node.module else [])])
        elif node.module:
            yield node.module
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)


def all_imports(path: Path, module: str) -> set[str]:
    """What a module imports anywhere, inside functions too."""
    tree = ast.parse(path.read_text("utf-8"))
    return {name for node in ast.walk(tree) for name in imported(node, module, path.name == "__init__.py")}


def top_level_imports(path: Path, module: str) -> set[str]:
    """What is imported when the module is: outside functions and of what only type checkers read."""

    def visit(node: ast.AST) -> Iterator[str]:
        yield from imported(node, module, path.name == "__init__.py")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            children = list(node.orelse)
        for child in children:
            yield from visit(child)

    return set(visit(ast.parse(path.read_text("utf-8"))))


def of(package: str) -> list[tuple[str, Path]]:
    return list(modules(package).items())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_the_packages_it_may(package: str) -> None:
    for module, path in of(package):
        ours = {name.split(".")[0] for name in all_imports(path, module)} & set(PACKAGES)
        assert ours <= MAY_IMPORT[package], f"{module} imports {sorted(ours - MAY_IMPORT[package])}"


def imported_modules(path: Path, known: Mapping[str, Path]) -> set[str]:
    """The modules among `known` that a module imports anywhere: `from a import b` may name the module a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in inner}
    return found & known.keys()


def test_no_modules_of_the_build_side_import_each_other_in_a_circle() -> None:
    known = modules("masa_export")
    left = {module: imported_modules(path, known) for module, path in known.items()}
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"these import each other: {sorted(left)}"


def test_no_module_uses_a_private_name_of_another() -> None:
    """Private names belong to their module: whoever needs one from outside makes it public."""
    trees = {path: ast.parse(path.read_text("utf-8")) for package in PACKAGES for _, path in of(package)}

    def private(tree: ast.AST) -> set[str]:
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
        return {name for name in found if name.startswith("_") and not name.startswith("__")}

    own = {path: private(tree) for path, tree in trees.items()}
    everywhere = set().union(*own.values())
    for path, tree in trees.items():
        for node in ast.walk(tree):
            used = set()
            if isinstance(node, ast.Attribute):
                used = {node.attr}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                used = {alias.name for alias in node.names}
            foreign = (used & everywhere) - own[path] - OF_LIBRARIES.get(path.name, set())
            assert not foreign, f"{path}:{node.lineno}: {sorted(foreign)} belongs to another module"


def test_every_module_but_the_command_imports_only_the_standard_library_at_import_time() -> None:
    allowed = {*sys.stdlib_module_names, "masa"}
    for module, path in of("masa"):
        if module.startswith(COMMAND):
            continue
        foreign = {name for name in top_level_imports(path, module) if name.split(".")[0] not in allowed}
        assert not foreign, f"{module} imports {sorted(foreign)} at import time; move it into a function"


def test_no_other_module_imports_the_command() -> None:
    for module, path in of("masa"):
        if not module.startswith(COMMAND):
            to_command = {name for name in all_imports(path, module) if name.startswith(COMMAND)}
            assert not to_command, f"{module} imports {sorted(to_command)}"


def test_the_command_imports_nothing_but_click_besides_the_standard_library() -> None:
    allowed = {*sys.stdlib_module_names, "masa", "click"}
    for module, path in of("masa"):
        if module.startswith(COMMAND):
            foreign = {n for n in top_level_imports(path, module) if n.split(".")[0] not in allowed}
            assert not foreign, f"{module} imports {sorted(foreign)} at import time"


def test_no_module_uses_pickle() -> None:
    for package in PACKAGES:
        for module, path in of(package):
            loads = {name.split(".")[0] for name in all_imports(path, module)}
            assert not loads & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, module


def test_the_checker_sees_what_it_must(tmp_path: Path) -> None:
    """The functions above are the law, so they are tried on a module that breaks it in every way."""
    path = tmp_path / "guilty.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "else:\n    import numpy as np\n"
        "try:\n    import yaml\nexcept ImportError:\n    pass\n"
        "class A:\n    from click import echo\n"
        "def f():\n    from masa_training import evolve\n    import_module('masa_export.gguf')\n"
        "from . import sibling\nfrom ..other import thing\n"
    )
    at_top = top_level_imports(path, "masa.inner.guilty")
    assert {"numpy", "yaml", "click", "masa.inner", "masa.other"} <= at_top
    assert not at_top & {"torch", "masa_training", "masa_export.gguf"}
    assert {"torch", "masa_training", "masa_export.gguf"} <= all_imports(path, "masa.inner.guilty")


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`, less those it starts with."""
    script = (
        f"import sys, json; before = set(sys.modules)\n{code}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def test_importing_masa_loads_the_standard_library_alone() -> None:
    tops = {name.split(".")[0] for name in loaded_by("import masa")}
    assert "masa" in tops
    assert tops <= {*sys.stdlib_module_names, "masa"}


def test_importing_every_module_of_masa_loads_the_standard_library_alone() -> None:
    names = [name for name in modules("masa") if not name.startswith(COMMAND)]
    tops = {name.split(".")[0] for name in loaded_by("import " + ", ".join(names))}
    assert tops <= {*sys.stdlib_module_names, "masa"}


def test_public_names_resolve_to_what_type_checkers_are_told() -> None:
    import masa

    tree = ast.parse((ROOT / "runtime/masa/__init__.py").read_text("utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(told) == sorted(masa.__all__)
    for name, owner in told.items():
        value = getattr(masa, name)
        assert value is getattr(sys.modules[str(owner)], name)
    assert set(masa.__all__) <= set(dir(masa))


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import masa

    with pytest.raises(AttributeError, match="rewrite_everything"):
        masa.rewrite_everything  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_one_place_parses_json_and_yaml(package: str) -> None:
    """Parsers fail in many ways (nesting, dates, huge numbers); `masa.files` makes one of them."""
    parsers = ("json.loads", "json.load", "yaml.safe_load", "yaml.load")
    own = (
        "json.dumps",
        "dump_bank",
        "sys.stdin",
        "done.stdout",
        "text",
    )  # what masa itself wrote, or another of its processes
    for module, path in of(package):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in parsers and module != "masa.files":
                assert ast.unparse(node.args[0]).startswith(own), f"{path}:{node.lineno}: use masa.files.parse_*"


@pytest.mark.parametrize("package", PACKAGES)
def test_one_place_opens_connections(package: str) -> None:
    """`masa.http_client` has the rule for proxies, keys and redirects; the clients of others are told it by name."""
    clients = {"urllib.request", "http.client", "httpx", "requests", "aiohttp"}
    told = {
        "masa.http_client": clients,
        "masa.download": {"http.client"},  # for the names of its errors
        "masa_training.models.endpoints": {"httpx"},
    }
    for module, path in of(package):
        assert all_imports(path, module) & clients <= told.get(module, set()), module
