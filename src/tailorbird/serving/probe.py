"""Load a bundle and say whether it can be: `python -m tailorbird.serving.probe FOLDER SCHEMA_HASH`. See `serving.bundles`."""

import sys
from pathlib import Path

from tailorbird import faults
from tailorbird.errors import TailorbirdError
from tailorbird.ranking.bundle import Bundle


def main(folder: str, schema_hash: str) -> int:
    """0 if the bundle loads; else 1, with the reason on the last line of stderr."""
    faults.at("serving.probe")
    try:
        Bundle.load(Path(folder), schema_hash=schema_hash)
    except TailorbirdError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
