"""What comes next, over the whole catalogue and cut by time: MovieLens latest-small, The Complete Journey, a shop's clicks.

python -m benchmarks.quality.next_item [NAME …] [--data PATH] [--small] [--seeds 3] [--keep FOLDER] [--json]
python -m benchmarks.quality.next_item --ml-1m FOLDER      leave-one-out on one's own copy of MovieLens-1M (ratings.dat)

`tailorbird` is the default: trees over what all retrievers say, a transformer, or the retriever itself, whichever is best in a validation
period. With `--keep`, what is done stays done, and a run goes on where one was cut short.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.next_item_cases import CASES, Case, Data
from benchmarks.quality.next_item_cold import attributes_of, curves
from benchmarks.quality.next_item_run import (
    FIGURES,
    OURS,
    Answers,
    K,
    Keep,
    Make,
    answered,
    asked,
    blended,
    figures_of,
    learned,
    ndcg,
    parts_of,
    seen,
    taken,
)  # fmt: skip
from benchmarks.quality.running import default_data, environment, folder_or_skip
from tailorbird.models.retrievers import OfItsCluster, Top
from tailorbird.training.resuming import kept_arrays

SECONDS = "seconds"
TREES, TREE_SEEDS = "trees", (7, 8, 9)
TRANSFORMER = "transformer"
PROTOCOL = (
    "Cut by time for all alike: variants of each model are taken on validation A, whose questions the trees learn from too; the default is "
    "taken on validation B, which is later; then trees learn from both, and the test part is judged once.",
    "The whole catalogue is ranked. Models are fitted anew at the origins of each part, on all that came before; the transformer once, "
    "before the part, with settings that were fixed beforehand; its rows are seeds, the validation figure is of seed 0. Figures of trees "
    "are means over three seeds, the validation figure of the first.",
    "`ndcg_10_debiased`: self-normalised inverse propensities (after Yang et al., RecSys 2018), a truth counting 1 / √(1 + how often it "
    "was chosen before the test part). Coverage: of the items chosen before it. Intervals resample people.",
)

HELP = """MovieLens-1M may not be passed on: download it from grouplens.org and name the folder that holds ratings.dat (lines of
user::film::rating::seconds). Each person's last film is looked for in the whole catalogue, less what the person had; nothing is chosen on
the last films. Co-occurrence, EASE, V-SkNN and STAN take some minutes; the transformer (--seeds 0 leaves it out) takes hours without a GPU.

  python -m benchmarks.quality.next_item --ml-1m ~/data/ml-1m --seeds 0
  python -m benchmarks.quality.next_item --ml-1m ~/data/ml-1m --json > ml-1m.json

