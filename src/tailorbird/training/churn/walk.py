"""Origin after origin: at each, learn what could be known then, score who was there, and see later
what became of them.

    cut 1     ─fit─┤ origin ── window ──┤
    cut 2              ─fit─┤ origin ── window ──┤
    cut 3                              ─fit─┤ origin ── window ──┤
                                       └ cut 1 is over: it may choose the model and calibrate it for cut 3

What is told of a cut is made of nothing that was not known at its origin: models, calibration, and
which model is taken. The last cut stands for what a bundle made now would be worth, so its
calibration has to be chosen as the bundle's is: by `PROOFS` cuts that began when an earlier one was
over, all of them over by its own origin. With `PER_REACH` cuts from an origin to the end of its
window that takes

    1 2 3 │ 4 5 6 │ 7 8 9        9 is judged; by its origin 1 to 6 are over; 4, 5 and 6 began when 1, 2 and 3 were
    fitted  proofs      judged   for the bundle, made when 9 is over, 4 to 9 are proofs: six origins would do

Figures are made of cuts in `training.churn.judge`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY
from tailorbird.features.declare import HORIZON
from tailorbird.models.btyd import fit_bg_nbd
from tailorbird.models.rfm import fit_rfm
from tailorbird.ranking.calibration import Calibration, Identity, fit_platt
from tailorbird.ranking.churn import Churn
from tailorbird.training.calibrate import Chosen, choose
from tailorbird.training.churn.fit import (
    BLEND,
    DIRECT,
    EDGE,
    HAZARD,
    FitSettings,
    Fitted,
    Grid,
    fit_at,
)
from tailorbird.training.churn.labels import Activity, Floats, Ints, Window
from tailorbird.training.churn.rows import EVER, People
from tailorbird.training.metrics import log_losses

ORDER = (BLEND, HAZARD[0], HAZARD[1], DIRECT[0], DIRECT[1])  # where there is nothing to choose by
PROOFS = 3  # later cuts, to choose anything by
PER_REACH = 3  # cuts, at most, from an origin until its window is over, the gap counted in
CUTS_MAX = PROOFS + 2 * PER_REACH  # so many let the last cut be calibrated
SCALES = (0.5, 2.0)  # of the expected purchases: more is no calibration, but another model
RAW = Chosen(Identity(), {}, 0)  # the output as it is

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Scored:
    """What was said at an origin.

    Attributes:
        person: who was asked about.
        raw: candidate → P(gone), shape (n,), uncalibrated.
        purchases: candidate → expected within the window, uncalibrated; empty without such a model.
    """

    window: Window
    person: Ints
    raw: Mapping[str, Floats]
    purchases: Mapping[str, Floats]


@dataclass(frozen=True)
class Choice:
    """Which model is taken, by the cuts that were over.

    Attributes:
        losses: candidate → mean log loss on those cuts, after a curve of two numbers; see
            `choose_by`.
        scale: of the expected purchases.
        over: how many cuts were over; fewer than `PROOFS` choose no model.
        count: which candidate says expected purchases; "" without any.
        errors: candidate → mean absolute error of the expected purchases on those cuts, their total
            set right; see `choose_count`.
    """

    model: str
    calibration: Chosen
    losses: Mapping[str, float]
    scale: float
    over: int
    count: str = ""
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def table(self) -> Calibration:
        return self.calibration.calibration

    @property
    def unproven(self) -> str:
        """Why there was too little to choose a calibration by; "" where there was enough, whatever
        was chosen.
        """
        if self.calibration.losses:
            return ""
        return (
            f"{self.calibration.periods} of the {PROOFS} origins that it takes had people "
            "enough and began when an earlier one was over"
        )

    @property
    def told(self) -> str:
        """A sentence."""
        listed = ", ".join(
            f"{name} {loss:.4f}"
            for name, loss in sorted(self.losses.items(), key=lambda entry: entry[1])
        )
        by = f"by how well it told people apart at earlier origins (log loss): {listed}"
        if self.over < PROOFS:
            by = f"as {self.over} of the {PROOFS} earlier origins that a choice takes were over"
        calibration = f"none, as {self.unproven}" if self.unproven else self.calibration.told
        return f"{self.model}, {by}; calibration {calibration}; {self._told_of_count}"

    @property
    def _told_of_count(self) -> str:
        if not self.count:
            return "no expected purchases"
        listed = ", ".join(
            f"{name} {error:.4f}"
            for name, error in sorted(self.errors.items(), key=lambda entry: entry[1])
        )
        by = (
            f" by mean absolute error, totals set right: {listed},"
            if self.over >= PROOFS and len(self.errors) > 1
            else ""
        )
        return f"purchases of {self.count}{by} times {self.scale:.3f}"


@dataclass(frozen=True)
class Cut:
    """A cut whose outcome is known.

    Attributes:
        gone, bought: what became of each, shape (n,).
        probability: P(gone) by the chosen model, calibrated; `purchases` likewise.
        baselines: name → P(gone); `baseline_purchases` of those that count.
        fitted: what was learned.
    """

    scored: Scored
    gone: npt.NDArray[np.bool_]
    bought: Floats
    choice: Choice
    probability: Floats
    purchases: Floats | None
    baselines: Mapping[str, Floats]
    baseline_purchases: Mapping[str, Floats]
    fitted: Fitted
    frequency: Floats  # purchases before the origin
    # people who were merged into another user within gap and window, and left out: their label is
    # unknown
    merged: int = 0


def windows_of(activity: Activity, churn: Churn, cuts: int) -> list[Window]:
    """The past windows to be walked over, oldest first, `step_of` apart, each with as long a
    history before it as it reaches ahead.

    Where the history is too short for any, shorter ones are taken, at a third, a half and two
    thirds of it.

    Raises:
        NotReadyError: it is shorter than six periods.
    """
    length, known, first = churn.window_us, activity.known, activity.first
    last = known - churn.gap_us - length
    origins = [
        last - k * step_of(churn) for k in range(cuts) if known - first >= history_of(churn, k + 1)
    ]
    if origins:
        return [Window(origin, churn.gap_us, length) for origin in reversed(origins)]
    short = ((known - first) // 3 - churn.gap_us) // churn.period_us * churn.period_us
    if short < 2 * churn.period_us:
        told = (
            f"the history of {(known - first) / DAY:.0f} days is too short for a window of "
            f"{churn.window}"
        )
        raise NotReadyError(told, fix="a shorter window or gap in churn.py, or a longer history")
    return [
        Window(first + int((known - first) * share), churn.gap_us, short)
        for share in (1 / 3, 1 / 2, 2 / 3)
    ]


def step_of(churn: Churn) -> int:
    """From one cut to the next: so long that a cut is over at the `PER_REACH`-th after it, whatever
    the gap; whole days, if it has any.
    """
    unit = min(DAY, churn.period_us)
    return -(-(churn.gap_us + churn.window_us) // (PER_REACH * unit)) * unit


def history_of(churn: Churn, cuts: int) -> int:
    """How long a history has so many cuts, in µs."""
    return 2 * (churn.gap_us + churn.window_us) + (cuts - 1) * step_of(churn) + churn.period_us


def cuts_to_calibrate(churn: Churn, *, judged: bool) -> int:
    """How many cuts let a bundle be calibrated, or the judged one, the last, too."""
    ahead = -(-(churn.gap_us + churn.window_us) // step_of(churn))
    return PROOFS + (2 * ahead if judged else ahead)


def grid_of(
    people: People, activity: Activity, churn: Churn, *, rows_max: int, seed: int, tell: Tell
) -> Grid:
    """People at moments a period apart, back from what is known; every third of a window is an
    origin.

    Where they are too many, people are drawn at each moment by themselves.
    """
    period, reach = churn.period_us, churn.active_us + churn.window_us if churn.active_us else 0
    moments = np.arange(activity.known - period, activity.first + period, -period, dtype=np.int64)[
        ::-1
    ]
    if not len(moments):
        raise NotReadyError(
            "the history is shorter than two periods", fix="a longer history, or a shorter window"
        )
    every = max(1, round(churn.window_us / 3 / period))
    rng = np.random.default_rng(seed)
    person, moment, origin = [], [], []
    for place, each in enumerate(moments.tolist()):
        then = activity.as_of(each)
        there = then.present(each, reach)
        if len(there) > (share := max(rows_max // len(moments), 100)):
            there = np.sort(rng.choice(there, share, replace=False))
        asked = (
            np.isin(there, then.present(each, churn.active_us))
            if churn.active_us
            else np.ones(len(there), bool)
        )
        person.append(there)
        moment.append(np.full(len(there), each, np.int64))
        origin.append(asked & ((len(moments) - 1 - place) % every == 0))
    tell("features", 0, 1)
    who, when = np.concatenate(person), np.concatenate(moment)
    table = people.at(who, when)
    tell("features", 1, 1)
    return Grid(when, who, table, np.concatenate(origin), period)


def read_until(first: int, known: int) -> int:
    """The last moment that features may be read at: where the log is shorter than what a feature
    looks back at, before it is longer.

    What lies beyond that horizon is forgotten, and a model that never saw anything forgotten would
    not know what that means.
    """
    return first + HORIZON - DAY if known - first < HORIZON else EVER


def starts_of(window: Window, churn: Churn, until: int) -> list[int]:
    """When each period of a window begins, or the last moment that may be read at."""
    periods = max(1, round(window.length / churn.period_us))
    return [
        max(min(window.start + k * churn.period_us, until), window.origin) for k in range(periods)
    ]


def score_at(
    fitted: Fitted, people: People, asked: Ints, window: Window, churn: Churn, until: int
) -> Scored:
    """What is said of people at a window's origin, by what is known then."""
    starts = starts_of(window, churn, until) if set(HAZARD) & set(fitted.models) else []
    tables = people.ahead(window.origin, asked, [window.origin, *starts])
    now, later = tables[0], tables[1:]
    return Scored(window, asked, fitted.gone(now, later), fitted.purchases(now, window))


