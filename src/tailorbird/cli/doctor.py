"""`tailorbird doctor`."""

from tailorbird.cli.output import Json, console, print_json, print_table


def doctor(*, json: Json = False) -> None:
    """Diagnose this machine and this project, and suggest fixes. Changes nothing.

    It prints versions, disk, clock, port, keys, the state of the logs and the lag of their readers,
    and which roles were restarted in the last hour, and why.
    It checks that brokers, Valkey and bucket respond, and which rows of a topic are lost. It
    reports damaged models, empty or late candidate sources, and slots whose formulas or rules need
    unknown values or leave no item. The output has no secrets, so it is safe in a bug report. The
    command ends with status 1 if something is broken.

    Example:  tailorbird -C shop doctor
    """
    from tailorbird.platform.diagnostics.diagnose import diagnose

    diagnosis = diagnose()
    if json:
        print_json(diagnosis.to_dict())
    else:
        rows = [finding[:3] for finding in diagnosis.findings]
        print_table("", ["what", "state", "found"], rows)
        todo = [(subject, fix) for subject, _, _, fix in diagnosis.findings if fix]
        console().print("\nNothing to do." if not todo else "\nWhat to do:")
        for subject, fix in todo:
            console().print(f"  {subject}: {fix}")
    raise SystemExit(1 if diagnosis.is_broken else 0)
