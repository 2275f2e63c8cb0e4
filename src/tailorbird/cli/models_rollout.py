"""`tailorbird models shadow|canary`: try a version beside the champion, on nobody or on a share of
the people.
"""

import getpass
import logging
from typing import TYPE_CHECKING

from tailorbird.cli.models import open_registry
from tailorbird.cli.output import By, Json, Why, console, print_json
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.registry import Registry

BY = "canary"  # how the judge signs in the registry
log = logging.getLogger(__name__)


def shadow(version: str = "", *, why: Why = "", by: By = "", stop: bool = False) -> None:
    """Let a version score what answers show, for the log alone. Nobody sees any of it; it takes at
    most a tenth of an answer's time.

    What it says stands in the lake's `answers` as `shadow` and `shadow_scores`, beside `scores`,
    the champion's of the same items.

    Example:  tailorbird -C shop models shadow v0003 --why "does it agree?"

    Example:  tailorbird -C shop models shadow --stop

    Parameters
    ----------
    version:
        a version that `tailorbird models list` shows
    stop:
        let nobody cast a shadow any more
    """
    if bool(version) == stop:
        raise UsageError(
            "expected a version, or --stop",
            where="models shadow",
            fix='tailorbird models shadow v0003 --why "…"',
        )
    if version and not why:
        raise UsageError(
            "expected a reason for the audit log",
            where="--why",
            fix=f'tailorbird models shadow {version} --why "…"',
        )
    _, registry = open_registry()
    registry.set_shadow(version, by=by or getpass.getuser(), why=why or "stopped")
    console().print(
        f"{version} scores beside the champion; see answers.shadow_scores in the lake."
        if version
        else "No shadow any more."
    )


def canary(
    version: str = "",
    *,
    share: float = 0.01,
    why: Why = "",
    by: By = "",
    manual: bool = False,
    stop: bool = False,
    json: Json = False,
) -> None:
    """Let a version answer a share of the people, always the same ones, and say how it does.
    Without a version: only say how it does.

    The trainer role (`tailorbird up` runs it) judges every ten seconds by the log: it ends a canary
    that fails answers, is slow, gives scores that are no numbers, or gets fewer clicks; and lets
    one that does not answer 5 %, 20 %, 50 %, then everybody, each by what came of the last step,
    after 500 answers at least; `canary` in tailorbird.toml has the bounds. `--manual` leaves that
    to you: `models canary VERSION --share …`, `models promote`, `models canary --stop`, or `models
    rollback`, which ends it too.

    Example:  tailorbird -C shop models canary v0003 --share 0.05 --why "wins off-line"

    Example:  tailorbird -C shop models canary

    Example:  tailorbird -C shop models canary --stop --why "not now"

    Parameters
    ----------
    version:
        a version that `tailorbird models list` shows
    share:
        of the people, by the hash that assigns the arms of experiments; who is in at 1 % is in at 5
            %
    manual:
        it is neither advanced nor ended by itself
    stop:
        let the champion answer everybody again
    """
    project, registry = open_registry()
    signed = by or getpass.getuser()
    if stop:
        ended = registry.end_canary(by=signed, why=why or "stopped")
        console().print(f"The champion answers everybody again; {ended} was the canary.")
    elif version:
        if not why:
            raise UsageError(
                "expected a reason for the audit log",
                where="--why",
                fix=f'tailorbird models canary {version} --why "…"',
            )
        registry.set_canary(version, share, by=signed, why=why, automatic=not manual)
        console().print(
            f"{version} answers {share * 100:.3g}% of the people within a second. How it "
            "does:  tailorbird models canary"
        )
    else:
        _tell(project, registry, json)


def _tell(project: "Project", registry: "Registry", json: bool) -> None:
    from tailorbird.platform.canary import judge_canary

    verdict = judge_canary(project, registry)
    aliases = registry.aliases()
    rows = [
        {
            "version": each.version,
            "is": name,
            "answers": each.answers,
            "failed": each.failed,
            "not_finite": each.not_finite,
            "latency_ms_p95": each.latency_ms_p95,
            "ctr": each.ctr,
        }
        for name, each in (("canary", verdict.canary), ("champion", verdict.champion))
    ]
    if json:
        uplift = {
            "value": verdict.uplift.value,
            "low": verdict.uplift.low,
            "high": verdict.uplift.high,
        }
        print_json(
            {
                "share": aliases.share,
                "automatic": aliases.automatic,
                "action": verdict.action,
                "reason": verdict.reason,
                "uplift": uplift,
                "versions": rows,
            }
        )
        return
    out = console()
    out.print(
        f"{aliases.canary} answers {aliases.share * 100:.3g}% of the people, "
        f"{aliases.champion} the others"
    )
    for row in rows:
        out.print(
            f"{row['is']:>9} {row['version']}: {row['answers']:,} answers, {row['failed']:,} "
            "failed, "
            f"{row['latency_ms_p95']:.1f} ms at the 95th percentile, {row['ctr']:.2%} clicks "
            "per item seen"
        )
    out.print(f"Verdict: {verdict.action}. {verdict.reason}")
