"""Loads damaged bundles whose checksums fit, in a process of its own: python mutants.py FOLDER SEED
COUNT.

Prints how many were refused and how many load and answer; anything else that is raised ends it, as
a crash does.
"""

import random
import sys
from pathlib import Path

import msgspec
import numpy as np
from tests.support.shops import ranking_world

from tailorbird.errors import TailorbirdError
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Manifest, seal


def mutate(data, source):
    changed = bytearray(data)
    kind = source.choice(("byte", "bytes", "cut"))
    if kind == "cut":
        return bytes(changed[: source.randrange(len(changed))])
    for _ in range(1 if kind == "byte" else 8):
        changed[source.randrange(len(changed))] = source.randrange(256)
    return bytes(changed)


def use(folder):
    bundle = Bundle.load(folder, schema_hash=None)
    bundle.score(
        ranking_world.make_rows([1, 2, 3], recent=[4, 5]), ranking_world.keys_of([1, 2, 3])
    )
    bundle.index.search("rain coat", 3)
    rows = bundle.index.find(ranking_world.keys_of([4]))
    bundle.index.rank_by_clusters(rows, np.ones(len(rows)), np.ones(len(bundle.index), np.int64), 5)
    bundle.index.category.text(0)


def main(folder, seed, count):
    source = random.Random(seed)
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    names = [name for name, entry in sorted(manifest.files.items()) if entry.bytes]
    counts = {"refused": 0, "loaded": 0}
    for _ in range(count):
        path = folder / source.choice(names)
        original = path.read_bytes()
        path.write_bytes(mutate(original, source))
        seal(folder, manifest)
        try:
            use(folder)
            counts["loaded"] += 1
        except TailorbirdError:
            counts["refused"] += 1
        path.write_bytes(original)
    sys.stdout.write(f"{counts['refused']} {counts['loaded']}\n")


main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
