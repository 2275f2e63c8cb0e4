"""The client of Kafka, where it is installed: its classes, untyped as they are. Whoever opens a log
calls `require_client` first.
"""

from typing import Any

from tailorbird.errors import ConfigError

try:
    import confluent_kafka
    from confluent_kafka import admin
except ImportError:  # the module can be imported, a log cannot be opened
    confluent_kafka = admin = None  # type: ignore[assignment]


class _MissingClientError(Exception):
    """Never raised."""


_client: Any = confluent_kafka
_admin: Any = admin
Consumer: Any = _client and _client.Consumer
Producer: Any = _client and _client.Producer
TopicPartition: Any = _client and _client.TopicPartition
KafkaError: Any = _client and _client.KafkaError
KafkaException: type[Exception] = _client.KafkaException if _client else _MissingClientError
AdminClient: Any = _admin and _admin.AdminClient
OFFSET_END: Any = _client and _client.OFFSET_END
ConfigResource: Any = _admin and _admin.ConfigResource
NewTopic: Any = _admin and _admin.NewTopic


def require_client() -> None:
    """Raise ConfigError where the client is not installed."""
    if _client is None:
        raise ConfigError(
            "the client of Kafka is not installed",
            where="stream.url",
            fix='pip install "tailorbird[kafka]"',
        )
