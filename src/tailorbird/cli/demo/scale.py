"""How large the demo is. The figures it prints come from these sizes and from nothing else."""

from dataclasses import dataclass

from tailorbird.events import MINUTE


@dataclass(frozen=True)
class Scale:
    """Sizes of a run.

    Attributes:
        history_days: before last midnight, imported and trained on.
        trial_days: live traffic under the experiment, before tastes shift.
        shift_strength: how much of people's tastes changes then, in [0, 1].
        fall_days_max: how long monitoring may take to ask for a new model before the demo says that
            it did not.
        learn_days: how long after the fall began the first new model is trained; one that the gate
            refuses is followed by another a day later, with a day more of data.
        attempts: how many new models are trained at most.
        recovery_days: live traffic with the new model.
        tick_us: how often, on the simulated clock, what came in is routed and counted.
        http_requests: requests to the real server.
        truth_every: every so many requests are judged by the simulator's truth under both arms.
        parity_answers: logged answers whose every feature is recomputed from the lake.
    """

    users: int = 1_500
    items: int = 600
    history_days: int = 28
    trial_days: int = 4
    shift_strength: float = 0.75
    fall_days_max: int = 5
    learn_days: float = 3.0
    attempts: int = 6
    recovery_days: int = 3
    tick_us: int = 3 * MINUTE
    http_requests: int = 2_000
    truth_every: int = 10
    parity_answers: int = 1_500


FULL = Scale()
SMALL = Scale(
    users=400,
    items=250,
    history_days=6,
    trial_days=1,
    fall_days_max=1,
    learn_days=0.5,
    attempts=1,
    recovery_days=1,
    tick_us=20 * MINUTE,
    http_requests=60,
    truth_every=5,
    parity_answers=200,
)
