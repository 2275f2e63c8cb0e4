"""`tailorbird check`."""

from tailorbird.cli.output import Json, console, print_json


def check(*, json: Json = False) -> None:
    """Load the project's settings, features and slots and say what they declare. Touches no data.

    Ends with status 2 and one sentence that names file and line if something cannot be used.

    Example:  tailorbird -C shop check
    """
    from tailorbird.config import open_project
    from tailorbird.config.schemas import differs

    project = open_project()
    features = project.features
    found = {
        "project": str(project.root),
        "schema_hash": features.schema_hash,
        "numeric": list(features.numeric),
        "categorical": list(features.categorical),
        "sequences": list(features.sequences),
        "similarities": [one.name for one in features.similarities],
        "transforms": {one.output: {"column": one.column, "gives": list(one.outputs)} for one in features.transforms},
        "slots": list(project.slots),
        "experiments": {name: slot.experiment.name for name, slot in project.slots.items() if slot.experiment},
    }
    if json:
        print_json(found)
        return
    out = console()
    counts = f"{len(features.numeric)} numeric, {len(features.categorical)} categorical, {len(features.sequences)} sequences"
    out.print(f"{project.root}: all declarations load.")
    out.print(f"  features   {counts} (schema {features.schema_hash})")
    if said := differs(project):
        out.print(f"             {said}")
    for one in features.similarities:
        out.print(f"  similarity {one.name}: {one.description}")
    for one in features.transforms:
        out.print(f"  transform  {one.column}: gives a model {', '.join(one.outputs)}")
    for name, slot in project.slots.items():
        experiment = f", experiment {slot.experiment.name}" if slot.experiment else ""
        out.print(f"  slot       {name}: {slot.size} items from {', '.join(slot.sources)}{experiment}")