def walk(
    grid: Grid,
    people: People,
    activity: Activity,
    churn: Churn,
    windows: Sequence[Window],
    settings: FitSettings,
    *,
    asked_max: int,
    tell: Tell,
) -> list[Cut]:
    """Walk over windows, oldest first. What cannot be learned at an early origin yet is left out.

    Raises:
        NotReadyError: nothing could be learned at the last one.
    """
    cuts: list[Cut] = []
    rng = np.random.default_rng([settings.seed, 1])
    for place, window in enumerate(windows):
        tell("origins", place, len(windows))
        then = activity.as_of(window.origin)
        asked = then.present(window.origin, churn.active_us)
        if len(asked) > asked_max:
            asked = np.sort(rng.choice(asked, asked_max, replace=False))
        outcome = activity.as_of(window.stop)
        known = ~outcome.merged_within(asked, window.origin, window.stop)
        asked, merged = asked[known], int(np.count_nonzero(~known))
        try:
            fitted = fit_at(grid, then, window, settings, churn.rfm)
            baselines, counted = baselines_at(then, asked, window, churn)
        except NotReadyError:
            if place == len(windows) - 1:
                raise
            continue
        scored = score_at(
            fitted, people, asked, window, churn, read_until(then.first, window.origin)
        )
        bought = outcome.counts(asked, window.start, window.stop)
        over = [cut for cut in cuts if cut.scored.window.stop <= window.origin]
        choice = choose_by(
            over, tuple(scored.raw), window, settings.half_life, tuple(scored.purchases)
        )
        probability = choice.table.apply(scored.raw[choice.model])
        expected = scored.purchases[choice.count] * choice.scale if choice.count else None
        count = then.rfm(asked, window.origin).frequency
        cuts.append(
            Cut(
                scored,
                bought == 0,
                bought,
                choice,
                probability,
                expected,
                baselines,
                counted,
                fitted,
                count,
                merged,
            )
        )
    tell("origins", len(windows), len(windows))
    return cuts


