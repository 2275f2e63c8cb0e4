"""Records by key, many in one round trip and as of one commit; see `store.protocol`."""

from tailorbird.store.copies import WRITE_TIMEOUT_S, CopiedStore, Copies
from tailorbird.store.embedded import EmbeddedStore, open_store, read_inode
from tailorbird.store.opening import CopyTarget, open_copies, server_address
from tailorbird.store.protocol import Snapshot, Store, Transaction

__all__ = [
    "WRITE_TIMEOUT_S",
    "CopiedStore",
    "Copies",
    "CopyTarget",
    "EmbeddedStore",
    "Snapshot",
    "Store",
    "Transaction",
    "open_copies",
    "open_store",
    "read_inode",
    "server_address",
]
