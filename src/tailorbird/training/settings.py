"""Settings and report of a training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tailorbird.errors import UsageError
from tailorbird.events import DAY
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.retrieval import TextVectorSettings
from tailorbird.training.dataset.clicks import SamplingScheme
from tailorbird.training.dataset.request_choice import RowSettings, RowSource
from tailorbird.training.evaluation.figures import Evaluation
from tailorbird.training.evaluation.gate import Decision
from tailorbird.training.fit.retrieval import RetrievalChoiceName
from tailorbird.training.fit.towers import TowerSettings

Progress = Callable[[str, int, int], None]

AUTO = "auto"
CONTINUATION = "went on from the "  # begins the note of a training that continues a model
# Begins the note of one that could not.
NO_CONTINUATION = "trained from scratch, though --incremental was asked for: "
PositionUse = Literal["column", "weights", "none"]

DEFAULT_REQUESTS = 25_000
QUICK_REQUESTS = 6_000
QUICK_TEST_REQUESTS = 2_000
# Where logged responses are learned from, whose candidates are looked up request by request.
QUICK_LOGGED_REQUESTS = 10_000
SEED_MAX = 1_000_000_000  # LightGBM takes 32 bits, and some draws add to the seed


def check_seed(seed: int) -> None:
    """Raise UsageError if the seed is outside the range that all draws accept."""
    if not 0 <= seed <= SEED_MAX:
        raise UsageError(f"expected 0 to {SEED_MAX:,}, got {seed}", where="--seed")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training.

    Attributes:
        window_us: how much of the past the rows cover; features look further back, as declared.
        lateness_us: allowed lateness of events; younger responses are left out.
        quick: fewer rows and trees: a first model within seconds.
        rows: what to learn from: `answers`, or what people chose, `clicks`; `auto` uses answers if
            enough have an outcome.
        arm: learn from the responses of this EXPERIMENT:ARM alone; "" takes all.
        scheme: draws requests from what people chose, in this way; None infers it from the log.
        requests, test_requests: maximum requests of training, and of validation and test each,
            drawn evenly over the part's time so that all hours and weekdays are covered; 0 takes
            all. However long the log is, the trainings of `docs/results.md` took 5 to 25 minutes and
            at most 6.1 GB with these defaults on two shared cores.
        validation_from, test_from: fixed borders, microseconds; 0 cuts by shares of requests.
        index_parts: number of item indexes over the training part.
        architecture: one of `models.architectures`, one of the project's own, or `auto`: a net if
            the validation part shows that it beats boosters.
        challengers: the project's own estimators that `gbdt` and `auto` also fit; the one that
            beats boosters most on the validation part is taken.
        retrieval, tower: candidate retrieval, see `training.fit.retrieval`, and the size of the
            tower.
        position: use of logged positions: as a `column`, which serving sets to the first, where
            rows are all that was shown; by `weights` of clicks, see `training.fit.examination`;
            or `none`.
        parameters: parameters of a net that differ from the architecture's defaults; boosters use
            `gbdt`.
        processes: processes that share the training of a net, see `models.deep.parallel`.
        incremental: start a net from the weights of the last training, or from the champion's
            trees, on the rows since then and as many before them.
        checkpoint, logs, warm: folders of nets, set by `train`: state of a killed training, metrics
            by epoch for TensorBoard, and weights for the next incremental training; None keeps
            none.
        mlflow: tracking URI that nets are logged to, where MLflow is installed; "" logs none.
        rows_in_memory: with more rows, nets read them from files, see `training.dataset.chunks`.
        leave_out: columns that the model must not see.
        seed: seed of every draw: requests, rows and columns of trees, initial weights of nets; the
            seed of `gbdt` is ignored.
        preset: treatment of columns without a declared transform: for `trees` or for `nets`; see
            `training.fit.transforms`.
        shuffle: train on shuffled labels, to check that the gate rejects the result.
        meaning: how the index of items gets text vectors; None searches by words alone.
        budget: the plan of a time budget, see `training.budget`; empty without one.
        tuned, tuned_until: how settings were tuned, in words, and the newest time that tuning saw,
            microseconds.
    """

    window_us: int = 28 * DAY
    lateness_us: int = DAY
    quick: bool = False
    rows: RowSource = "auto"
    arm: str = ""
    scheme: SamplingScheme | None = None
    requests: int = DEFAULT_REQUESTS
    test_requests: int = 6_000
    validation_from: int = 0
    test_from: int = 0
    index_parts: int = 4
    gbdt: GbdtSettings = field(default_factory=GbdtSettings)
    architecture: str = "gbdt"
    challengers: tuple[str, ...] = ()
    retrieval: RetrievalChoiceName = "tables"
    tower: TowerSettings = field(default_factory=TowerSettings)
    position: PositionUse = "column"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    incremental: bool = False
    checkpoint: Path | None = None
    logs: Path | None = None
    warm: Path | None = None
    mlflow: str = ""
    rows_in_memory: int = 2_000_000
    leave_out: tuple[str, ...] = ()
    preset: str = "trees"
    seed: int = 7
    shuffle: bool = False
    budget: Mapping[str, Any] = field(default_factory=dict)
    meaning: TextVectorSettings | None = None
    tuned: str = ""
    tuned_until: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def row_settings(self, as_of: int, extra_heads: Sequence[str] = ()) -> RowSettings:
        """Return which requests to learn from at `as_of`, with labels for extra heads."""
        return RowSettings(
            ts_from=as_of - self.window_us,
            as_of=as_of,
            lateness_us=self.lateness_us,
            row_source=self.rows,
            sampling_scheme=self.scheme,
            extra_heads=extra_heads,
            arm=self.arm,
        )

    def with_quick_applied(self) -> "TrainSettings":
        """Return the settings with `quick` resolved."""
        if not self.quick:
            return self
        gbdt = replace(
            self.gbdt, trees=min(self.gbdt.trees, 150), rate=max(self.gbdt.rate, 0.08), patience=15
        )
        return replace(
            self,
            requests=min(self.requests or QUICK_REQUESTS, QUICK_REQUESTS),
            test_requests=min(self.test_requests or QUICK_TEST_REQUESTS, QUICK_TEST_REQUESTS),
            index_parts=2,
            gbdt=gbdt,
        )


