"""What takes the place of an id: a random-looking text that is the same in every file while the
erasure runs, and then for nobody.

    text = hexadecimal BLAKE2b(what, the old ids, salt; key)        the key is drawn for one erasure and destroyed at its end

So a file that was written before a crash and one that is written after it agree, an event's request
keeps its answer, and once the key is gone nothing leads from the new text to the old. Where the new
text has to fall somewhere in particular (see `features.erase`), one that does is looked for:
between two others in the order of what happened at one time by a salt; into the register of a
sketch, with the same rank, among many texts that were made for all (`_Pool`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from tailorbird.events.erased import RENAMED
from tailorbird.events.keys import hash64s
from tailorbird.features.sketch import places

MARK = RENAMED
_POOL_MAX, _POOL_STEP = 1 << 22, 1 << 16

Keys = npt.NDArray[np.uint64]
Signature = tuple[int, ...]


@dataclass
class Fresh:
    """Fresh texts under a key.

    Attributes:
        salts: by what the text is for; below 0, the place of the text in the pool. Found in the
            lake before anything is written, and kept in the journal.
        missed: for how many no text was found that falls where it should.
    """

    key: bytes
    salts: dict[str, int] = field(default_factory=dict)
    missed: int = 0

    def __post_init__(self) -> None:
        self._pools: dict[tuple[tuple[int, ...], str], _Pool] = {}
        self._taken = 0

    def text(self, what: str, *old: str) -> str:
        """The text in place of an id."""
        name = self._name(what, old)
        salt = self.salts.get(name, 0)
        return self._salted(name, salt) if salt >= 0 else self._salted("pool", -salt)

    def choose(
        self,
        what: str,
        old: Sequence[str],
        fits: Callable[[list[str]], npt.NDArray[np.bool_]],
        *,
        tries: int = 1 << 18,
    ) -> None:
        """Look for a salt whose text fits, and keep it."""
        name = self._name(what, old)
        start, step = 0, 16
        while start < tries and name not in self.salts:
            salts = range(start, start + step)
            found = np.flatnonzero(fits([self._salted(name, salt) for salt in salts]))
            if len(found):
                self.salts[name] = salts[int(found[0])]
            start, step = start + step, min(4_096, 2 * step)
        self.missed += name not in self.salts

    def choose_place(
        self,
        what: str,
        old: Sequence[str],
        text: str,
        precisions: tuple[int, ...],
        prefix: str = "",
    ) -> None:
        """Take a text that, behind `prefix`, falls into the same registers of sketches as `text`,
        with the same ranks; each once.
        """
        name = self._name(what, old)
        if name in self.salts:
            return
        pool = self._pools.setdefault((precisions, prefix), _Pool(precisions))
        wanted = pool.signatures([text])[0]
        while not pool.has(wanted) and pool.size < _POOL_MAX:
            numbers = range(self._taken + 1, self._taken + 1 + _POOL_STEP)
            pool.add(numbers, [f"{prefix}{self._salted('pool', number)}" for number in numbers])
            self._taken += _POOL_STEP
        if pool.has(wanted):
            self.salts[name] = -pool.take(wanted)
        else:
            self.missed += 1

    def _name(self, what: str, old: Sequence[str]) -> str:
        return blake2b(
            "\0".join((what, *old)).encode(errors="surrogatepass"), digest_size=16, key=self.key
        ).hexdigest()

    def _salted(self, name: str, salt: int) -> str:
        return MARK + blake2b(f"{name} {salt}".encode(), digest_size=12, key=self.key).hexdigest()


class _Pool:
    """Texts by where they fall, by number: to look for each alone would cost thousands of hashes
    every time.
    """

    def __init__(self, precisions: tuple[int, ...]) -> None:
        self._precisions = precisions
        self._by_signature: dict[Signature, list[int]] = {}
        self.size = 0

    def signatures(self, texts: Iterable[str]) -> list[Signature]:
        hashes = hash64s(texts)
        columns = [
            column.tolist()
            for precision in self._precisions
            for column in places(hashes, precision)
        ]
        return list(zip(*columns, strict=True))

    def add(self, numbers: Sequence[int], texts: list[str]) -> None:
        for number, signature in zip(numbers, self.signatures(texts), strict=True):
            self._by_signature.setdefault(signature, []).append(number)
        self.size += len(texts)

    def has(self, signature: Signature) -> bool:
        return bool(self._by_signature.get(signature))

    def take(self, signature: Signature) -> int:
        return self._by_signature[signature].pop()
