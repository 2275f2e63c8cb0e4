"""Settings of how models change, what is watched, and who is told."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

EACH_STEP = "human"  # `rollout.approval` of every step


class CanarySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    answers_min: Annotated[
        int,
        Meta(
            ge=1,
            description="minimum answers per step, of the canary and of the champion, before"
            " a canary is judged",
        ),
    ] = 500
    errors: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="maximum share of failed answers above the champion's; a canary "
            "beyond it is ended",
        ),
    ] = 0.005
    latency: Annotated[
        float,
        Meta(
            gt=0,
            description="maximum ratio of the 95th percentile of latency to the champion's; "
            "a canary that is beyond it and `latency_excess_ms`, by more than chance, is ended",
        ),
    ] = 1.5
    latency_excess_ms: Annotated[
        float,
        Meta(
            ge=0,
            description="milliseconds beyond the champion's 95th percentile of latency that matter; "
            "5 are a twentieth of the 100 ms within which an answer seems to be instant",
        ),
    ] = 5.0
    margin: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="relative fall in clicks per item seen that must be excluded before "
            "a canary advances",
        ),
    ] = 0.1


class RolloutSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    staged: Annotated[
        bool,
        Meta(
            description="whether a model that the trainer trained is tried in shadow and as a canary"
            " before it becomes the champion; false: it is promoted once the gate accepts it"
        ),
    ] = True
    approval: Annotated[
        list[Literal["shadow", "canary", "promote", "roll_back"]],
        Meta(
            description="steps that wait for `tailorbird monitor approve`; `human`: each step; "
            "empty: none waits"
        ),
    ] = []
    holdout: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="share of the people whom the previous champion still answers, as a control"
            " for an automatic roll-back; 0: none",
        ),
    ] = 0.02
    limit: Annotated[
        str,
        Meta(
            description="how long a shadow or a canary may take before it is ended as inconclusive"
        ),
    ] = "2d"
    cooldown: Annotated[
        str,
        Meta(
            description="how long no new model is trained after one that was ended or rolled back"
        ),
    ] = "1d"
    false_rollback: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="probability that a champion as good as the previous one is ever rolled back"
            " by itself",
        ),
    ] = 0.01


class NotifySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    urls: Annotated[
        list[str],
        Meta(
            description="receivers of messages as Apprise URLs, such as mailto://, slack:// or "
            "pagerduty://; set them by environment. They need the extra `notify`"
        ),
    ] = []
    about: Annotated[
        list[Literal["drift", "rollback", "refused", "approval", "page"]],
        Meta(
            description="what is sent: episodes of drift, roll-backs, refused models and trainings "
            "that cannot run, steps that wait for a person, and responses that fail or are empty; empty: all of it"
        ),
    ] = []
    repeat: Annotated[
        str, Meta(description="time until a message about what goes on is sent again")
    ] = "12h"


class RegistrySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    keep: Annotated[
        int, Meta(ge=1, description="number of newest versions that are kept, whatever their age")
    ] = 30
    days: Annotated[
        int,
        Meta(
            ge=0,
            description="age in days from which other versions are removed, unless something "
            "refers to them; 0: never",
        ),
    ] = 90


class MonitoringSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    false_alarms: Annotated[
        float,
        Meta(
            gt=0,
            le=30,
            description="episodes of drift a month that chance alone may cause, over all signals"
            " together",
        ),
    ] = 1.0
