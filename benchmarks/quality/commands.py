"""How each benchmark is run for `docs/results.md`: as it stands there, so that whoever types it gets what is beside it."""

# Where that is not the command without options, which has the sizes and seeds of the page.
OPTIONS: dict[str, tuple[str, ...]] = {
    # RecTools' SASRec takes longer than all others together, and has one seed.
    "peers": (
        "ml-latest-small --sasrec-seeds 1",
        "eshop-clothing --libraries implicit",
        "eshop-clothing --libraries rectools --seeds 1",
        "kuairand",
    ),
}


def runs_of(name: str) -> tuple[str, ...]:
    """The options of each run that a section is made of."""
    return OPTIONS.get(name, ("",))


def commands_of(name: str) -> list[str]:
    """What to type for a section."""
    return [f"python -m benchmarks.quality.{name} {options}".rstrip() for options in runs_of(name)]
