"""Run a Python file of a project, such as `slots.py` or `models.py`."""

import traceback
from pathlib import Path
from typing import Any

from tailorbird.errors import DeclarationError


def run_file(file: Path) -> dict[str, Any]:
    """Run a file of declarations, and return its names.

    Raises:
        DeclarationError: it cannot be read, or fails; names file and line.
    """
    try:
        source = file.read_text()
    except OSError as error:
        raise DeclarationError(
            f"cannot be read: {error.strerror}",
            where=str(file),
            fix="tailorbird init writes an example",
        ) from None
    namespace: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
    try:
        exec(compile(source, str(file), "exec"), namespace)
    except SyntaxError as error:
        raise DeclarationError(
            f"not valid Python: {error.msg}", where=f"{file}:{error.lineno}"
        ) from None
    except Exception as error:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(file)
        ]
        where = f"{file}:{frames[-1].lineno}" if frames else str(file)
        if isinstance(error, DeclarationError):
            raise DeclarationError(
                error.message,
                where=f"{where} ({error.where})" if error.where else where,
                fix=error.fix,
            ) from None
        raise DeclarationError(f"{type(error).__name__}: {error}", where=where) from None
    return namespace
