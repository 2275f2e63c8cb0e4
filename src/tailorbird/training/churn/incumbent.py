"""The champion beside the new model, on the same people at the last origin, without either having
seen what came after it.

    incumbent, as trained      ──────────────── known then ┤
    incumbent, as judged here  ──fit─┤ ◄─ its own last origin, as long before ours as it was trained before now
    new model, as trained      ───────────────────────────── known now ┤
    new model, as judged       ──────────── fit ─┤ last origin ── window ──┤

A champion whose data ends before the last origin is scored as it is. A younger one knows labels of
the window that both are judged by, and is favoured, the more the oftener one trains. In its place
stands its recipe: what it read and how it was learned, as its bundle tells, is learned again as of
its own last origin, by the code that learned it, and scores the people of ours. As of our origin
the same recipe would give the same model, and no training with newer data could gain anything; as
of its own, newer data count for what they are worth.

Either way its columns are made by the declarations that it brings: features.py may declare
something else under the same names by now.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec
import numpy as np

from tailorbird.errors import BundleError, DeclarationError, NotReadyError
from tailorbird.events import to_iso
from tailorbird.features import FeatureSet
from tailorbird.features.backfill import subset
from tailorbird.ranking.churn import Churn
from tailorbird.ranking.churn_bundle import ChurnBundle
from tailorbird.registry import Columns, Registry
from tailorbird.training.bootstrap import Bootstrap, Interval
from tailorbird.training.churn.fit import FitSettings
from tailorbird.training.churn.labels import Activity, Floats
from tailorbird.training.churn.rows import People
from tailorbird.training.churn.walk import Cut, grid_of, read_until, score_at, walk
from tailorbird.training.metrics import log_losses

RECIPE = "recipe"  # among what a bundle says about its training


@dataclass(frozen=True)
class Recipe:
    """How a churn model was learned, beside its columns.

    Attributes:
        grid_rows: of people at moments, in all.
    """

    churn: Churn
    fit: FitSettings
    grid_rows: int

    def plain(self) -> dict[str, Any]:
        """As a bundle keeps it."""
        return asdict(self)

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> "Recipe | None":
        """That of a bundle, by its metrics; None where it does not tell, or as another version of
        this package did.
        """
        try:
            return msgspec.convert(metrics["about"][RECIPE], cls)
        except (KeyError, msgspec.ValidationError, DeclarationError):
            return None


@dataclass(frozen=True)
class Against:
    """What came of the comparison.

    Attributes:
        version: of the champion; "" without one.
        gain: ours in log loss on the last cut; None where it could not be judged, and `unjudged`
            says why.
        note: what is to be known of it, a sentence or "".
    """

    version: str = ""
    gain: Interval | None = None
    unjudged: str = ""
    note: str = ""


@dataclass(frozen=True)
class Champion:
    """The model that answers now.

    Attributes:
        version: "" without one.
        bundle: None without one, or where it cannot be loaded, and `unjudged` says why.
    """

    version: str = ""
    bundle: ChurnBundle | None = None
    unjudged: str = ""

    @property
    def features(self) -> tuple[FeatureSet, ...]:
        """The declarations of its columns; none where it does not bring them."""
        return (
            () if self.bundle is None or self.bundle.features is None else (self.bundle.features,)
        )


def champion_of(store: Registry) -> Champion:
    """The champion as it is now, to be compared with later: events are read for its columns too."""
    if (path := store.champion()) is None:
        return Champion()
    try:
        return Champion(path.name, ChurnBundle.load(path, schema_hash=None))
    except BundleError as error:
        return Champion(path.name, unjudged=f"cannot be loaded: {error.message}")


def against_champion(
    champion: Champion, churn: Churn, people: People, activity: Activity, cuts: list[Cut]
) -> Against:
    """Compare the new model with the champion at the last origin.

    Args:
        people: with the new model's columns, of events that have what the champion's declarations
            look at.
        activity: all that is known.
        cuts: of the new model, oldest first.
    """
    if (bundle := champion.bundle) is None:
        return Against(champion.version, unjudged=champion.unjudged)
    cut = cuts[-1]
    window = cut.scored.window
    others, left = _declared_otherwise(bundle, people), _left_out(bundle, people)
    younger = bundle.manifest.window.ts_to > window.origin
    if why := _incomparable(bundle, churn, people, cut, [*others, *left], younger=younger):
        return Against(champion.version, unjudged=why)
    theirs = people.reading(bundle.read, bundle.space, bundle.features)
    notes = []
    if others:
        notes.append(
            f"the incumbent {bundle.version} is judged by its own declarations of "
            f"{', '.join(others)}, declared otherwise now"
        )
    if left:
        notes.append(
            f"the incumbent {bundle.version} reads {', '.join(left)} too, which the new "
            "model was told to leave out or does not have"
        )
    if younger:
        try:
            gone, origin = _by_recipe(bundle, theirs, activity, cuts)
        except NotReadyError as error:
            return Against(champion.version, unjudged=error.message)
        notes.append(
            f"the incumbent {bundle.version} was trained on what came after the last origin: "
            "in its place stands its recipe, "
            f"learned as of its own last origin, {to_iso(origin)}"
        )
    else:
        tables = theirs.ahead(window.origin, cut.scored.person, bundle.moments(window.origin))
        gone = bundle.score([(table.numeric, table.categorical) for table in tables]).gone
    gained = log_losses(gone, cut.gone) - log_losses(cut.probability, cut.gone)
    return Against(
        champion.version, Bootstrap(np.arange(len(gained))).mean(gained), note="; ".join(notes)
    )


def _declared_otherwise(bundle: ChurnBundle, people: People) -> list[str]:
    """The columns that a bundle reads which are there under the same name, declared otherwise than
    it brings them, or derived of such.
    """
    theirs, ours = bundle.features, people.features
    if theirs is None or theirs.schema_hash == ours.schema_hash:
        return []
    there = {*people.columns.numeric, *people.columns.categorical}
    read = [name for name in (*bundle.read.numeric, *bundle.read.categorical) if name in there]
    return [
        name
        for name in read
        if set(subset(theirs, [name]).features) != set(subset(ours, [name]).features)
    ]


def _left_out(bundle: ChurnBundle, people: People) -> list[str]:
    """The columns that a bundle reads and the new model does not."""
    there = {*people.columns.numeric, *people.columns.categorical}
    return [name for name in (*bundle.read.numeric, *bundle.read.categorical) if name not in there]


def _incomparable(
    bundle: ChurnBundle, churn: Churn, people: People, cut: Cut, others: list[str], *, younger: bool
) -> str:
    """Why a bundle cannot be judged at a cut, or ""."""
    if bundle.features is None and bundle.manifest.schema_hash != people.features.schema_hash:
        return "does not bring the declarations of its columns, and features.py has others now"
    window, plan, recipe = cut.scored.window, bundle.plan, Recipe.of(bundle.manifest.metrics)
    if set(plan.types) != set(churn.types):
        return (
            f"predicts whether somebody does no {', '.join(plan.types)} any more, and not "
            f"{', '.join(churn.types)}"
        )
    if plan.active != churn.active_us or (recipe is not None and recipe.churn.per != churn.per):
        return (
            "was told otherwise who is asked about (active), or what counts as one purchase (per)"
        )
    # A history shorter than three windows is judged by shorter ones, which a recipe can be learned
    # for and a bundle was not.
    if (plan.window, plan.gap) != (
        (churn.window_us, churn.gap_us) if younger else (window.length, window.gap)
    ):
        return "predicts another window"
    if not others:
        return ""
    # Columns that are declared as ours were held against this before anything was learned.
    numeric, categorical = (
        tuple(name for name in names if name in others)
        for names in (bundle.read.numeric, bundle.read.categorical)
    )
    found = people.reading(Columns(numeric, categorical), None, bundle.features).leaks(
        [window.origin], [cut.scored.person]
    )
    if ahead := [name for name in found if name not in churn.trust]:
        return f"reads the column {ahead[0]}, which looks past the origin as it was declared then"
    return ""


def _by_recipe(
    bundle: ChurnBundle, people: People, activity: Activity, cuts: list[Cut]
) -> tuple[Floats, int]:
    """P(gone) of the people of the last cut by a bundle's recipe as of its own last origin, and
    that origin.

    Raises:
        NotReadyError: the bundle does not tell its recipe, or too little was known then.
    """
    recipe = Recipe.of(bundle.manifest.metrics)
    if recipe is None:
        raise NotReadyError(
            "was trained on what came after the last origin, and does not tell how, to be "
            "learned again as of before it"
        )
    last = cuts[-1].scored
    age = max(activity.known - bundle.manifest.window.ts_to, 0)
    then = activity.as_of(activity.known - age)
    moved = [replace(cut.scored.window, origin=cut.scored.window.origin - age) for cut in cuts]
    origin = moved[-1].origin
    # Those that were not over yet would choose nothing.
    windows = [window for window in moved if window.stop <= origin or window.origin == origin]
    try:
        grid = grid_of(
            people,
            then,
            recipe.churn,
            rows_max=recipe.grid_rows,
            seed=recipe.fit.seed,
            tell=_silent,
        )
        learned = walk(
            grid,
            people,
            then,
            recipe.churn,
            windows,
            recipe.fit,
            asked_max=len(last.person),
            tell=_silent,
        )[-1]
    except NotReadyError as error:
        raise NotReadyError(
            f"cannot be learned again as of its own last origin, {to_iso(origin)}: {error.message}"
        ) from error
    scored = score_at(
        learned.fitted,
        people,
        last.person,
        last.window,
        recipe.churn,
        read_until(then.first, origin),
    )
    return learned.choice.table.apply(scored.raw[learned.choice.model]), origin


def _silent(stage: str, done: int, total: int) -> None:
    """It is one stage of a training."""
