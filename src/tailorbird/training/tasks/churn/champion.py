"""Compare the champion with the new model on the same people, without leakage into either.

    champion, as trained      ──────────── known then ┤
    champion, as judged here  ──fit─┤ ◄─ its own last origin
    new model, as trained     ───────────────────────── known now ┤
    new model, as judged      ──────── fit ─┤ last origin ── window ──┤

A champion whose data end before the last origin is scored as it is. A newer one has already seen
labels of the evaluation window, and would be favoured the more the oftener models are trained. It
is replaced by its recipe: its columns and settings, recorded in its bundle, are fitted again by the
current code as of the champion's own last origin (as long before ours as it was trained before
now), and score the people of ours. Fitted as of our origin, the same recipe would give the same
model, and newer data could never show a gain.

Either way, the champion's features are computed from the declarations in its bundle, because
`features.py` may have changed since.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec
import numpy as np

from tailorbird.errors import BundleError, DeclarationError, NotReadyError
from tailorbird.events import to_iso
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import subset_features
from tailorbird.ranking.churn.bundle import ChurnBundle
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.registry import ColumnNames, Registry
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.evaluation.gate import describe_unevaluated
from tailorbird.training.evaluation.metrics import log_losses
from tailorbird.training.tasks.churn.labels import Activity, Floats
from tailorbird.training.tasks.churn.model_choice import Cut
from tailorbird.training.tasks.churn.rolling_origin import (
    build_grid,
    feature_horizon,
    run_cuts,
    score_people_at,
)
from tailorbird.training.tasks.churn.rows import PeopleFeatures
from tailorbird.training.tasks.churn.training_rows import FitSettings

RECIPE = "recipe"  # among what a bundle says about its training


@dataclass(frozen=True)
class Recipe:
    """The settings that a churn model was trained with, apart from its columns.

    Attributes:
        grid_rows: maximum rows of the grid of people at moments.
    """

    churn: Churn
    fit: FitSettings
    grid_rows: int

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as stored in a bundle."""
        return asdict(self)

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> "Recipe | None":
        """Return the recipe in a bundle's metrics, or None if absent or incompatible."""
        try:
            return msgspec.convert(metrics["about"][RECIPE], cls)
        except (KeyError, msgspec.ValidationError, DeclarationError):
            return None


@dataclass(frozen=True)
class ChampionComparison:
    """The result of the comparison with the champion.

    Attributes:
        version: of the champion; "" without one.
        gain: of the new model in log loss on the last cut; None if the champion could not be
            judged, for `skip_reason`.
        note: a caveat about the comparison, or "".
    """

    version: str = ""
    gain: Interval | None = None
    skip_reason: str = ""
    note: str = ""

    @property
    def unevaluated_note(self) -> str:
        """Say why the champion could not be judged, or return ""."""
        return describe_unevaluated(self.version, self.skip_reason) if self.skip_reason else ""


@dataclass(frozen=True)
class Champion:
    """The live model.

    Attributes:
        version: "" without one.
        bundle: None without one, or if it cannot be loaded, for `skip_reason`.
    """

    version: str = ""
    bundle: ChurnBundle | None = None
    skip_reason: str = ""

    @property
    def features(self) -> tuple[FeatureSet, ...]:
        """The feature declarations in its bundle, if any."""
        return (
            () if self.bundle is None or self.bundle.features is None else (self.bundle.features,)
        )


def load_champion(store: Registry) -> Champion:
    """Load the current champion.

    It is loaded before events are read, because they must cover its features too.
    """
    if (path := store.champion_folder()) is None:
        return Champion()
    try:
        return Champion(path.name, ChurnBundle.load(path, schema_hash=None))
    except BundleError as error:
        return Champion(path.name, skip_reason=f"cannot be loaded: {error.message}")


def compare_with_champion(
    champion: Champion, churn: Churn, people: PeopleFeatures, activity: Activity, cuts: list[Cut]
) -> ChampionComparison:
    """Compare the new model with the champion at the last origin.

    Args:
        people: with the new model's columns, over events that cover the champion's features.
        activity: all known activity.
        cuts: of the new model, oldest first.
    """
    if (bundle := champion.bundle) is None:
        return ChampionComparison(champion.version, skip_reason=champion.skip_reason)
    cut = cuts[-1]
    window = cut.scores.window
    redeclared_columns = _find_redeclared_columns(bundle, people)
    dropped_columns = _find_dropped_columns(bundle, people)
    is_newer = bundle.manifest.window.ts_to > window.origin
    if skip_reason := _incomparable_reason(
        bundle, churn, people, cut, [*redeclared_columns, *dropped_columns], is_newer=is_newer
    ):
        return ChampionComparison(champion.version, skip_reason=skip_reason)
    champion_people = people.with_columns(bundle.feature_columns, bundle.space, bundle.features)
    notes = []
    if redeclared_columns:
        notes.append(
            f"the champion {bundle.version} is judged by its own declarations of "
            f"{', '.join(redeclared_columns)}, declared otherwise now"
        )
    if dropped_columns:
        notes.append(
            f"the champion {bundle.version} reads {', '.join(dropped_columns)} too, which the new "
            "model was told to leave out or does not have"
        )
    if is_newer:
        try:
            champion_probability, origin = _score_by_recipe(bundle, champion_people, activity, cuts)
        except NotReadyError as error:
            return ChampionComparison(champion.version, skip_reason=error.message)
        notes.append(
            f"the champion {bundle.version} was trained on what came after the last origin: "
            "in its place stands its recipe, "
            f"learned as of its own last origin, {to_iso(origin)}"
        )
    else:
        tables = champion_people.read_projected(
            window.origin, cut.scores.person, bundle.moments(window.origin)
        )
        champion_probability = bundle.score(
            [(table.numeric, table.categorical) for table in tables]
        ).churn_probability
    log_loss_gains = log_losses(champion_probability, cut.churned) - log_losses(
        cut.probability, cut.churned
    )
    return ChampionComparison(
        champion.version,
        Bootstrap(np.arange(len(log_loss_gains))).mean(log_loss_gains),
        note="; ".join(notes),
    )


