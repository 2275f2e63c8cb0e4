"""`tailorbird config show`."""

from tailorbird.cli.output import Json, print_json, print_table


def show(*, json: Json = False) -> None:
    """Show each setting with its value and its source.

    Secrets are shown as stars.

    Example:  TAILORBIRD_SERVE__PORT=9000 tailorbird config show
    """
    from tailorbird.config import SETTINGS_FILE, find_project, load_settings

    root = find_project()
    _, setting_origins = load_settings(root / SETTINGS_FILE)
    if json:
        print_json(
            {
                "project": str(root),
                "settings": [
                    {"key": o.key, "value": o.value, "source": o.source} for o in setting_origins
                ],
            }
        )
        return
    rows = [
        (origin.key, repr(origin.value), origin.source, origin.description)
        for origin in setting_origins
    ]
    print_table(f"Settings of {root}", ["setting", "value", "from", "what it is"], rows)
