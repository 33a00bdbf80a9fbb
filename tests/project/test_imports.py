"""Which packages the program may rely on: the declared ones, and very few in the models."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
OURS = ("app", "agents", "tables", "web")


def imported(folder: Path) -> dict[str, set[str]]:
    """Top-level packages, other than ours and the standard library's -> files that import them."""
    found: dict[str, set[str]] = {}
    for file in sorted(folder.rglob("*.py")):
        if "node_modules" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            for name in {name.partition(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name not in OURS:
                    found.setdefault(name, set()).add(str(file.relative_to(CHECKOUT)))
    return found


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["node"]]
    declared = {re.split(r"[\[<>=~ ]", name, maxsplit=1)[0].lower() for name in wanted}
    # mode is Faust's own service framework: its version is faust-streaming's choice.
    declared.add("mode-streaming")
    providers = metadata.packages_distributions()
    undeclared = {
        name: files
        for folder in OURS
        for name, files in imported(CHECKOUT / folder).items()
        if declared.isdisjoint(p.lower().replace("_", "-") for p in providers.get(name, []))
    }
    assert undeclared == {}


def test_models_import_only_the_standard_library_pydantic_and_msgspec() -> None:
    assert set(imported(CHECKOUT / "app" / "models")) <= {"pydantic", "msgspec"}