def _find_redeclared_columns(bundle: ChurnBundle, people: PeopleFeatures) -> list[str]:
    """Return the champion's columns whose declaration has changed under the same name.

    Columns derived from a changed feature are included.
    """
    champion_features = bundle.features
    current_features = people.features
    if champion_features is None or champion_features.schema_hash == current_features.schema_hash:
        return []
    dropped_columns = _find_dropped_columns(bundle, people)
    return [
        name
        for name in (*bundle.feature_columns.numeric, *bundle.feature_columns.categorical)
        if name not in dropped_columns
        and set(subset_features(champion_features, [name]).features)
        != set(subset_features(current_features, [name]).features)
    ]


def _find_dropped_columns(bundle: ChurnBundle, people: PeopleFeatures) -> list[str]:
    """Return the columns that a bundle reads and the new model does not."""
    available_columns = {*people.columns.numeric, *people.columns.categorical}
    return [
        name
        for name in (*bundle.feature_columns.numeric, *bundle.feature_columns.categorical)
        if name not in available_columns
    ]


def _incomparable_reason(
    bundle: ChurnBundle,
    churn: Churn,
    people: PeopleFeatures,
    cut: Cut,
    changed_columns: list[str],
    *,
    is_newer: bool,
) -> str:
    """Return why a bundle cannot be judged at a cut, or ""."""
    if bundle.features is None and bundle.manifest.schema_hash != people.features.schema_hash:
        return "does not bring the declarations of its columns, and features.py has others now"
    window = cut.scores.window
    plan = bundle.plan
    recipe = Recipe.from_metrics(bundle.manifest.metrics)
    if set(plan.types) != set(churn.types):
        return (
            f"predicts whether somebody does no {', '.join(plan.types)} any more, and not "
            f"{', '.join(churn.types)}"
        )
    if plan.active != churn.active_us or (recipe is not None and recipe.churn.per != churn.per):
        return (
            "was told otherwise who is asked about (active), or what counts as one purchase (per)"
        )
    # A history shorter than three windows is evaluated on shorter ones. A recipe can be fitted
    # again for them, but the bundle was not.
    if (plan.window, plan.gap) != (
        (churn.window_us, churn.gap_us) if is_newer else (window.length, window.gap)
    ):
        return "predicts another window"
    if not changed_columns:
        return ""
    # Columns declared as ours were already checked for leakage before training.
    numeric, categorical = (
        tuple(name for name in names if name in changed_columns)
        for names in (bundle.feature_columns.numeric, bundle.feature_columns.categorical)
    )
    leaks = people.with_columns(
        ColumnNames(numeric, categorical), None, bundle.features
    ).find_leaks([window.origin], [cut.scores.person])
    if leaking_columns := [name for name in leaks if name not in churn.trust]:
        return (
            f"reads the column {leaking_columns[0]}, which looks past the origin as it was "
            "declared then"
        )
    return ""


def _score_by_recipe(
    bundle: ChurnBundle, people: PeopleFeatures, activity: Activity, cuts: list[Cut]
) -> tuple[Floats, int]:
    """Return P(gone) by a bundle's recipe as of its own last origin, and that origin.

    The people are those of the last cut.

    Raises:
        NotReadyError: the bundle has no recipe, or too little was known then.
    """
    recipe = Recipe.from_metrics(bundle.manifest.metrics)
    if recipe is None:
        raise NotReadyError(
            "was trained on what came after the last origin, and does not tell how, to be "
            "learned again as of before it"
        )
    last_scores = cuts[-1].scores
    champion_age_us = max(activity.known_until - bundle.manifest.window.ts_to, 0)
    known_activity = activity.as_of(activity.known_until - champion_age_us)
    shifted_windows = [
        replace(cut.scores.window, origin=cut.scores.window.origin - champion_age_us)
        for cut in cuts
    ]
    origin = shifted_windows[-1].origin
    # Unfinished windows cannot take part in the model choice.
    windows = [
        window for window in shifted_windows if window.stop <= origin or window.origin == origin
    ]
    try:
        grid = build_grid(
            people, known_activity, recipe.churn, rows_max=recipe.grid_rows, seed=recipe.fit.seed
        )
        last_cut = run_cuts(
            grid,
            people,
            known_activity,
            recipe.churn,
            windows,
            recipe.fit,
            scored_people_max=len(last_scores.person),
        )[-1]
    except NotReadyError as error:
        raise NotReadyError(
            f"cannot be learned again as of its own last origin, {to_iso(origin)}: {error.message}"
        ) from error
    scores = score_people_at(
        last_cut.fitted,
        people,
        last_scores.person,
        last_scores.window,
        recipe.churn,
        feature_horizon(known_activity.start_ts, origin),
    )
    return last_cut.choice.calibrator.apply(scores.raw_probabilities[last_cut.choice.model]), origin
