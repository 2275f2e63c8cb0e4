"""What the lists of models, baselines and oracles are truly worth on the simulated site: all items ranked, the truth asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tailorbird.config import Project
from tailorbird.events import DAY, Clock
from tailorbird.features.backfill import History
from tailorbird.lake import Lake
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry
from tailorbird.simulator import Site, behaviour
from tailorbird.simulator.taste import URGE
from tailorbird.simulator.truth import visitor_numbers
from tailorbird.training.dataset import Dataset
from tailorbird.training.evaluate import Scorer, thinned, version_scorer
from tailorbird.training.indexes import build_series
from tailorbird.training.item_to_item import Rolling
from tailorbird.training.matrix import featured_from
from tailorbird.training.rows import Material, baselines_of, load_material
from tailorbird.training.settings import TrainSettings
from tailorbird.training.split import split_by_time

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keep = Callable[[str, Callable[[], Mapping[str, npt.NDArray]]], Mapping[str, npt.NDArray]]


@dataclass(frozen=True)
class Reward:
    """What a list is worth: the slot's objective over its first `size` items."""

    size: int = 12
    click: float = 1.0
    purchase: float = 5.0


REWARD = Reward()
ORACLES = ("oracle", "oracle_lasting", "oracle_common")


def rewards_of(
    project: Project,
    site: Site,
    versions: Mapping[str, str],
    settings: TrainSettings,
    clock: Clock,
    *,
    questions: int,
    keep: Keep,
    chunk: int,
) -> dict[str, npt.NDArray]:
    """True expected reward of each request's list, shape (requests,), by model, baseline and oracle; and `person`."""
    slot = project.slots["home"]
    material = load_material(Lake(project.paths.lake), project.features, slot, settings.wanted(clock.now()))
    split = split_by_time(material.data.t, gap=material.label_window)
    asked = material.data.take(thinned(split.test, questions, 0))
    series = build_series(material.events, material.items, [split.validation_until], settings.index)
    rolling = series.rolling(material.codes)
    store = Registry(project.root.parent / "registry", clock=clock)
    known = {info.version: info.path for info in store.versions()}
    scorers = {
        key: version_scorer(Bundle.load(known[version], schema_hash=None), series, slot.objective) for key, version in versions.items()
    }
    past = History(project.features, material.events)
    found: dict[str, list[npt.NDArray]] = {}
    for low in range(0, asked.requests, chunk):
        some = asked.take(np.arange(low, min(low + chunk, asked.requests)))
        one = partial(_chunk, past, site, material, some, rolling, scorers)
        for name, column in keep(f"{low} {questions} {sorted(versions.items())}", one).items():
            found.setdefault(name, []).append(column)
    return {name: np.concatenate(columns) for name, columns in found.items()}


def _chunk(
    past: History, site: Site, material: Material, some: Dataset, rolling: Rolling, scorers: Mapping[str, Scorer]
) -> dict[str, npt.NDArray]:
    """The same of some requests."""
    whole = with_everything(some, site)
    names = some.people.decode(some.person)
    values: dict[str, list[Floats]] = {}
    for piece in featured_from(past, whole):
        for key, scorer in scorers.items():
            values.setdefault(key, []).append(scorer(piece)[1])
        for name, score in baselines_of(material, piece.part, rolling, 0).items():
            values.setdefault(name, []).append(score)
    scores = {name: np.concatenate(parts) for name, parts in values.items()}
    number = np.array([int(item[1:]) for item in whole.items.values.to_pylist()])[whole.item]
    day = (some.t - site.start) / DAY
    user = visitor_numbers(names)
    scores |= oracle_scores(site, user, number, day, whole.offsets)
    return {name: worth_of(site, user, number, day, whole.offsets, score) for name, score in scores.items()} | {"person": some.person}


def with_everything(some: Dataset, site: Site) -> Dataset:
    """The same requests with all items that had arrived and could be had as their candidates."""
    codes = some.items.values.to_pylist()
    code_of = {int(item[1:]): code for code, item in enumerate(codes) if item.startswith("i")}
    lists = []
    for t in some.t.tolist():
        there = site.items.available((t - site.start) / DAY)
        lists.append(np.array([code_of[item] for item in there.tolist() if item in code_of], np.int64))
    offsets = np.concatenate(([0], np.cumsum([len(each) for each in lists]))).astype(np.int64)
    item = np.concatenate(lists)
    rows = len(item)
    position, one = np.zeros(rows, np.int32), np.ones(rows)
    labels = {name: np.zeros(rows, bool) for name in some.labels}
    return replace(some, offsets=offsets, item=item, position=position, propensity=one, labels=labels, weight=one)


def oracle_scores(site: Site, user: Ints, item: Ints, day: Floats, offsets: Ints) -> dict[str, Floats]:
    """What each pair is worth to who knows all, all that lasts, or what is common to everybody and to people of one's kind."""
    found: dict[str, list[Floats]] = {name: [] for name in ORACLES}
    taste, era = site.taste, site.taste.eras[0]
    for row in range(len(user)):
        who, at = user[row : row + 1], day[row : row + 1]
        these = item[offsets[row] : offsets[row + 1]]
        cart = behaviour.cart_chance(taste, who, these[None, :], at)[0]
        worth = REWARD.click + REWARD.purchase * cart * behaviour.PURCHASE_GIVEN_CART
        utility = taste.utility(who, these, at)[0]
        lasting = taste.lasting(who, at, era)
        category = taste.items.category[these]
        calm = utility - URGE * (category == taste.urge(who, at, lasting)[0])
        chance = np.exp(1.5 * lasting[0] - (1.5 * lasting[0]).max())  # of each category to be what is wanted: a Gumbel maximum
        chance = (chance / chance.sum())[category]
        shared = taste.appeal(float(at[0]))[these] + era.group[taste.users.country[who[0]], taste.users.age_group[who[0]]][category]
        found["oracle"].append(behaviour.sigmoid(utility) * worth)
        found["oracle_lasting"].append((chance * behaviour.sigmoid(calm + URGE) + (1 - chance) * behaviour.sigmoid(calm)) * worth)
        found["oracle_common"].append(behaviour.sigmoid(shared) * worth)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def worth_of(site: Site, user: Ints, item: Ints, day: Floats, offsets: Ints, score: Floats) -> Floats:
    """True expected reward of each request's best items by a score."""
    spans = [slice(low, high) for low, high in pairwise(offsets.tolist())]
    best = np.stack([item[span][np.argsort(-score[span], kind="stable")[: REWARD.size]] for span in spans])
    chances = behaviour.chances(site.taste, user, best, day)
    return (REWARD.click * chances.click + REWARD.purchase * chances.purchase).sum(axis=1)
