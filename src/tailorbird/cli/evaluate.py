"""`tailorbird evaluate`."""

from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, progress_bars
from tailorbird.cli.train import Rows

if TYPE_CHECKING:
    from tailorbird.registry import Registry


def evaluate(
    *versions: str,
    slot: str = "",
    window: str = "",
    quick: bool = False,
    rows: Rows = "auto",
    as_of: str = "",
    json: Json = False,
) -> None:
    """Judge the champion, or the versions named, beside all baselines on the newest part of what
    the lake holds. Changes nothing.

    Every figure has its 95 % interval over people. For each version it says up to when that one has
    learned: where this reaches into the part that it is judged on, its figures flatter it.

    Example:  tailorbird -C shop evaluate

    Example:  tailorbird -C shop evaluate v0001 v0002 --slot home --window 14d

    Parameters
    ----------
    versions:
        versions of the registry, or champion, previous, challenger; the champion unless told
            otherwise
    slot:
        train.slot unless told otherwise
    window:
        of how much of the past the newest part is taken, train.window unless told otherwise
    quick:
        judge fewer requests
    rows:
        judge on logged answers, or on clicks and the like; auto: answers, where enough have a known
            outcome
    as_of:
        judge as if it were this time, such as 2026-11-25, or `latest`: where the history in the
            lake ended, or now while events come
    """
    from tailorbird.cli.moment import clock_as_of
    from tailorbird.cli.train import print_cold_start, print_long_tail, print_results, window_of
    from tailorbird.config import open_project
    from tailorbird.errors import NotReadyError
    from tailorbird.events import to_iso
    from tailorbird.registry import Registry
    from tailorbird.training.evaluate import evaluate as run_evaluate
    from tailorbird.training.train import TrainSettings

    project = open_project(applied=True)
    declared = project.slot(slot)
    clock = clock_as_of(as_of, project)
    registry = Registry(project.paths.registry, clock=clock)
    if not versions and registry.champion() is None:
        known = ", ".join(info.version for info in registry.versions())
        fix = (
            f"tailorbird evaluate VERSION judges one of {known}"
            if known
            else "tailorbird train makes one"
        )
        raise NotReadyError("there is no champion to judge yet", where=str(registry.path), fix=fix)
    chosen, note = _judged(registry, versions)
    learned = {version: to_iso(registry.verify(version).window.ts_to) for version in chosen}
    window_us = window_of(window, project)
    with progress_bars(quiet=json) as progress:
        found = run_evaluate(
            project.features,
            declared,
            tuple(chosen),
            lake=project.paths.lake,
            registry=project.paths.registry,
            clock=clock,
            settings=TrainSettings(
                window_us=window_us, lateness_us=project.plan.lateness_us, quick=quick, rows=rows
            ),
            progress=progress,
        )
    if json:
        print_json(
            {
                "slot": declared.name,
                "learned_until": learned,
                "source": found.about["source"],
                **found.plain(),
            }
        )
        return
    title = (
        f"Slot {declared.name}: {found.requests:,} requests, {found.people:,} people, "
        f"{found.rows:,} rows of the newest part"
    )
    print_results(found.plain()["results"], title)
    print_cold_start(found)
    print_long_tail(found)
    out = console()
    if note:
        out.print(note)
    for name, amount in found.amounts.items():
        out.print(f"{name}: {amount.told}")
    out.print(found.about["source"])
    for version, moment in learned.items():
        out.print(f"{version} learned from what came before {moment}")


def _judged(registry: "Registry", versions: tuple[str, ...]) -> tuple[list[str], str]:
    """Return the versions to judge, and what to say of the choice: a champion without a model is
    judged as the baseline that it is.
    """
    from tailorbird.errors import NotReadyError

    chosen = [registry.resolve(name).name for name in versions or ("champion",)]
    if versions or registry.info(chosen[0]).heads:
        return chosen, ""
    models = [info.version for info in registry.versions() if info.heads]
    if not models:
        problem = f"{chosen[0]} has no model, and no other version has one"
        raise NotReadyError(problem, where=str(registry.path), fix="tailorbird train")
    return (
        models[-1:],
        f"{chosen[0]} answers, by a baseline that stands among the others. Judged is the "
        f"newest model, {models[-1]}.",
    )