def choose_by(
    over: Sequence[Cut],
    candidates: Sequence[str],
    window: Window,
    half_life: float,
    counts: Sequence[str] = (),
) -> Choice:
    """The candidate that told people best apart on cuts that are over; and its calibration, chosen
    by cuts after those that were over.

    With fewer than `PROOFS` of either, nothing is chosen: the blend, as it comes. One or two are a
    season, and no proof. Candidates are compared by their log loss after a curve of two numbers
    fitted to the cut itself: a whole level that moves with the season is nobody's merit, and is for
    the calibration to follow, if it can.

    Args:
        half_life: in windows: the older a cut, the less it counts, as in training; 0 counts all
            alike.
        counts: candidates for the expected purchases, the usual one first.
    """
    usual = next(name for name in ORDER if name in candidates)
    if not over:
        return Choice(usual, RAW, {}, 1.0, 0, counts[0] if counts else "")
    age = np.array([(window.origin - cut.scored.window.origin) / window.length for cut in over])
    share = 0.5 ** (age / half_life) if half_life else np.ones(len(over))
    everywhere = [name for name in candidates if all(name in cut.scored.raw for cut in over)]
    losses = {
        name: float(np.average([_told_apart(cut, name) for cut in over], weights=share))
        for name in everywhere
    }
    model = min(losses, key=lambda name: losses[name]) if losses and len(over) >= PROOFS else usual
    calibration = _calibration(over, model, share) if model in everywhere else RAW
    count, errors = choose_count(over, counts, share)
    return Choice(model, calibration, losses, _scale(over, count), len(over), count, errors)


