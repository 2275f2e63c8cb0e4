"""Lines whose quote is not closed are taken out of a file that is read in pieces, and nothing else,
wherever a piece ends.
"""

import io
from itertools import accumulate

import pytest

from tailorbird.events.tables.quotes import without_broken_lines

HEADER = b"who,what,title\n"
ROWS = [b"u%06d,i%06d,some title\n" % (number, number) for number in range(60_000)]
PIECE = next(
    place for place, end in enumerate(accumulate(map(len, ROWS))) if end >= 1 << 20
)  # the last line of the first piece


@pytest.mark.parametrize("position", [0, PIECE - 1, PIECE, PIECE + 1, len(ROWS) - 2])
def test_a_stray_quote_spoils_only_its_line_and_multi_line_text_stays(position: int) -> None:
    stray, text = b'u,"i,some title\n', b'u,i,"a text\nof two lines"\n'
    for put, lost in (
        (stray, [stray.decode().rstrip()]),
        (text, []),
        (stray + text, [stray.decode().rstrip()]),
    ):
        rows, broken = [*ROWS[:position], put, *ROWS[position + 1 :]], list[str]()
        output = without_broken_lines(io.BytesIO(HEADER + b"".join(rows)), ",", broken).read()
        assert output == (HEADER + b"".join(rows)).replace(stray, b"")
        assert broken == lost
