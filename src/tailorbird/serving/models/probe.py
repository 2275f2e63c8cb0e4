"""Check that a bundle can be loaded: `python -m tailorbird.serving.models.probe FOLDER MODELS
SOURCES`.

MODELS and SOURCES are the project's `models.py` and `sources.py`, or empty. See
`serving.models.bundles`.
"""

import sys
from pathlib import Path

from tailorbird import faults
from tailorbird.candidates.own import use_sources
from tailorbird.errors import TailorbirdError
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.churn.bundle import ChurnBundle
from tailorbird.ranking.own_models import use_models_file


def main(folder: str, models: str = "", sources: str = "") -> int:
    """Return 0 if the bundle loads, else 1, with the reason on the last line of stderr."""
    faults.fire_if_armed("serving.probe")
    try:
        use_models_file(Path(models) if models else None)
        use_sources(Path(sources) if sources else None)
        if (Path(folder) / "churn.json").exists():
            ChurnBundle.load(Path(folder), schema_hash=None)
        else:
            Bundle.load(Path(folder), schema_hash=None)
    except TailorbirdError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
