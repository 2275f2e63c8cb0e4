"""Settings of the servers, `[serve]`."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class ServeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: Annotated[
        str, Meta(description="address to bind; any other than 127.0.0.1 needs a key")
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(
            ge=0, le=65_535, description="port to bind; the next free one is taken if it is in use"
        ),
    ] = 8642
    processes: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="number of server processes that `up` runs on one socket; each allows "
            "its part of the limits of keys and addresses",
        ),
    ] = 2
    write_keys: Annotated[
        list[str], Meta(description="keys that may send events; set them by environment")
    ] = []
    read_keys: Annotated[
        list[str], Meta(description="keys that may request answers; set them by environment")
    ] = []
    admin_keys: Annotated[
        list[str],
        Meta(
            description="keys that may see the server's status, and read and change the "
            "formulas of slots; set them by environment"
        ),
    ] = []
    keys_file: Annotated[
        str,
        Meta(
            description="file of hashed keys that `tailorbird keys` writes, relative to the "
            "project; servers follow its changes"
        ),
    ] = "keys.json"
    allowed_origins: Annotated[
        list[str], Meta(description="web origins that browsers may call from")
    ] = []
    body_bytes_max: Annotated[
        int, Meta(ge=1_024, description="maximum size of a request body after decompression")
    ] = 1_048_576
    disk_reserve_mb: Annotated[
        int,
        Meta(
            ge=0,
            description="megabytes of disk, at most a twentieth of it, that events leave "
            "free for the other roles; 0: none",
        ),
    ] = 256
    batch_max: Annotated[
        int, Meta(ge=0, description="maximum number of events in one body; 0: no limit")
    ] = 10_000
    requests_per_s: Annotated[
        float,
        Meta(
            ge=0,
            description="maximum requests per second of one key, averaged over ten seconds; "
            "0: no limit",
        ),
    ] = 0
    events_per_s: Annotated[
        float,
        Meta(
            ge=0,
            description="maximum events per second of one key, averaged over ten seconds; 0:"
            " no limit",
        ),
    ] = 0
    ids_per_hour: Annotated[
        int,
        Meta(
            ge=0,
            description="maximum number of distinct people and items in the events of one "
            "key per hour; 0: no limit",
        ),
    ] = 2_000_000
    address_events_per_s: Annotated[
        float,
        Meta(
            ge=0,
            description="maximum events per second from one address with a browser's key; 0:"
            " no limit",
        ),
    ] = 50
    address_clicks_per_hour: Annotated[
        float,
        Meta(
            ge=0,
            description="maximum clicks and similar events per hour, and at once, from one "
            "address with a browser's key; 0: no limit",
        ),
    ] = 5_000
    address_connections: Annotated[
        int,
        Meta(
            ge=0,
            description="maximum open connections from one address that is not in `trusted_proxies`;"
            " 0: no limit",
        ),
    ] = 512
    trusted_proxies: Annotated[
        list[str],
        Meta(
            description="addresses or networks (10.0.0.0/8) of your proxies, whose "
            "X-Forwarded-For is trusted"
        ),
    ] = []
    drain_for: Annotated[
        str,
        Meta(
            description="how long a stopping server still answers while /readyz returns 503;"
            " behind a load balancer longer than it needs to react, such as 10s"
        ),
    ] = "250ms"
    keep_alive: Annotated[
        str,
        Meta(
            description="how long an idle connection is kept open; the idle timeout of a "
            "proxy in front must be shorter"
        ),
    ] = "75s"
    queue_timeout_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="how long a request may wait in the queue; a request that would wait"
            " longer is refused with a retry time",
        ),
    ] = 250
    retrieval_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time budget for finding candidates; after it, the remaining sources"
            " are skipped",
        ),
    ] = 50
    features_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time budget for reading features; after three slower reads, stale "
            "features are used for a second",
        ),
    ] = 100
    ranking_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time budget for scoring; limits the number of scored candidates by "
            "the recent cost per row",
        ),
    ] = 100
    policy_ms: Annotated[
        int,
        Meta(
            ge=1,
            description="time budget for the selection; after three slower ones, diversity "
            "is skipped for a second",
        ),
    ] = 50
    log_format: Annotated[
        Literal["text", "json"],
        Meta(description="format of the logs of servers and `up`: text lines or JSON"),
    ] = "text"
    log_requests: Annotated[
        bool, Meta(description="log every request, not only those that were refused or failed")
    ] = False
    gorse_slot: Annotated[
        str, Meta(description="slot to serve through Gorse's REST API under /api; empty: off")
    ] = ""