@dataclass(frozen=True)
class TrainReport:
    """Report of a training.

    Attributes:
        version: version in the registry.
        promoted: whether it became the champion; `decision` has the reasons.
        fallback_version: best evaluated baseline, promoted where the model was not and nothing
            served before; "" otherwise.
        champion: the previous champion, "" without one.
        row_counts: rows of each part.
        heads: heads of the bundle: of the slot, then of other slots.
        notes: what was left out, and caveats of the figures.
        stage_seconds: stage → wall time.
        page_path: page with tables and charts, if requested.
        serving_costs: with the page, cost and quality of everything evaluated, and whether it is
            on the front.
    """

    version: str
    promoted: bool
    champion: str
    decision: Decision
    evaluation: Evaluation
    row_counts: dict[str, int]
    heads: tuple[str, ...]
    notes: tuple[str, ...]
    about: dict[str, Any]
    stage_seconds: dict[str, float]
    page_path: Path | None = None
    fallback_version: str = ""
    serving_costs: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_incremental(self) -> bool:
        """Return whether it went on from an earlier model."""
        return any(note.startswith(CONTINUATION) for note in self.notes)

    @property
    def not_incremental_reason(self) -> str:
        """Return why it went on from no earlier model although that was asked for, or ""."""
        reasons = [
            note.removeprefix(NO_CONTINUATION)
            for note in self.notes
            if note.startswith(NO_CONTINUATION)
        ]
        return "; ".join(reasons)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        outcome = {
            "version": self.version,
            "promoted": self.promoted,
            "reasons": list(self.decision.reasons),
        }
        outcome |= {"champion": self.champion, "instead": self.fallback_version}
        details = {
            "notes": list(self.notes),
            "rows": self.row_counts,
            "about": self.about,
            "seconds": self.stage_seconds,
        }
        return {
            **self.evaluation.to_dict(),
            **outcome,
            **details,
            "serving": list(self.serving_costs),
            "report": str(self.page_path) if self.page_path else None,
        }
