"""A log in a topic of Kafka, or of anything that speaks its protocol. Needs the extra `kafka`.

`cluster`: addresses, settings, topics · `frames`: what a message looks like · `tail`: looking at
single messages · `writer`, `reader`: the two sides of `stream.protocol` · `keyed`, `merged`: the
same over several partitions. A log in a SQLite file is `stream.embedded`.
"""

from tailorbird.stream.kafka.address import KafkaLog
from tailorbird.stream.kafka.cluster import Cluster, parse_cluster
from tailorbird.stream.kafka.keyed import KeyedLog, KeyedWriter
from tailorbird.stream.kafka.merged import MergedLog, MergedReader
from tailorbird.stream.kafka.reader import KafkaReader
from tailorbird.stream.kafka.writer import KafkaWriter

__all__ = [
    "Cluster",
    "KafkaLog",
    "KafkaReader",
    "KafkaWriter",
    "KeyedLog",
    "KeyedWriter",
    "MergedLog",
    "MergedReader",
    "parse_cluster",
]
