"""`peers` on what comes next: the questions, parts and variants of `next_item`, put to implicit and RecTools as well.

Every model is learned at the same moments and asked the same questions. Of each, variants are judged on validation A, ours and theirs
(of our transformer there is one); the time of that is left out on both sides. Seconds are CPU time of one thread.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.asking import Job, ask
from benchmarks.quality.next_item_cases import Case, Data
from benchmarks.quality.next_item_run import K, Questions, answered, asked, blended, learned, ndcg, parts_of, seen, taken
from benchmarks.quality.next_item_vectors import learned_vectors, listed
from tailorbird.models.retrievers import Top
from tailorbird.training.bootstrap import Bootstrap
from tailorbird.training.resuming import kept_arrays

Ints = npt.NDArray[np.int64]

OURS = "tailorbird"
TRANSFORMER = "transformer"
VARIANTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "implicit_als": (
        {"factors": 128, "regularization": 1.0, "alpha": 1.0, "iterations": 15},
        {"factors": 64, "regularization": 0.01, "alpha": 1.0, "iterations": 15},
        {"factors": 32, "regularization": 1.0, "alpha": 40.0, "iterations": 15},
    ),
    "implicit_item_item": (
        {"kind": "CosineRecommender", "K": 100},
        {"kind": "TFIDFRecommender", "K": 20},
        {"kind": "BM25Recommender", "K": 20, "K1": 100, "B": 0.5},
    ),
    "rectools_sasrec": (
        {"n_factors": 64, "n_heads": 2, "epochs": 3},
        {"n_factors": 64, "n_heads": 2, "epochs": 10},
    ),
}
# Few people: more epochs, and negatives instead of a softmax over all 9,066 films.
FEW_PEOPLE = {"loss": "sampled_softmax", "n_negatives": 256, "batch_size": 32}
OF_CASE: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "ml-latest-small": {
        "rectools_sasrec": tuple({"n_factors": 64, "n_heads": 2, "epochs": epochs, **FEW_PEOPLE} for epochs in (20, 60)),
    }
}
ONCE = ("rectools_sasrec",)  # learned before the part alone, as our transformer is
DRAWN = ("implicit_als", "rectools_sasrec")  # by a seed
ALIKE = ((TRANSFORMER, "rectools_sasrec"), ("ease_decayed", "implicit_als"), ("cooccurrence", "implicit_item_item"))
PEER_OF = {"implicit": ("implicit_als", "implicit_item_item"), "rectools": ("rectools_sasrec",)}


@dataclass(frozen=True)
class Learned:
    """Lists of one model for the test part, by seed, and the seconds of one seed."""

    items: list[npt.NDArray[np.int32]]
    fit: float
    ask: float
    variant: str


def run(
    case: Case, folder: Path, keep: Path, versions: Mapping[str, str], *, seeds: int, drawn: Mapping[str, int], small: bool
) -> dict[str, Any]:
    """Learn, ask and compare; `drawn`: peer → its seeds, where they are fewer than ours."""
    data = case.read(folder)
    if small:
        recipes = {name: variants[:1] for name, variants in case.recipes.items()}
        case = replace(case, questions=case.questions // 10, origins=2, recipes=recipes, steps=10)
    a, b, test, end = parts_of(case, data)
    models = _ours(case, data, keep, (a, b, test, end), 1 if small else seeds)
    failed: dict[str, str] = {}
    for library, names in PEER_OF.items():
        for name in names if library in versions else ():
            variants = OF_CASE.get(case.name, {}).get(name, VARIANTS[name])
            variants = [{**variants[0], **({"epochs": 1} if "epochs" in variants[0] else {})}] if small else variants
            try:
                models[name] = _peer(case, data, keep, name, variants, drawn.get(name, seeds))
            except RuntimeError as error:
                failed[name] = str(error)
    truth, offsets, person = _truths(case, data, test, end)
    values = {name: np.mean([_ndcg(item, truth, offsets) for item in each.items], axis=0) for name, each in models.items()}
    bootstrap = Bootstrap(np.unique(person, return_inverse=True)[1].astype(np.int64))
    results = {}
    for name, each in models.items():
        told = bootstrap.mean(values[name])
        figures = {"ndcg_10": told.value, "ndcg_10_low": told.low, "ndcg_10_high": told.high}
        by_seed = [float(_ndcg(item, truth, offsets).mean()) for item in each.items]
        results[name] = {key: round(float(value), 6) for key, value in figures.items()} | {
            "seeds": [round(value, 6) for value in by_seed],
            "seconds_fit": round(each.fit, 3),
            "seconds_ask": round(each.ask, 3),
            "variant": each.variant,
        }
    theirs = [name for name in models if name in VARIANTS]
    wanted = [pair for pair in ALIKE if pair[1] in models] + [(OURS, name) for name in theirs]
    return {
        "title": case.title,
        "figure": "ndcg_10",
        "protocol": [
            *case.protocol,
            f"learned from all that came before each of {case.origins} origins in the test part; transformers once; "
            f"{len(person):,} questions of {len(np.unique(person)):,} people, for all alike; seeds: {seeds}"
            + "".join(f" ({count} of {name})" for name, count in drawn.items() if name in models and count < seeds)
            + ", figures are means over them",
            f"{OURS} is the trees of `next_item`: its time holds all it is made of: every retriever at the origins of both validation "
            "parts and of the test, and the trees",
        ],
        "results": results,
        "pairs": [_pair(ours, peer, values, results, bootstrap) for ours, peer in wanted],
        "failed": failed,
    }


def _pair(ours: str, peer: str, values: Mapping[str, npt.NDArray], results: Mapping[str, Any], bootstrap: Bootstrap) -> dict[str, Any]:
    gain = bootstrap.difference(values[ours], values[peer])
    times = [results[name]["seconds_fit"] + results[name]["seconds_ask"] for name in (ours, peer)]
    told = {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
    return {
        "ours": ours,
        "peer": peer,
        "quality": round(results[ours]["ndcg_10"] / max(results[peer]["ndcg_10"], 1e-9), 4),
        "time": round(times[0] / max(times[1], 1e-9), 4),
        **{name: round(float(value), 6) for name, value in told.items()},
    }


def _ours(case: Case, data: Data, keep: Path, cuts: tuple[int, int, int, int], seeds: int) -> dict[str, Learned]:
    """The default, the models of a kind that peers have, and the transformer."""
    a, b, test, end = cuts
    recipes = taken(case, data, a, b)
    found = {}
    for name in ("cooccurrence", "ease_decayed", "popular_7d"):
        if name in recipes:

            def fitted(name: str = name) -> dict[str, npt.NDArray]:
                return _timed(case, data, lambda t: recipes[name].fit(seen(case, data, name, t), t), test, end)

            found[name] = _learned([kept_arrays(keep, name, fitted)], str(recipes[name]))
    whole = kept_arrays(keep, OURS, lambda: _default(case, data, cuts))
    found[OURS] = _learned([whole], "trees over all retrievers")

    def vectors(seed: int) -> dict[str, npt.NDArray]:
        begin = time.process_time()
        model = learned_vectors(case, data, test, seed)
        fitted = time.process_time()
        item = listed(case, data, model, test, end, case.origins).item[:, :K]
        return {"item": item, "fit": np.array(fitted - begin), "ask": np.array(time.process_time() - fitted)}

    each = [kept_arrays(keep, f"{TRANSFORMER} {seed}", lambda seed=seed: vectors(seed)) for seed in range(seeds)]
    found[TRANSFORMER] = _learned(each, f"{case.steps} steps of {case.batch} stretches")
    return found


def _default(case: Case, data: Data, cuts: tuple[int, int, int, int]) -> dict[str, npt.NDArray]:
    """The trees, as `next_item` learns them; what variants cost is left out here as it is for the peers."""
    a, b, test, end = cuts
    recipes = taken(case, data, a, b)
    begin = time.process_time()
    first = answered(case, data, recipes, a, b, max(case.origins // 2, 1))
    second = answered(case, data, recipes, b, test, max(case.origins // 2, 1))
    trees = learned([first, second], 1)
    fitted = time.process_time()
    top = blended(answered(case, data, recipes, test, end, case.origins), trees)
    return {"item": top.item[:, :K], "fit": np.array(fitted - begin), "ask": np.array(time.process_time() - fitted)}


def _timed(case: Case, data: Data, fit: Callable[[int], Any], low: int, high: int) -> dict[str, npt.NDArray]:
    """One of our retrievers at each origin."""
    items, spent = [], [0.0, 0.0]
    parts = _parts(case, data, low, high)
    first, questions = parts[0]
    fit(first).top(questions.contexts.part(0, 1), K)  # compiled loops are loaded before the clock runs, as the peers' modules are
    for t, questions in parts:
        begin = time.process_time()
        model = fit(t)
        fitted = time.process_time()
        items.append(model.top(questions.contexts, K, repeats=case.repeats).item)
        spent = [spent[0] + fitted - begin, spent[1] + time.process_time() - fitted]
    return {"item": np.concatenate(items), "fit": np.array(spent[0]), "ask": np.array(spent[1])}


def _peer(case: Case, data: Data, keep: Path, name: str, variants: Sequence[Mapping[str, Any]], seeds: int) -> Learned:
    """A peer: its variant by validation A, then the test part."""
    a, b, test, end = parts_of(case, data)
    desk = keep / "desk"
    desk.mkdir(exist_ok=True)
    questions = asked(case, data, a, b, case.questions // 4)
    _lay(desk, case, data, "a", a, questions)
    origins = _parts(case, data, test, end)
    for place, (t, each) in enumerate(origins):
        _lay(desk, case, data, f"test-{place}", t, each)

    def judged(place: int) -> dict[str, npt.NDArray]:
        (said,) = ask(desk, [Job(name, variants[place], 0, "a", ("a",), case.repeats, case.length, "said")])
        return {"ndcg": _ndcg(said.item, questions.truth, questions.truth_offsets).mean()}

    figures = [
        float(kept_arrays(keep, f"{name} {place} on A", lambda place=place: judged(place))["ndcg"]) for place in range(len(variants))
    ]
    variant = variants[int(np.argmax(figures))]
    parts = tuple(f"test-{place}" for place in range(len(origins)))
    moments = [(parts[0], parts)] if name in ONCE else [(part, (part,)) for part in parts]

    def tested(seed: int) -> dict[str, npt.NDArray]:
        jobs = [
            Job(name, variant, seed, learn, asked_, case.repeats, case.length, f"said-{place}")
            for place, (learn, asked_) in enumerate(moments)
        ]
        said = ask(desk, jobs)
        fit, answer = sum(each.seconds_fit for each in said), sum(each.seconds_ask for each in said)
        return {"item": np.concatenate([each.item for each in said]), "fit": np.array(fit), "ask": np.array(answer)}

    drawn = seeds if name in DRAWN else 1
    return _learned([kept_arrays(keep, f"{name} {seed}", lambda seed=seed: tested(seed)) for seed in range(drawn)], str(dict(variant)))


def _lay(desk: Path, case: Case, data: Data, part: str, t: int, questions: Questions) -> None:
    """What a peer learns from at t, and what it is asked, as files."""
    learn = seen(case, data, case.by_person[0], t)
    np.savez(desk / f"{part}.learn.npz", person=learn.person, item=learn.item, ts=learn.ts, items=learn.items)
    past = questions.contexts
    np.savez(desk / f"{part}.ask.npz", item=past.item, ts=past.ts, offsets=past.offsets)


def _parts(case: Case, data: Data, low: int, high: int) -> list[tuple[int, Questions]]:
    """Origins of the test part and their questions, as `next_item` draws them."""
    cuts = np.linspace(low, high, case.origins + 1).astype(np.int64).tolist()
    each = [(t, asked(case, data, t, stop, case.questions // case.origins)) for t, stop in pairwise(cuts)]
    return [(t, questions) for t, questions in each if len(questions.person)]


def _truths(case: Case, data: Data, low: int, high: int) -> tuple[Ints, Ints, Ints]:
    each = [questions for _, questions in _parts(case, data, low, high)]
    sizes = np.concatenate([np.diff(questions.truth_offsets) for questions in each])
    truth, person = (np.concatenate([getattr(questions, name) for questions in each]) for name in ("truth", "person"))
    return truth, np.concatenate(([0], np.cumsum(sizes))).astype(np.int64), person


def _ndcg(item: npt.NDArray, truth: Ints, offsets: Ints) -> npt.NDArray[np.float64]:
    return ndcg(Top(item.astype(np.int32), np.zeros(item.shape, np.float32)), truth, offsets)


def _learned(found: Sequence[Mapping[str, npt.NDArray]], variant: str) -> Learned:
    spent = [float(np.mean([each[name] for each in found])) for name in ("fit", "ask")]
    return Learned([each["item"] for each in found], spent[0], spent[1], variant)
