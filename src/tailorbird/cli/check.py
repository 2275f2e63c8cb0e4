"""`tailorbird check`."""

from tailorbird.cli.output import Json, console, print_json


def check(*, json: Json = False) -> None:
    """Load all declarations of the project and print what they declare. Touches no data.

    The command also checks what settings refer to: slots, networks, programs, folders and
    addresses. If something is invalid, it ends with status 2 and a sentence that names the file and
    the line.

    Example:  tailorbird -C shop check
    """
    from tailorbird.config import open_project
    from tailorbird.platform.diagnostics.declarations import check_declarations

    result = check_declarations(open_project())
    if json:
        print_json(result.to_dict())
    else:
        console().print(repr(result))