def choose_count(
    over: Sequence[Cut], counts: Sequence[str], share: Floats
) -> tuple[str, dict[str, float]]:
    """The candidate for the expected purchases that erred least on cuts that are over, and the mean
    absolute error of each there.

    With fewer than `PROOFS` cuts the usual one is taken, the first. Each candidate's total is set
    right in each cut before: where most people buy nothing, an absolute error prefers whatever says
    too little, and the level is for `_scale` to follow.

    Args:
        share: what each cut counts.
    """
    if not counts:
        return "", {}
    known = [
        name
        for name in counts
        if all(
            name in cut.scored.purchases and cut.scored.purchases[name].sum() > 0 for cut in over
        )
    ]
    errors = {
        name: float(np.average([_error(cut, name) for cut in over], weights=share))
        for name in known
    }
    return min(errors, key=lambda name: errors[name]) if errors and len(over) >= PROOFS else counts[
        0
    ], errors


def _error(cut: Cut, name: str) -> float:
    expected = cut.scored.purchases[name]
    return float(np.abs(expected * (cut.bought.sum() / expected.sum()) - cut.bought).mean())


def _told_apart(cut: Cut, name: str) -> float:
    raw = cut.scored.raw[name]
    logits = np.log(np.clip(raw, EDGE, 1 - EDGE)) - np.log1p(-np.clip(raw, EDGE, 1 - EDGE))
    return float(
        log_losses(fit_platt(logits, cut.gone.astype(np.float64)).apply(logits), cut.gone).mean()
    )


def _calibration(over: Sequence[Cut], name: str, share: Floats) -> Chosen:
    """A candidate's calibration; where no cut came after another was over there is nothing to
    choose by, and the output stays as it is.
    """
    sizes = [len(cut.gone) for cut in over]
    raw = np.concatenate([cut.scored.raw[name] for cut in over])
    gone = np.concatenate([cut.gone for cut in over])
    after = np.array([_first_after(over, cut) for cut in over])
    return choose(
        raw,
        gone,
        np.repeat(np.arange(len(over)), sizes),
        np.repeat(share, sizes),
        known_from=np.repeat(after, sizes),
        periods_min=PROOFS,
    )


