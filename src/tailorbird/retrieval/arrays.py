"""Read and write NumPy's `.npy` arrays in bundles.

Pickles are refused, and the length in the header is checked against the data.
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_HEADER_MAX = 10_000


def read_array(data: bytes | memoryview) -> npt.NDArray[Any]:
    """Return the array in a `.npy` file, without a copy of its numbers.

    Raises ValueError if the bytes are no array or do not have the length that the header gives.
    """
    file = io.BytesIO(data[:_HEADER_MAX])
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("expected version 1.0 of the format")
        shape, is_fortran_order, dtype = np.lib.format.read_array_header_1_0(
            file, max_header_size=_HEADER_MAX
        )
    except Exception as error:  # NumPy's reader lets errors of Python's tokenizer through.
        raise ValueError(f"is no array: {error}") from error
    content = memoryview(data)[file.tell() :]
    if (
        dtype.hasobject
        or any(length < 0 for length in shape)
        or math.prod(shape) * dtype.itemsize != len(content)
    ):
        raise ValueError(f"is no array of {dtype} with the shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran_order else "C")


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a `.npy` file that `read_array` reads."""
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)


def array_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return the bytes that `write_array` writes."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return file.getvalue()
