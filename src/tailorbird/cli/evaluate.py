"""`tailorbird evaluate`."""

from tailorbird.cli.output import Json


def evaluate(slot: str = "", *, json: Json = False) -> None:
    """Judge the champion beside the baselines on what came in since."""
    raise NotImplementedError
