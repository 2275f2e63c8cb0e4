"""Result of one daily check, with its explanation; see `monitoring.checks` and `amounts`."""

import msgspec

OK = "ok"
FAILED = "failed"
NOT_JUDGED = "none"
_PROBLEMS_MAX = 5


class Check(msgspec.Struct, frozen=True):
    """Result of one check.

    Attributes:
        value, limit: the measured value, and the limit beyond which the check fails.
        explanation: the explanation, one sentence.
        details: the problems, one each.
    """

    name: str
    status: str
    value: float
    limit: float
    explanation: str
    details: list[str] = []


def build_check(
    name: str,
    judged_count: int,
    problems: list[str],
    value: float,
    limit: float,
    ok_text: str,
    skip_reason: str = "no events",
) -> Check:
    """Return a check: failed with problems, of which the first few are kept, ok, or not judged."""
    if problems:
        return Check(
            name, FAILED, float(value), float(limit), problems[0], problems[:_PROBLEMS_MAX]
        )
    return Check(
        name,
        OK if judged_count else NOT_JUDGED,
        float(value),
        float(limit),
        ok_text if judged_count else skip_reason,
    )
