"""Sentences that explain why an answer is general, short or empty, and what to do.

`recommend` prints them below its list.
"""

from tailorbird.events import to_iso
from tailorbird.ranking.baseline import Baseline
from tailorbird.serving.messages import DEGRADED, RecommendResponse


def explain_response(
    response: RecommendResponse,
    *,
    user: str,
    has_history: bool,
    baseline: str,
    command: str,
    refused_version: str = "",
) -> list[str]:
    """Return a sentence for each reason why an answer is general, short or empty.

    Args:
        user: the person of the query, "" for a stranger.
        has_history: whether the lake has any event of theirs.
        baseline: sources by which the version that answered orders items, "" where it is a model.
        command: `tailorbird` with the folder of the project.
        refused_version: the newest model, which the gate did not promote; "" where there is none.
    """
    sentences = [f"features as of {to_iso(response.t)[:16].replace('T', ' ')} UTC"]
    sentences += [DEGRADED[code] for code in response.degraded if code in DEGRADED]
    if baseline:
        sentences.append(describe_baseline(response.model, baseline, refused_version, command))
    if response.arm:
        sentences.append(
            f"arm {response.arm} of experiment {response.experiment}: other people may be in another"
        )
    if not user:
        sentences.append(f"for a stranger; for somebody: {command} recommend --user ID")
    elif not has_history:
        sentences.append(f"nothing is known of user {user}: the list is a stranger's")
    return sentences


def describe_baseline(version: str, baseline: str, refused_version: str, command: str) -> str:
    """Describe a version that orders items by sources, and what to do.

    The arguments are those of `explain_response`.
    """
    same_list_note = ", the same list for everybody" if Baseline.parse(baseline).is_global else ""
    advice = f"{command} train learns one"
    if refused_version:
        promote_command = f'{command} models promote {refused_version} --why "a try"'
        advice = (
            f"{refused_version} was learned and was not better beyond chance; to let it answer all "
            f"the same: {promote_command}"
        )
    return (
        f"{version} is no model, but the best judged baseline: {baseline}{same_list_note}. {advice}"
    )
