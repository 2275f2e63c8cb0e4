"""Imports run down the path of the data and never back. The table is ARCHITECTURE.md's; a running
server stays light.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tailorbird"

BASE = {
    "errors",
    "faults",
    "version",
    "storage",
    "storage_paths",
    "import_formats",
    "atomic_write",
    "file_lock",
    "lazy_names",
    "pages",
    "periodic",
    "probes",
    "project_file",
}
EVERYTHING = {
    "events",
    "stream",
    "router",
    "store",
    "lake",
    "candidates",
    "features",
    "registry",
    "ranking",
    "retrieval",
    "models",
    "training",
    "proposal",
    "serving",
    "experiments",
    "monitoring",
    "privacy",
    "simulator",
    "client",
    "console",
    "config",
    "platform",
    "backup",
    "cli",
}

# package → what it may import besides itself and BASE. A longer key is a module that may import
# more than its package.
ALLOWED: dict[str, set[str]] = {
    "events": set(),
    "stream": {"events"},
    "router": {"events", "stream"},
    "store": set(),
    "lake": {"events", "stream"},
    "candidates": {"events", "store"},
    "candidates.role": {"events", "store", "stream"},
    "candidates.history": {"events", "store", "lake", "stream"},
    "features": {"events", "store"},
    "features.schemas": {"events", "store", "stream"},
    "features.online": {"events", "store", "stream"},
    "features.offline": {"events", "store", "lake", "stream"},
    "features.parity": {"events", "store", "lake", "stream"},
    "features.migration": {"events", "store", "lake", "stream"},
    "registry": set(),
    "experiments.assign": {"events"},
    "experiments.metrics": {"events"},
    "experiments": {"events", "lake", "ranking", "platform.frames"},
    "ranking": {"events", "candidates", "features", "registry", "retrieval", "experiments.assign"},
    "retrieval": {"events", "candidates.contract", "registry"},
    "models": {"events", "features", "retrieval"},
    "models.btyd": {"ranking.churn.bg_nbd"},
    "training": {
        "events",
        "lake",
        "candidates",
        "features",
        "models",
        "ranking",
        "retrieval",
        "registry",
        "experiments",
        "platform.frames",
    },
    "metrics": {"training"},
    "tuning": set(),
    "serving": {
        "events",
        "stream",
        "store",
        "candidates",
        "features",
        "ranking",
        "retrieval",
        "registry",
        "experiments.assign",
    },
    "monitoring": {"events", "lake", "experiments", "training"},
    "privacy": EVERYTHING - {"cli", "console", "platform", "backup"},
    "backup": EVERYTHING - {"cli", "console", "platform"},
    "proposal": {"events", "candidates.contract"},
    "simulator": {"events"},
    "client": {"events", "serving.messages"},
    "console": EVERYTHING - {"cli", "platform", "backup"},
    "config": EVERYTHING - {"cli", "platform", "console", "backup"},
    "platform": EVERYTHING - {"cli", "console"},
    "cli": EVERYTHING,
    "__main__": {"cli"},
    "__init__": {"backup", "client", "experiments", "platform", "ranking"},
    "models.registration": set(),
    "errors": set(),
    "faults": set(),
    "storage": set(),
    "storage_paths": set(),
    "import_formats": set(),
    "version": set(),
    "atomic_write": set(),
    "file_lock": set(),
    "lazy_names": set(),
    "pages": set(),
    "periodic": set(),
    "probes": set(),
    "project_file": set(),
}
OFFLINE_ONLY = {
    "candidates.fold.",  # not `candidates.folder`
    "candidates.history",
    "candidates.item_knn.fold",
    "candidates.kernels",
    "candidates.keytable",
    "candidates.parity",
    "candidates.popularity.fold",
    "candidates.publish",
    "candidates.reference",
    "candidates.replay",
    "candidates.role",
    "candidates.session_knn.fold",
    "features.offline",
    "features.parity.bounds",
    "features.parity.recompute",
    "features.parity.sampled",
    "features.parity.watch",
    "features.migration",
}
NEVER_IN_A_SERVER = (
    "torch",
    "numba",
    "deltalake",
    "duckdb",
    "pandas",
    "lightgbm",
    "sklearn",
    "scipy",
    "matplotlib",
)
UNPICKLERS = {"pickle", "joblib", "cloudpickle", "dill", "marshal", "shelve"}


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _imports(path: Path) -> list[tuple[int, str]]:
    """Each `tailorbird.X.Y` that a module imports, without the first part, with its line; imports
    in functions included.
    """
    imports: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [node.module or ""]
            if node.module in ("tailorbird", *(f"tailorbird.{package}" for package in EVERYTHING)):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        imports += [
            (node.lineno, name.removeprefix("tailorbird."))
            for name in names
            if name.startswith("tailorbird.")
        ]
    return imports


def _rule(module: str) -> set[str]:
    matching = [key for key in ALLOWED if module == key or module.startswith(key + ".")]
    assert matching, f"{module} stands in no package of the table"
    return ALLOWED[max(matching, key=len)]


def _may(module: str, target: str) -> bool:
    package = module.partition(".")[0]
    allowed = {package, *BASE, *_rule(module)}
    return any(target == entry or target.startswith(entry + ".") for entry in allowed)


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_imports_run_one_way(path: Path) -> None:
    module = _name(path)
    wrong = [
        f"{path}:{line}: {module} imports {target}"
        for line, target in _imports(path)
        if not _may(module, target)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rule_can_fail() -> None:
    assert not _may("events.contract", "stream.embedded")
    assert not _may("serving.app", "training.train")
    assert _may("serving.app", "features.read.Reader")


def _module_imports(path: Path) -> set[str]:
    """Return the modules that a module imports; in functions too, but not for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    imports: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            imports |= {str(node.module), *names}
    return {name.removeprefix("tailorbird.") for name in imports}


