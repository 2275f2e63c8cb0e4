"""`tailorbird models shadow|canary`: try a version on no traffic or on a share of it."""

import getpass
import logging
from typing import TYPE_CHECKING

from tailorbird.cli.models.commands import open_registry
from tailorbird.cli.output import By, Json, Why, console, print_json
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.registry import Registry

ACTOR = "canary"  # The author of these changes in the registry.
log = logging.getLogger(__name__)


def shadow(version: str = "", *, why: Why = "", by: By = "", stop: bool = False) -> None:
    """Let a version score the shown items for the log only, without showing its results.

    It takes at most a tenth of an answer's time. Its scores are in the lake's `answers` as `shadow`
    and `shadow_scores`, next to `scores`, those of the champion for the same items.

    Example:  tailorbird -C shop models shadow v0003 --why "does it agree?"

    Example:  tailorbird -C shop models shadow --stop

    Parameters
    ----------
    version:
        a version that `tailorbird models list` shows
    stop:
        end the shadow
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
    """Let a version answer a fixed share of the people, or print the state of the canary.

    Without a version the command only prints how the canary does. The trainer role (`tailorbird up`
    runs it) evaluates the log every ten seconds. It ends a canary that fails, is slow, returns
    scores that are no numbers, or gets fewer clicks. Otherwise the canary advances to 5 %, 20 % and
    50 % of the people and then becomes the champion, each after at least 500 answers of the last
    step. The limits are in section `canary` of tailorbird.toml. With `--manual` you decide: `models
    canary VERSION --share …`, `models promote`, `models canary --stop`, or `models rollback`, which
    also ends it.

    Example:  tailorbird -C shop models canary v0003 --share 0.05 --why "wins off-line"

    Example:  tailorbird -C shop models canary

    Example:  tailorbird -C shop models canary --stop --why "not now"

    Parameters
    ----------
    version:
        a version that `tailorbird models list` shows
    share:
        share of the people, by the hash that assigns arms of experiments; the people of a 1 % share
        stay in a share of 5 %
    manual:
        do not advance or end it automatically
    stop:
        let the champion answer all requests again
    """
    project, registry = open_registry()
    author = by or getpass.getuser()
    if stop:
        ended_version = registry.end_canary(by=author, why=why or "stopped")
        console().print(f"The champion answers everybody again; {ended_version} was the canary.")
    elif version:
        if not why:
            raise UsageError(
                "expected a reason for the audit log",
                where="--why",
                fix=f'tailorbird models canary {version} --why "…"',
            )
        registry.set_canary(version, share, by=author, why=why, automatic=not manual)
        console().print(
            f"{version} answers {share * 100:.3g}% of the people within a second. How it "
            "does:  tailorbird models canary"
        )
    else:
        _print_canary(project, registry, json)


def _print_canary(project: "Project", registry: "Registry", json: bool) -> None:
    from tailorbird.platform.models.canary import read_canary

    canary_state = read_canary(project, registry)
    if json:
        print_json(canary_state.to_dict())
        return
    out = console()
    verdict = canary_state.verdict
    out.print(
        f"{verdict.canary.version} answers {canary_state.share * 100:.3g}% of the people, "
        f"{verdict.champion.version} the others"
    )
    for row in canary_state.to_frame().to_pylist():
        out.print(
            f"{row['is']:>9} {row['version']}: {row['answers']:,} answers, {row['failed']:,} "
            f"failed, {row['latency_ms_p95']:.1f} ms at the 95th percentile, {row['ctr']:.2%} "
            "clicks per item seen"
        )
    out.print(f"Verdict: {verdict.action}. {verdict.reason}")
