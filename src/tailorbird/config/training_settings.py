"""Settings of training, search, scores and daily checks."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class ScoreSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    keep: Annotated[
        str,
        Meta(description="how long scores stay in their log, and so how much time consumers have"),
    ] = "7d"


class ChecksSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    after: Annotated[
        str, Meta(description="time after the end of a day (UTC) when its data is checked")
    ] = "1h"
    alert: Annotated[
        str,
        Meta(
            description="URL that receives a day's report by POST if a check fails, or a "
            "command that gets it on stdin, started without a shell: for `|` and"
            " `>` write `sh -c '…'`"
        ),
    ] = ""


class SearchSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    encoder: Annotated[
        str,
        Meta(
            description="folder of a sentence encoder (model.onnx, tokenizer.json) to order "
            "search results by words and meaning; empty: by words alone"
        ),
    ] = ""
    weight: Annotated[
        float,
        Meta(
            ge=0.0,
            le=10.0,
            description="weight of the encoder's cosine, relative to the share of the best "
            "score by words",
        ),
    ] = 0.5


class TrainSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    slot: Annotated[str, Meta(description="default slot of `tailorbird train`")] = "home"
    window: Annotated[str, Meta(description="length of the past that a training set covers")] = (
        "28d"
    )
    retrieval: Annotated[
        Literal["auto", "tables", "sequence"],
        Meta(
            description="source of candidates: tables, vectors too (`sequence`), or vectors "
            "if they find more (auto)"
        ),
    ] = "auto"
    every: Annotated[
        str,
        Meta(
            description="interval of scheduled trainings, which keep the model fresh, or a cron "
            "expression in UTC, such as `0 3 * * *`; empty: never"
        ),
    ] = "1d"
    check_every: Annotated[
        str,
        Meta(
            description="interval of the checks for a fall of live metrics that requires retraining"
        ),
    ] = "1h"
