"""Names of a package that are imported when they are first used, so that the package loads fast."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def make_lazy_getattr(
    package: str, names_by_module: Mapping[str, Sequence[str]]
) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package.

    Args:
        names_by_module: module → the names that the package takes from it.
    """
    module_by_name = {name: module for module, names in names_by_module.items() for name in names}

    def load(name: str) -> Any:
        if name not in module_by_name:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(module_by_name[name]), name)

    return load