def _first_after(over: Sequence[Cut], cut: Cut) -> int:
    """The first cut that begins when this one is over."""
    return next(
        (k for k, each in enumerate(over) if each.scored.window.origin >= cut.scored.window.stop),
        len(over),
    )


def _scale(over: Sequence[Cut], count: str) -> float:
    """What expected purchases are to be multiplied by; 1 unless it brought totals nearer in enough
    cuts after those that were over.
    """
    counted = [
        cut
        for cut in over
        if count in cut.scored.purchases
        and cut.scored.purchases[count].sum() > 0
        and cut.bought.sum() > 0
    ]
    ratio = [float(cut.bought.sum() / cut.scored.purchases[count].sum()) for cut in counted]
    plain, scaled = [], []
    for place, cut in enumerate(counted):
        before = [
            ratio[k]
            for k, each in enumerate(counted)
            if each.scored.window.stop <= cut.scored.window.origin
        ]
        if before:
            plain.append(abs(1 / ratio[place] - 1))
            scaled.append(abs(_bounded(before) / ratio[place] - 1))
    return _bounded(ratio) if len(plain) >= PROOFS and np.mean(scaled) < np.mean(plain) else 1.0


def _bounded(ratio: Sequence[float]) -> float:
    return float(np.clip(np.exp(np.mean(np.log(ratio))), *SCALES))


def baselines_at(
    then: Activity, asked: Ints, window: Window, churn: Churn
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """P(gone) by each baseline, and expected purchases by those that count.

    `bg_nbd_count` is P(none) of a Poisson number with BG/NBD's expectation: another order, often a
    better one than that of its own P(none), `bg_nbd`. `recency` and `rfm_logistic` learn from the
    newest origin whose window is over, or from the middle of what is known where none is.
    """
    origin = window.origin - window.gap - window.length
    length = window.length
    if origin <= then.first + churn.period_us:
        origin = then.first + (window.origin - then.first) // 2
        length = window.origin - origin - window.gap
    earlier = then.as_of(origin)
    present = earlier.present(origin, churn.active_us)
    if length > 0:
        present = present[~then.merged_within(present, origin, origin + window.gap + length)]
    returned = (
        then.counts(present, origin + window.gap, origin + window.gap + length) > 0
        if length > 0
        else np.zeros(0, bool)
    )
    if not 0 < np.count_nonzero(returned) < len(returned):
        raise NotReadyError("no earlier origin has people who came back and people who did not")
    past, now = earlier.rfm(present, origin), then.rfm(asked, window.origin)
    gone = {
        "recency": 1 - fit_rfm(past, returned, only_recency=True).returning(now),
        "rfm_logistic": 1 - fit_rfm(past, returned).returning(now),
    }
    everybody = then.purchases(then.present(window.origin), window.origin)
    model, mine = fit_bg_nbd(everybody), then.purchases(asked, window.origin)
    gap, span = window.gap / DAY, window.length / DAY
    gone["bg_nbd"] = 1 - model.returning(mine, span)
    expected = model.purchases(mine, gap + span) - (model.purchases(mine, gap) if gap else 0.0)
    gone["bg_nbd_count"] = np.exp(-expected)
    return gone, {"bg_nbd": expected, "bg_nbd_count": expected}


def importance_of(fitted: Fitted, model: str) -> dict[str, float]:
    """Share of what a model learned by column, the mean over its parts."""
    parts = (
        [name for name in (*DIRECT, *HAZARD) if name in fitted.models]
        if model == BLEND
        else [model]
    )
    shares: dict[str, float] = {}
    for name in parts:
        for column, share in fitted.models[name].importance().items():
            shares[column] = shares.get(column, 0.0) + share / len(parts)
    return dict(sorted(shares.items(), key=lambda entry: -entry[1]))
