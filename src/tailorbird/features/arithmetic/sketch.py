"""HyperLogLog sketches: an estimate of the number of distinct values from registers that merge by
max.

The first p bits of a value's 64-bit hash choose a register; the rank is the index of the first 1 in
the remaining bits:

    hash  101101 | 0001…    p = 6: register 45, rank 4        a register is the largest rank; 0:
none

The summary of the union of all registers is two integers: V, the number of empty ones, and Z = Σ
2^(40 − rank). The estimate is α·m²·2^40 / Z, and for small ones m·ln(m / V), rounded to an integer;
logarithms come from a table. Source: Flajolet, Fusy, Gandouet and Meunier, AofA 2007, figure 3.
"""

from decimal import Context, Decimal
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tailorbird.features.declare.limits import RANK_MAX

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Registers = npt.NDArray[np.uint8]  # (…, 2^p)

_ALPHA_BY_PRECISION = {
    4: 0.673,
    5: 0.697,
    6: 0.709,
    7: 0.7213 / (1 + 1.079 / 128),
    8: 0.7213 / (1 + 1.079 / 256),
}


def registers_and_ranks(hashes: Keys, precision: int) -> tuple[Intps, Registers]:
    """Return the register and rank of each hash."""
    register = (hashes >> np.uint64(64 - precision)).astype(np.intp)
    # The 53 bits that a float64 holds exactly: its exponent tells how many of them lead with 0.
    low_bits = (hashes << np.uint64(precision)) >> np.uint64(11)
    _, exponent = np.frexp(low_bits.astype(np.float64))
    return register, np.minimum(54 - exponent, RANK_MAX).astype(np.uint8)


def summarise_registers(registers: Registers) -> tuple[Int64s, Int64s]:
    """Return V and Z of registers (n, 2^p)."""
    empty_registers = np.count_nonzero(registers == 0, axis=1)
    return empty_registers, np.left_shift(np.int64(1), RANK_MAX - registers.astype(np.int64)).sum(
        axis=1
    )


def estimate_distinct(empty_registers: Int64s, rank_sum: Int64s, precision: int) -> Floats:
    """Return the rounded estimate from a summary; an unknown entity's summary of zeros gives no
    valid one.
    """
    register_count = float(1 << precision)
    raw_estimate = (
        _ALPHA_BY_PRECISION[precision]
        * register_count
        * register_count
        * 2.0**RANK_MAX
        / np.maximum(rank_sum, 1).astype(np.float64)
    )
    is_small = (raw_estimate <= 2.5 * register_count) & (empty_registers > 0)
    return np.rint(np.where(is_small, linear_count_table(precision)[empty_registers], raw_estimate))


@lru_cache(maxsize=8)
def linear_count_table(precision: int) -> Floats:
    """Return m·ln(m / V) for V = 0 (unused) to m, computed to 30 digits, equal on every machine."""
    context = Context(prec=30)
    register_count = Decimal(1 << precision)
    logs = [
        context.multiply(
            register_count, context.ln(context.divide(register_count, Decimal(empty_registers)))
        )
        for empty_registers in range(1, (1 << precision) + 1)
    ]
    return np.array([0.0, *(float(log) for log in logs)])
