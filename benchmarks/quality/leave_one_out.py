"""MovieLens-1M, leave-one-out: each person's last film from all before it, whole catalogue, what was seen filtered.

The data may not be redistributed: `python -m benchmarks.quality.next_item --ml-1m FOLDER`, with `ratings.dat` of one's own copy.
Settings are fixed beforehand and nothing is chosen on the last films; published figures on this protocol stand beside.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.next_item_run import K, ndcg
from tailorbird.errors import InputError
from tailorbird.events import DAY, SECOND
from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers import EASE, STAN, Contexts, Popular, Recipe, VSkNN, WhatGoesWith

PUBLISHED = {"SASRec with 3,000 negatives": 0.1857, "co-occurrence": 0.164, "BERT4Rec": 0.154, "popular": 0.020}
RECIPES: dict[str, Recipe] = {
    "popular": Popular(),
    "cooccurrence": WhatGoesWith(gap_us=10_000 * DAY),
    "cooccurrence_forward": WhatGoesWith(gap_us=10_000 * DAY, backward=False),
    "ease": EASE(500.0, None),
    "ease_decayed": EASE(500.0, 30 * DAY),
    "v_sknn": VSkNN(500, 1_000, "quadratic", "quadratic"),
    "stan": STAN(1_000, 6_000, 5.0, 3_650.0 * DAY, 5.0),
}


def read(folder: Path) -> Interactions:
    """`ratings.dat`: user::film::rating::seconds, a line each."""
    path = folder / "ratings.dat" if folder.is_dir() else folder
    if not path.exists():
        raise InputError("there are no ratings here", where=str(path), fix="name the folder of MovieLens-1M, which has ratings.dat")
    rows = [line.split("::") for line in path.read_text(encoding="latin-1").splitlines() if line]
    for number, row in enumerate(rows, 1):
        if len(row) != 4 or not all(part.strip().isdigit() for part in (row[0], row[1], row[3])):
            raise InputError("expected user::film::rating::seconds", where=f"{path}:{number}", fix="use ratings.dat as it was published")
    person, item = (np.unique([int(row[at]) for row in rows], return_inverse=True)[1].astype(np.int64) for at in (0, 1))
    ts = np.array([int(row[3]) for row in rows], np.int64) * SECOND
    order = np.lexsort((np.arange(len(ts)), ts, person))  # ratings of one second stay in the order of the file
    return Interactions(person[order], item[order], ts[order], int(person.max()) + 1, int(item.max()) + 1)


def run(folder: Path, *, seeds: int) -> dict[str, Any]:
    """Figures of each model."""
    log = read(folder)
    last = np.flatnonzero(np.concatenate((log.person[1:] != log.person[:-1], [True])))
    before = np.ones(len(log.person), bool)
    before[last] = False
    learned = Interactions(log.person[before], log.item[before], log.ts[before], log.people, log.items)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(learned.person, minlength=log.people)))).astype(np.int64)
    contexts = Contexts(log.ts[last], learned.item, learned.ts, offsets)
    recipes = dict(RECIPES)
    if seeds:
        from tailorbird.models.retrievers.transformer import SequenceTransformer

        recipes["transformer"] = SequenceTransformer(width=128, length=200, steps=20_000, gaps=False, negatives=1_500)
    results = {}
    end = int(log.ts.max()) + 1
    for name, recipe in recipes.items():
        top = recipe.fit(learned, end).top(contexts, K)
        values = ndcg(top, log.item[last], np.arange(len(last) + 1))
        results[name] = {"ndcg_10": round(float(values.mean()), 6), "hr_10": round(float((values > 0).mean()), 6)}
    return {"benchmark": "ml-1m", "people": log.people, "results": results, "published": PUBLISHED}


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """For machines or for people."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    print(f"MovieLens-1M, leave-one-out, {result['people']:,} people; published NDCG@10: {result['published']}")
    for name, each in sorted(result["results"].items(), key=lambda entry: -entry[1]["ndcg_10"]):
        print(f"{name:22}{each['ndcg_10']:8.4f}{each['hr_10']:8.4f}")