def _cycles(imports: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Return the groups of modules that reach each other."""
    reached: dict[str, set[str]] = {}
    for module in imports:
        seen, pending = set[str](), [module]
        while pending:
            following = imports[pending.pop()] - seen
            seen |= following
            pending += following
        reached[module] = seen
    return {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in imports
        if module in reached[module]
    }


def test_no_modules_import_each_other() -> None:
    paths = {_name(path): path for path in _modules() if path.name != "__init__.py"}
    imports = {
        name: (_module_imports(path) & paths.keys()) - {name} for name, path in paths.items()
    }
    assert _cycles(imports) == set()
    assert _cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {("b", "c")}


def test_serving_reaches_no_offline_module() -> None:
    for path in (SOURCE / "serving").rglob("*.py"):
        for line, target in _imports(path):
            assert not any(f"{target}.".startswith(module) for module in OFFLINE_ONLY), (
                f"{path}:{line}: serving imports {target}"
            )


def test_nothing_is_unpickled_anywhere() -> None:
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), (
                    f"{path}:{node.value.lineno}: allow_pickle"
                )
                assert node.value.value is False, f"{path}:{node.value.lineno}: allow_pickle"
            assert not UNPICKLERS & {name.partition(".")[0] for name in names}, (
                f"{path}: imports {names}"
            )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tailorbird.cli.main import build_app; build_app(); "
        "print('\\n'.join(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    heavy = {"numpy", "pyarrow", "apsw", "lmdb", "onnxruntime", "starlette", *NEVER_IN_A_SERVER}
    assert not heavy & set(loaded)


def test_no_library_sends_usage_data(tmp_path) -> None:
    """ONNX Runtime would write a number for the machine and what it did into the home folder, and
    send it.
    """
    program = (
        "import tailorbird.ranking.bundle, tailorbird.models.export, pathlib; "
        "print(len(list(pathlib.Path.home().rglob('*'))))"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith("_TELEMETRY")
    } | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"


def test_no_test_file_is_a_library_of_another() -> None:
    """What several tests use is in tests/support."""
    borrowed = {
        f"{path}: {node.module}"
        for path in Path(__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("tests.")
        and (node.module or "").rpartition(".")[2].startswith(("test_", "conftest"))
    }
    assert borrowed == set()
