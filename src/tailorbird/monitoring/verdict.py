"""What one daily check found, and how that is put in words; the checks are `monitoring.checks` and
`monitoring.amounts`.
"""

import msgspec

OK, FAILED, NONE = "ok", "failed", "none"
_SHOWN = 5


class Check(msgspec.Struct, frozen=True):
    """What one check found.

    Attributes:
        value, limit: the figure that it looks at, and past which it fails; for the history.
        told: a sentence.
        details: what is wrong, one thing each.
    """

    name: str
    status: str
    value: float
    limit: float
    told: str
    details: list[str] = []


def verdict(
    name: str,
    judged: int,
    wrong: list[str],
    value: float,
    limit: float,
    good: str,
    nothing: str = "no events",
) -> Check:
    """Failed by what is wrong, of which the first few are kept; else fine, or not judged where
    nothing could be.
    """
    if wrong:
        return Check(name, FAILED, float(value), float(limit), wrong[0], wrong[:_SHOWN])
    return Check(
        name, OK if judged else NONE, float(value), float(limit), good if judged else nothing
    )
