"""Sums of the largest values that a declaration allows, as many as it was proved for: exact, up to
the last unit below 2^63.

A declaration holds 2^30 of its largest values; so that a test can bring as many, these are allowed
to be larger here, and fewer.
"""

from fractions import Fraction

import numpy as np
import pytest
from tests.features.fuzzing import words
from tests.features.fuzzing.world import BASE, World
from tests.support import features as kit

from tailorbird.errors import DeclarationError
from tailorbird.events.clock import HOUR, MINUTE, SECOND
from tailorbird.features import FeatureSet, ReadRequest, entity, total, variance
from tailorbird.features.declare import checks
from tailorbird.features.declare.limits import SUMMED_EVENTS_MIN
from tailorbird.features.migration.plan import INT64_MAX, compare_sets

EVENTS_THAT_FIT = 4
MAX, UNIT = 1e15, 5e-4
AMOUNT = f'"purchase", of="price", unit={UNIT}, max={MAX}'
LINES = (
    f'total("ever", entity("user"), {AMOUNT})',
    f'total("hour", entity("user"), {AMOUNT}, window="1h", hop="10m")',
    f'mean("mean", entity("user"), {AMOUNT}, window="1h")',
    f'maximum("most", entity("user"), {AMOUNT}, window="1h")',
    f'decayed("fading", entity("user"), {AMOUNT}, half_life="1h")',
    f'share("part", entity("user", "item"), {AMOUNT}, within=entity("user"))',
)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "SUMMED_EVENTS_MIN", EVENTS_THAT_FIT)


def _purchases(user: str, prices: list[float]) -> list[dict]:
    return [
        kit.event(
            "purchase",
            BASE + n * SECOND,
            user_id=user,
            person=user,
            item_id=f"i{1 + n % 2}",
            price=price,
            event_id=f"{user}-{n}",
        )
        for n, price in enumerate(prices)
    ]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "prices",
    [
        [MAX] * EVENTS_THAT_FIT,
        [-MAX] * EVENTS_THAT_FIT,
        [1e300, MAX - 1, 2 * MAX, 1.7e308],
        [MAX, -1e300, 0.0005, -MAX],
    ],
)
def test_sums_up_to_the_bound_are_exact_in_every_reading(prices, tmp_path):
    world = World(tmp_path / "site", LINES, collectors=False)
    users = [f"u{n}" for n in range(1, 6)]  # together far above 2^63
    try:
        for user in users:
            world.append(_purchases(user, prices))
            world.settle()
        requests = [
            ReadRequest(user, now=BASE + later)
            for user in users
            for later in (MINUTE, HOUR + 11 * MINUTE)
        ]
        for request in requests[::2]:
            world.read(request)
        ever = [one.rows.numeric[0, 0] for _, one in world.reads]
        world.rebuild(3, 1, stop_after=1)
        different = world.differences(requests)
    finally:
        world.close()
    assert different == []
    units = sum(max(-MAX, min(MAX, price)) / Fraction(UNIT) for price in prices)
    assert ever == [np.float32(float(round(units)) * UNIT)] * len(users)


@pytest.mark.usefixtures("few")
def test_the_proof_of_the_plan_is_of_as_many_as_fit_and_no_more():
    features = words.feature_set(LINES)
    proofs = {proof.name: proof for proof in compare_sets(None, features).overflow_bounds}
    assert set(proofs) == {"ever", "hour", "mean", "most", "fading", "part"}
    for proof in proofs.values():
        assert proof.largest_value_units == round(MAX / UNIT)
        assert proof.additions_until_overflow >= EVENTS_THAT_FIT
        assert (
            proof.additions_until_overflow * proof.largest_value_units
            <= INT64_MAX
            < (proof.additions_until_overflow + 1) * proof.largest_value_units
        )


def test_what_does_not_hold_enough_events_is_refused_at_the_very_unit():
    user = entity("user")
    fits = FeatureSet.from_declarations(
        [
            total("sum", user, "purchase", of="price", unit=1, max=2**33 - 1),
            variance("spread", user, "purchase", of="price", unit=1, max=2**31 - 1),
        ]
    )
    for proof in compare_sets(None, fits).overflow_bounds:
        assert proof.additions_until_overflow >= SUMMED_EVENTS_MIN
    with pytest.raises(DeclarationError, match="do not fit into 64 bits"):
        total("sum", user, "purchase", of="price", unit=1, max=2**33)
    with pytest.raises(DeclarationError, match="its square does not fit"):
        variance("spread", user, "purchase", of="price", unit=1, max=2**31)
