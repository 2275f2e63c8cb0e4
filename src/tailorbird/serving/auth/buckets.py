"""Token buckets, and counters of distinct ids."""

import math
from collections.abc import Iterable

BURST_S = 10.0  # capacity of a bucket in seconds

_PRECISION = 12  # 4,096 registers: about 2 % off
_REGISTERS = 1 << _PRECISION
_ALPHA = 0.7213 / (1 + 1.079 / _REGISTERS)


class Bucket:
    """A token bucket that fills with `rate` a second up to `burst_s` seconds' worth, and may be
    overdrawn once.
    """

    __slots__ = ("_capacity", "_rate", "_tokens", "_updated_at")

    def __init__(self, rate: float, now: float, burst_s: float = BURST_S) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate * burst_s)
        self._updated_at = now
        self._tokens = self._capacity

    def wait_s(self, now: float) -> float:
        """Return the seconds until anything may be taken; 0 if at once."""
        self._tokens = min(self._capacity, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        return 0.0 if self._tokens > 0 else (1e-3 - self._tokens) / self._rate

    def take(self, amount: int) -> None:
        self._tokens -= amount


class DistinctCounter:
    """An estimate of the number of distinct texts (HyperLogLog).

    It hashes with Python's own keyed hash, which outsiders cannot attack.
    """

    def __init__(self) -> None:
        self._ranks = bytearray(_REGISTERS)
        self._sum_of_powers = float(_REGISTERS)
        self._empty_registers = _REGISTERS

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            hashed = hash(text) & 0xFFFF_FFFF_FFFF_FFFF
            register_index = hashed & (_REGISTERS - 1)
            remaining_bits = hashed >> _PRECISION
            rank = 65 - _PRECISION - remaining_bits.bit_length()
            old_rank = self._ranks[register_index]
            if rank > old_rank:
                self._ranks[register_index] = rank
                self._sum_of_powers += 2.0**-rank - 2.0**-old_rank
                self._empty_registers -= old_rank == 0

    def estimate(self) -> float:
        raw_estimate = _ALPHA * _REGISTERS * _REGISTERS / self._sum_of_powers
        return (
            _REGISTERS * math.log(_REGISTERS / self._empty_registers)
            if raw_estimate <= 2.5 * _REGISTERS and self._empty_registers
            else raw_estimate
        )
