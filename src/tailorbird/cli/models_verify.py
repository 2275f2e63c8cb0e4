"""`tailorbird models verify`: whether a version says now what it said when it answered."""

from tailorbird.cli.models import open_registry
from tailorbird.cli.output import Json, console, print_json
from tailorbird.errors import NotReadyError, UsageError


def verify(version: str = "champion", *, answers: int = 10_000, json: Json = False) -> None:
    """Compute the scores of logged answers again from their logged features, by a version, and compare them to the bit.

    Left out are answers of other versions, of searches, of slots with boosts, and those that lacked anything; and of the others the items
    that came after the version, which also move the popularity of all others: verify soon after a training. Ends with status 1 if any
    other score differs.

    Example:  tailorbird -C shop models verify

    Parameters
    ----------
    version:
        a version, or champion, previous, canary
    answers:
        how many of the newest that the version gave
    """
    from dataclasses import asdict

    import pyarrow.dataset as ds

    from tailorbird.config.schemas import find_schema
    from tailorbird.lake import Lake
    from tailorbird.ranking.bundle import Bundle
    from tailorbird.ranking.rescoring import READ, rescored

    if answers < 1:
        raise UsageError(f"expected a number of answers, got {answers}", where="--answers")
    project, registry = open_registry("")
    bundle = Bundle.load(registry.resolve(version), schema_hash=None)
    logged = Lake(project.paths.lake).table("answers", READ, where=ds.field("model") == bundle.version)
    newest = logged.sort_by([("ts", "descending")]).slice(0, answers)
    boosted = [slot.name for slot in project.slots.values() if slot.boosts]
    report = rescored(bundle, find_schema(project, bundle.schema_hash), newest, boosted=boosted)
    if not report.scores:
        fix = "ask a server for some, and wait until the lake has them"
        raise NotReadyError(f"no answer of {bundle.version} can be compared, {report.skipped:,} were left out", fix=fix)
    if json:
        print_json({"version": bundle.version, **asdict(report)})
    else:
        counts = f"{report.answers:,} answers of {bundle.version}, {report.scores:,} scores compared, {report.unequal:,} unequal"
        console().print(f"{counts}; {report.skipped:,} answers and {report.later:,} scores of later items were left out.")
        for one in report.examples[:5]:
            console().print(f"  {one.request_id} {one.item}: logged {one.logged:.9g}, computed {one.computed:.9g}", markup=False)
    raise SystemExit(1 if report.unequal else 0)
