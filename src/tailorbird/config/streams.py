"""The Kafka-compatible cluster that section [stream] names, if the logs are topics."""

from typing import TYPE_CHECKING

from tailorbird.config.settings import Settings
from tailorbird.errors import ConfigError
from tailorbird.events import SECOND, parse_duration

if TYPE_CHECKING:
    from tailorbird.stream.kafka import Cluster

SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
# Options of librdkafka on which the durability of events depends.
_RESERVED_OPTIONS = (
    "enable.idempotence",
    "acks",
    "isolation.level",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
)


def kafka_cluster(settings: Settings) -> "Cluster | None":
    """Return the cluster that the settings name; None if the logs are files. Raises ConfigError."""
    section = settings.stream
    if not section.url:
        if section.partitions > 1:
            raise ConfigError(
                "files have one partition",
                where="stream.partitions",
                fix="set stream.url to keep the logs in topics",
            )
        return None
    from tailorbird.stream.kafka import parse_cluster

    protocol = f"{'SASL_' if section.sasl else ''}{'SSL' if section.tls else 'PLAINTEXT'}"
    options: dict[str, object] = {"security.protocol": protocol}
    file_options = {
        "ssl.ca.location": section.ca_file,
        "ssl.certificate.location": section.cert_file,
        "ssl.key.location": section.key_file,
    }
    options |= {
        name: value
        for name, value in {**file_options, "ssl.key.password": section.key_password}.items()
        if value
    }
    if section.sasl:
        if section.sasl not in SASL_MECHANISMS:
            raise ConfigError(
                f"expected one of {', '.join(SASL_MECHANISMS)}, got {section.sasl!r}",
                where="stream.sasl",
            )
        if not (section.sasl_user and section.sasl_password):
            raise ConfigError(
                f"{section.sasl} needs a user and a password",
                where="stream.sasl",
                fix="set stream.sasl_user, and TAILORBIRD_STREAM__SASL_PASSWORD in the environment",
            )
        options |= {
            "sasl.mechanism": section.sasl,
            "sasl.username": section.sasl_user,
            "sasl.password": section.sasl_password,
        }
    for entry in section.client:
        name, equals, value = entry.partition("=")
        if not equals:
            raise ConfigError("expected `name=value` of each entry", where="stream.client")
        if name.strip() == "default.topic.config":
            raise ConfigError(
                "default.topic.config holds others: name each of them by itself",
                where="stream.client",
            )
        if name.strip() in _RESERVED_OPTIONS:
            raise ConfigError(
                f"{name.strip()} is what keeps events from being lost, and cannot be set",
                where="stream.client",
            )
        options[name.strip()] = value.strip()
    timeout_s = parse_duration(section.timeout) / SECOND
    return parse_cluster(
        section.url,
        options=options,
        replication=section.replication,
        partitions=section.partitions,
        timeout_s=timeout_s,
    )
