"""`tailorbird features plan|apply|prune`: preview, apply and clean up a change of declarations."""

import sys

from tailorbird.cli.features.plan_output import (
    describe_retraining,
    format_bytes,
    plan_to_dict,
    print_changes,
    print_plan,
)
from tailorbird.cli.output import Json, console, print_json, progress_bars
from tailorbird.errors import UsageError

EXIT_CHANGES = 2  # Exit status of a plan that has something to do.


def plan(*, measure: bool = True, json: Json = False) -> None:
    """Show what a changed features.py would do, before it is applied.

    The plan lists added, changed and removed columns with their lines, and the size of each
    entity's records before and after: the maximum, the present mean, and the mean in a sample. It
    proves that no sum overflows, estimates from a sample of the lake how long the new state takes
    to build, and tells which models need retraining. The exit status is 0 if there is nothing to
    do, and 2 otherwise.

    Example:  tailorbird -C shop features plan

    Parameters
    ----------
    measure:
        also process a sample of the lake, to estimate the build time
    """
    from tailorbird.config import open_project
    from tailorbird.platform.features.schema_change import plan_change

    schema_plan = plan_change(open_project(), should_measure=measure)
    plan_arguments = (
        schema_plan.comparison,
        schema_plan.entity_counts,
        schema_plan.sample_measurements,
        schema_plan.retraining_need,
    )
    if json:
        print_json(plan_to_dict(*plan_arguments))
    else:
        print_plan(*plan_arguments)
    raise SystemExit(0 if schema_plan.is_unchanged else EXIT_CHANGES)


def apply(*, yes: bool = False, back: bool = False, wait: bool = True, json: Json = False) -> None:
    """Apply a changed features.py without downtime, and wait until the new state has caught up.

    A running `up` starts a worker that builds the new state next to the old one: from the lake,
    then from the log at the exact position. Answers use the schema of the live model until a model
    of the new schema is promoted. Without a running `up` this command builds the state itself. If
    it is interrupted, run it again to continue.

    Example:  tailorbird -C shop features apply --yes

    Example:  tailorbird -C shop features apply --back --yes

    Parameters
    ----------
    yes:
        do not ask for confirmation; required without a terminal
    back:
        apply the previously applied schema again, whatever features.py declares
    wait:
        wait until the state has caught up
    """
    from tailorbird.config import open_project
    from tailorbird.features import schemas
    from tailorbird.features.migration.plan import compare_sets
    from tailorbird.platform.features.schema_change import (
        apply_change,
        declared_schema_hash,
        find_retraining_need,
        load_applied_features,
    )

    project = open_project(use_applied=back)
    previous_schema = schemas.read_applied(project.paths.state).schema
    if back:
        _confirm(yes, f"Go back from schema {previous_schema or 'none'} to the one before it?")
    elif project.features.schema_hash != previous_schema:
        if not json:
            print_changes(compare_sets(load_applied_features(project), project.features))
        _confirm(yes, f"Apply schema {project.features.schema_hash}?")
    with progress_bars(quiet=json) as progress:
        applied_schema = apply_change(project, back=back, wait=wait, progress=progress)
    if json:
        print_json(
            {
                "schema": applied_schema.schema,
                "before": previous_schema,
                "changed": applied_schema.schema != previous_schema,
                "ready": wait,
                "seconds": applied_schema.duration_s,
            }
        )
        return
    out = console()
    if applied_schema.log_position is not None:
        out.print(
            f"Schema {applied_schema.schema} is applied, and its state knows everything up to "
            f"row {applied_schema.log_position:,} ({applied_schema.duration_s} s)."
        )
    else:
        out.print(f"Schema {applied_schema.schema} is applied; its state is being built.")
    for line in describe_retraining(find_retraining_need(project, applied_schema.schema)):
        out.print(line)
    if back and declared_schema_hash(project) != applied_schema.schema:
        out.print(
            "features.py still declares another schema; it stays unapplied until you apply it."
        )


def prune(*, unnamed: bool = False, json: Json = False) -> None:
    """Remove the states of schemas that are neither applied nor used by a champion.

    Such states can be rebuilt from the lake. Their copies in a Valkey are removed too, unless a
    worker still publishes them.

    Example:  tailorbird -C shop features prune

    Parameters
    ----------
    unnamed:
        also remove from the Valkey records of earlier versions, whose keys name no project: those
        of all projects on the server
    """
    from tailorbird.config import open_project
    from tailorbird.platform.features.schema_change import prune_states

    result = prune_states(open_project(use_applied=True), unnamed=unnamed)
    if json:
        print_json(
            {
                "removed": result.bytes_by_removed_schema,
                "copies_removed": result.copies_by_removed_schema,
                "kept": result.retained_schemas,
            }
        )
        return
    for schema, size in result.bytes_by_removed_schema.items():
        console().print(f"schema {schema}: removed, {format_bytes(size)}")
    for schema, record_count in result.copies_by_removed_schema.items():
        console().print(
            f"schema {schema.removeprefix('tb:')}: {record_count:,} records removed from the Valkey"
        )
    is_unchanged = not (result.bytes_by_removed_schema or result.copies_by_removed_schema)
    console().print(
        f"{'Nothing to remove. ' if is_unchanged else ''}Kept: "
        f"{', '.join(result.retained_schemas) or 'none'}"
    )


def _confirm(is_confirmed: bool, question: str) -> None:
    if is_confirmed:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "this changes what is applied, and nobody can be asked here", fix="add --yes"
        )
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise SystemExit(1)