A set at a time, and again after a stop:

  python -m benchmarks.quality.next_item complete-journey --seeds 1 --keep ./kept
  python -m benchmarks.quality.next_item --keep ./kept
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.next_item",
        description=__doc__.splitlines()[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(case.name for case in CASES)}; all without any")
    parser.add_argument("--data", type=Path, default=default_data(), help="the folder that holds the data sets")
    parser.add_argument("--small", action="store_true", help="a tenth of the questions, one variant of each model, no transformer")
    parser.add_argument("--seeds", type=int, default=3, help="of the transformer; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=2, help="of the trees; the figures do not depend on it")
    parser.add_argument("--keep", type=Path, help="keep what was found in this folder, and go on from there")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    parser.add_argument("--ml-1m", type=Path, metavar="FOLDER", help="leave-one-out on your own copy of MovieLens-1M; see below")
    given = parser.parse_args()
    if given.ml_1m is not None:
        from benchmarks.quality.leave_one_out import run as run_1m
        from benchmarks.quality.leave_one_out import show as show_1m

        show_1m(run_1m(given.ml_1m, seeds=min(given.seeds, 1)), as_json=given.json)
        return
    known = {case.name: case for case in CASES}
    if unknown := set(given.names) - set(known):
        parser.error(f"no data set {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    results = {}
    with tempfile.TemporaryDirectory(prefix="tailorbird-next-") as scratch:
        for case in [known[name] for name in given.names] or CASES:
            folder = folder_or_skip(case.folder, given.data)
            kept = (given.keep or Path(scratch)) / (f"{case.name}-small" if given.small else case.name)
            kept.mkdir(parents=True, exist_ok=True)
            case = _small(case) if given.small else case
            seeds = 0 if given.small else min(given.seeds, case.seeds)
            results[case.name] = run(case, case.read(folder), kept, threads=given.threads, seeds=seeds)
    whole = {"benchmark": "next_item", "title": __doc__.splitlines()[0], "small": given.small, "protocol": list(PROTOCOL)}
    whole |= {"cases": results, "environment": environment()}
    if given.json:
        print(json.dumps(whole, indent=1))
    else:
        show(whole)


def run(case: Case, data: Data, folder: Path, *, threads: int, seeds: int) -> dict[str, Any]:
    """Take variants, learn, take the default, judge."""
    keep = _keeper(folder)
    base = _base(case, data, threads, keep)
    validated = json.loads(str(base["validated"]))
    if seeds:
        validated[TRANSFORMER] = float(keep("proof", lambda: _proof(case, data))["ndcg"])
    tops = {name.removeprefix("list_"): [_top(value)] for name, value in base.items() if name.startswith("list_")}
    tops[TREES] = [_top(value) for value in base[TREES]]
    for seed in range(seeds):
        found = keep(f"seed {seed}", lambda seed=seed: _vectors(case, data, seed))
        tops[f"{TRANSFORMER}_{seed}"] = [_top(found["item"])]
    default = max(validated, key=lambda name: validated[name])
    lists = {**tops, OURS: tops[f"{TRANSFORMER}_0" if default == TRANSFORMER else default]}
    answers = Answers({}, [], [], base["person"], base["truth"], base["offsets"])
    _, _, test, _ = parts_of(case, data)
    figures = figures_of(answers, lists, np.bincount(data.item[data.ts < test], minlength=data.items))
    by_tree_seed = [float(ndcg(top, base["truth"], base["offsets"]).mean()) for top in tops[TREES]]
    cold = json.loads(str(keep(f"cold {min(seeds, 1)}", lambda: _cold(case, data, seeds))["curves"])) if case.cold else None
    return {
        "title": case.title,
        "protocol": [*case.protocol, f"fitted anew {case.origins} times in the test part; {figures['requests']:,} questions drawn evenly"],
        **figures,
        "default": default,
        "validated": {name: round(value, 6) for name, value in validated.items()},
        "variants": json.loads(str(base["variants"])),
        "seeds": {str(seed): figures["results"][f"{TRANSFORMER}_{seed}"]["ndcg_10"] for seed in range(seeds)},
        "tree_seeds": {str(seed): round(value, 6) for seed, value in zip(TREE_SEEDS, by_tree_seed, strict=True)},
        "cold": cold,
        "seconds": round(_spent(folder), 1),
    }


def _top(item: np.ndarray) -> Top:
    return Top(item, np.zeros(item.shape, np.float32))


def _keeper(folder: Path) -> Keep:
    """What was made before, or is made now and kept, and how long it took."""

    def keep(name: str, make: Make) -> Mapping[str, np.ndarray]:
        def timed() -> dict[str, np.ndarray]:
            begun = time.process_time()
            made = make()
            return {**made, SECONDS: np.array(time.process_time() - begun)}

        found = kept_arrays(folder, name, timed)
        return {name: value for name, value in found.items() if name != SECONDS}

    return keep


def _spent(folder: Path) -> float:
    """Processor seconds of all that is kept."""
    return sum(float(np.load(file)[SECONDS]) for file in folder.glob("*.npz"))


def _base(case: Case, data: Data, threads: int, keep: Keep) -> dict[str, Any]:
    """All but the transformer: lists for the test part, and how each did on validation B."""
    a, b, test, end = parts_of(case, data)
    recipes = taken(case, data, a, b, keep)
    origins = max(case.origins // 2, 1)
    first = answered(case, data, recipes, a, b, origins, keep)
    second = answered(case, data, recipes, b, test, origins, keep)
    proof = {**second.lists, TREES: _by_trees(case, keep, "trees of A on B", [first], second, threads, TREE_SEEDS[0])}
    validated = {name: float(ndcg(top, second.truth, second.truth_offsets).mean()) for name, top in proof.items()}
    tested = answered(case, data, recipes, test, end, case.origins, keep)
    name = "trees of A and B on the test part"
    trees = [_by_trees(case, keep, name, [first, second], tested, threads, seed).item for seed in TREE_SEEDS]
    variants = {name: str(recipe) for name, recipe in recipes.items()}
    told = {"person": tested.person, "truth": tested.truth, "offsets": tested.truth_offsets}
    texts = {"validated": np.array(json.dumps(validated)), "variants": np.array(json.dumps(variants))}
    return {**{f"list_{name}": top.item[:, :K] for name, top in tested.lists.items()}, TREES: trees, **told, **texts}


def _by_trees(case: Case, keep: Keep, name: str, known: list[Answers], asked: Answers, threads: int, seed: int) -> Top:
    """What trees that learned from some answers list for others."""

    def made() -> dict[str, np.ndarray]:
        return {"item": blended(asked, learned(known, threads, case.taught, seed=seed)).item[:, :K]}

    return _top(keep(f"{name} {case.taught} {seed}", made)["item"])


def _proof(case: Case, data: Data) -> dict[str, Any]:
    """The transformer on validation B."""
    from benchmarks.quality.next_item_vectors import learned_vectors, listed

    _, b, test, _ = parts_of(case, data)
    origins = max(case.origins // 2, 1)
    top = listed(case, data, learned_vectors(case, data, b, 0), b, test, origins)
    truth, offsets = _truths(case, data, b, test, origins)
    return {"ndcg": np.array(ndcg(top, truth, offsets).mean())}


def _vectors(case: Case, data: Data, seed: int) -> dict[str, Any]:
    from benchmarks.quality.next_item_vectors import learned_vectors, listed

    _, _, test, end = parts_of(case, data)
    return {"item": listed(case, data, learned_vectors(case, data, test, seed), test, end, case.origins).item[:, :K]}


def _truths(case: Case, data: Data, low: int, high: int, origins: int) -> tuple[np.ndarray, np.ndarray]:
    """What happened, for all questions of a part."""
    cuts = np.linspace(low, high, origins + 1).astype(np.int64).tolist()
    each = [asked(case, data, t, stop, case.questions // origins) for t, stop in pairwise(cuts)]
    sizes = np.concatenate([np.diff(questions.truth_offsets) for questions in each])
    return np.concatenate([questions.truth for questions in each]), np.concatenate(([0], np.cumsum(sizes)))


def _cold(case: Case, data: Data, seeds: int) -> dict[str, Any]:
    _, _, test, end = parts_of(case, data)
    models = {
        name: variants[0].fit(seen(case, data, name, test), test) for name, variants in case.recipes_of(data).items() if name in case.cold
    }
    models["clusters"] = OfItsCluster(attributes_of(data), case.windows[-2]).fit(seen(case, data, "clusters", test), test)
    if seeds:
        from benchmarks.quality.next_item_vectors import learned_vectors

        vectors = learned_vectors(case, data, test, 0)
        models |= {TRANSFORMER: vectors, f"{TRANSFORMER}_without_ids": vectors.without_ids()}
    return {"curves": np.array(json.dumps(curves(case, data, models, test, end)))}


def _small(case: Case) -> Case:
    recipes = {name: variants[:1] for name, variants in case.recipes.items()}
    return replace(case, questions=case.questions // 10, origins=2, recipes=recipes)


def show(result: dict[str, Any]) -> None:
    """The result for people."""
    for sentence in result["protocol"]:
        print(f"  {sentence}")
    for name, case in result["cases"].items():
        print(f"\n{name}: {case['title']} {case['requests']:,} questions, {case['people']:,} people, {case['seconds']} s")
        print(f"{'':16}" + "".join(f"{figure:>26}" for figure in FIGURES))
        for model, each in sorted(case["results"].items(), key=lambda entry: -entry[1]["ndcg_10"]):
            print(f"{model:16}" + "".join(f"{_cell(each, figure):>26}" for figure in FIGURES))
        for model, each in case["differences"].items():
            print(f"  over {model:16}{each['ndcg_10']:+.4f} ({each['ndcg_10_low']:+.4f} to {each['ndcg_10_high']:+.4f})")
        print(f"  default: {case['default']}; on validation B {case['validated']}")
        for model, values in (case["cold"] or {"models": {}})["models"].items():
            print(f"  cold start, {model}: {values}")


def _cell(figures: dict[str, float | None], name: str) -> str:
    value, low, high = (figures.get(name + end) for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f}–{high:.4f})"


if __name__ == "__main__":
    main()
