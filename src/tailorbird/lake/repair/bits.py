"""A flipped bit, found by the checksum that it broke: there is one content of the file that has it,
and few that are a bit away.

The search costs a hash for each bit of the file, so it is for files that are small. A line of a
chained file carries its own checksum, and so is found in any file.
"""

import hashlib

SIZE_MAX = 16 << 10  # some seconds

_KEY = b',"chain":"'
_TAIL = len(_KEY) + 64 + len(b'"}')


def turned_back(data: bytes, sha256: str) -> bytes | None:
    """The data with one bit turned, if that is what the checksum is of.

    >>> whole = b"as it was written"
    >>> turned_back(b"as it wAs written", hashlib.sha256(whole).hexdigest()) == whole
    True
    """
    if len(data) > SIZE_MAX:
        return None
    expected = bytes.fromhex(sha256)
    before = hashlib.sha256()
    for at in range(len(data)):
        rest = data[at + 1 :]
        for bit in range(8):
            digest = before.copy()
            digest.update(bytes((data[at] ^ 1 << bit,)) + rest)
            if digest.digest() == expected:
                return data[:at] + bytes((data[at] ^ 1 << bit,)) + rest
        before.update(data[at : at + 1])
    return None


def chain_turned_back(data: bytes, origin: str) -> tuple[bytes, list[int]] | None:
    """A chained file (`lake.chained`) with the bits turned back that were flipped, at most one a
    line, and the numbers of those lines.

    None where a line has more wrong with it, or is gone. What stands behind the last whole line is
    left away.
    """
    chain = hashlib.sha256(origin.encode()).hexdigest()
    whole: list[bytes] = []
    mended: list[int] = []
    rest = data
    while rest:
        line, _, behind = rest.partition(b"\n")
        following = _follows(line, chain) if len(line) < len(rest) else None
        if following is None:
            # A flip may have made two lines of one, or one of two.
            end = behind.find(b"\n")
            window = rest[: len(line) + 1 + (end + 1 if end >= 0 else len(behind))]
            line = _line_turned_back(window, chain) or b""
            if not line:
                return (b"".join(whole), mended) if b"\n" not in rest and mended else None
            mended.append(len(whole))
            behind = rest[len(line) + 1 :]
            following = _follows(line, chain)
            assert following is not None
        whole.append(line + b"\n")
        chain, rest = following, behind
    return b"".join(whole), mended


def _follows(line: bytes, chain: str) -> str | None:
    """The line's own checksum, if it fits behind the one before."""
    own = hashlib.sha256(chain.encode() + line[:-_TAIL]).hexdigest()
    return own if line[-_TAIL:] == _KEY + own.encode() + b'"}' else None


def _line_turned_back(window: bytes, chain: str) -> bytes | None:
    for at in range(len(window)):
        for bit in range(8):
            tried = window[:at] + bytes((window[at] ^ 1 << bit,)) + window[at + 1 :]
            line, newline, _ = tried.partition(b"\n")
            if newline and at <= len(line) and _follows(line, chain) is not None:
                return line
    return None
