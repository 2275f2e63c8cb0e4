"""The sizes of the demo, which alone determine the figures that it prints."""

from dataclasses import dataclass

from tailorbird.events import MINUTE


@dataclass(frozen=True)
class Scale:
    """Sizes of a run.

    Attributes:
        history_days: days before the last midnight to import and train on.
        trial_days: days of live traffic under the experiment before tastes shift.
        shift_strength: share of tastes that changes then, in [0, 1].
        fall_days_max: maximum days for monitoring to request a new model; after that the demo
            reports a failure.
        learn_days: days after the start of the fall when the first new model is trained. After a
            model that the gate refused, another follows a day later with a day more of data.
        attempts: maximum number of new models.
        wait_days: days of traffic before another first model, if the gate refused the one before.
        tick_us: interval on the simulated clock in which new events are routed and counted.
        http_requests: number of requests to the real server.
        truth_every: one in so many requests is evaluated by the simulator's truth for both arms.
        parity_responses: number of logged answers whose features are recomputed from the lake.
    """

    users: int = 1_500
    items: int = 600
    history_days: int = 28
    trial_days: int = 4
    shift_strength: float = 0.75
    fall_days_max: int = 5
    learn_days: float = 5.0
    attempts: int = 4
    wait_days: int = 3
    tick_us: int = 3 * MINUTE
    http_requests: int = 2_000
    truth_every: int = 10
    parity_responses: int = 1_500


FULL_SCALE = Scale()
SMALL_SCALE = Scale(
    users=400,
    items=250,
    history_days=6,
    trial_days=1,
    fall_days_max=1,
    learn_days=0.5,
    attempts=1,
    wait_days=1,
    tick_us=20 * MINUTE,
    http_requests=60,
    truth_every=5,
    parity_responses=200,
)
