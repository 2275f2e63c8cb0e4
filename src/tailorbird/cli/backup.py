"""`tailorbird backup|restore`."""

from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, progress_bars


def backup(uri: str, /, *, keep: int = 0, json: Json = False) -> None:
    """Back up the project to a folder or bucket while its roles run.

    The backup has settings, declarations, logs, lake and registry as of one moment: all events
    acknowledged before it are in it. State is rebuilt after a restore. A file that an earlier
    backup at the same URI has is not copied again.

    Example:  tailorbird -C shop backup /mnt/backup/shop --keep 14

    Example:  tailorbird -C shop backup s3://backups/shop --json

    Parameters
    ----------
    uri:
        a folder, or s3://bucket/prefix; one for each project
    keep:
        delete all but the newest backups, this many; 0 keeps all
    """
    from tailorbird.backup.pace import lower_priority

    lower_priority()
    from tailorbird.config import find_project
    from tailorbird.platform.project import Project

    with progress_bars(quiet=json) as progress:
        report = Project(find_project()).backup(uri, keep=keep, progress=progress)
    if json:
        print_json(report.to_dict())
    else:
        console().print(repr(report))


def restore(uri: str, folder: Path, /, *, at: str = "", json: Json = False) -> None:
    """Restore a backup into an empty folder, and say what was acknowledged after it.

    Every file is compared with its checksum. People who were erased after the backup are erased
    again, by the newest suppression list at the URI. The next `up` rebuilds the state.

    Example:  tailorbird restore /mnt/backup/shop shop-restored

    Example:  tailorbird restore s3://backups/shop shop --at 2026-11-25T12:00:00

    Parameters
    ----------
    uri:
        where `tailorbird backup` wrote
    folder:
        folder of the restored project, which is empty or does not exist
    at:
        restore the newest backup of this time or earlier; by default the newest of all
    """
    from tailorbird.platform.create import restore as run_restore

    with progress_bars(quiet=json) as progress:
        report = run_restore(uri, folder, at=at, progress=progress)
    if json:
        print_json(report.to_dict())
    else:
        console().print(repr(report))
