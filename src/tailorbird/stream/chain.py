"""The checksum chain of a log: each block's sum covers the block and the sum before it.

    crc(k) = CRC-32 over  crc(k-1) u32 | offset i64 | rows i64
                          | len(kind) u32 | len(receipt) u32 | kind | receipt | payload

A block that was changed or moved, or whose predecessor is missing, does not match. The chain starts
from the partition's name.
"""

import struct
from zlib import crc32

from tailorbird.stream.protocol import Block

_HEADER = struct.Struct("<IqqII")


def initial_checksum(partition: str) -> int:
    """Return the checksum before a log's first block."""
    return crc32(partition.encode())


def block_checksum(previous_checksum: int, offset: int, block: Block) -> int:
    """Return the sum of `block` at `offset` after a block with the sum `previous_checksum`."""
    kind = block.kind.encode()
    header = _HEADER.pack(previous_checksum, offset, block.rows, len(kind), len(block.receipt))
    return crc32(block.payload, crc32(block.receipt, crc32(kind, crc32(header))))
