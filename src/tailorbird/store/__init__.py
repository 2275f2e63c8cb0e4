"""Records by key, many in one round trip and as of one commit; see `store.protocol`."""

from tailorbird.store.embedded import EmbeddedStore, inode, open_store
from tailorbird.store.protocol import Snapshot, Store, Transaction

__all__ = ["EmbeddedStore", "Snapshot", "Store", "Transaction", "inode", "open_store"]
