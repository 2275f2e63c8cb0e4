"""How a model is trained, and what a training returns: plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tailorbird.errors import UsageError
from tailorbird.events import DAY
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.retrieval import MeaningSettings
from tailorbird.training.clicks import Scheme
from tailorbird.training.gate import Decision
from tailorbird.training.judge import Evaluation
from tailorbird.training.retrieval import Choice
from tailorbird.training.rows import Rows, Wanted
from tailorbird.training.towers import TowerSettings

Progress = Callable[[str, int, int], None]

AUTO = "auto"
Position = Literal["column", "weights", "none"]


REQUESTS = 25_000
QUICK_REQUESTS, QUICK_TEST = 6_000, 2_000
# where logged answers are learned from, whose candidates are looked up one request after another
QUICK_ANSWERS = 10_000
SEED_MAX = 1_000_000_000  # LightGBM takes 32 bits, and some draws count on from it


def check_seed(seed: int) -> None:
    """Raise UsageError unless every draw can begin with it."""
    if not 0 <= seed <= SEED_MAX:
        raise UsageError(f"expected 0 to {SEED_MAX:,}, got {seed}", where="--seed")


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        window_us: how much of the past the rows cover; features look further back, as they declare.
        lateness_us: how late events may come: younger answers are left out.
        quick: fewer rows and trees: a first model within seconds.
        rows: what is learned from: `answers`, or what people chose, `clicks`; `auto` takes answers
            where enough have an outcome.
        scheme: how requests are drawn from what people chose, and that they are; None guesses it
        from the log. requests, test_requests: of training, and of validation and test each, at
        most; drawn evenly over the part's whole time, so that all hours and weekdays are in it; 0
        takes all. The defaults keep a training within ten minutes and 8 GB on two cores, however
        long the log is. validation_from, test_from: fixed borders, microseconds; 0 cuts by shares
        of requests.
        index_parts: how many indexes of items are made over the training part.
        architecture: of `models.architectures`, or `auto`: a net where the validation part shows
        that it is better than boosters. retrieval, tower: where candidates come from, see
        `training.retrieval`, and how large a tower of vectors is.
        position: how the place of a logged row counts: as a `column`, which serving sets to the
            first, where rows are all that was shown; by `weights` of clicks, see
            `training.position`; or as `none`.
        parameters: of a net, what differs from the architecture's own; boosters have `gbdt`.
        processes: that share the training of a net, see `models.deep.parallel`.
        incremental: a net goes on from the weights of the last training, over the rows since then
        and as many before them. checkpoint, logs, warm: folders of nets, which `train` sets: what a
        killed training goes on from, figures by epoch for TensorBoard, and what the next
        incremental training begins with; None keeps none.
        mlflow: tracking URI that trainings of nets are logged to, where MLflow is installed; ""
            logs none.
        rows_in_memory: where more rows than these are learned from, nets take them from files, see
            `training.pieces`.
        leave_out: columns that the model must not see.
        seed: of every draw: which requests are taken, what trees see of rows and columns, how nets
            begin; that of `gbdt` is not asked.
        preset: how columns are taken that no transform names: as `trees` like them, or `nets`; see
            `training.transforms`.
        shuffle: train on shuffled labels, to see that the gate refuses the result.
        meaning: how the index of items gets text vectors; None searches by words alone.
        budget: what a time was turned into, see `training.budget`; empty where none was given.
        tuned, tuned_until: that settings were tuned, in words, and the moment that nothing that had
        a say was later than, microseconds.
    """

    window_us: int = 28 * DAY
    lateness_us: int = DAY
    quick: bool = False
    rows: Rows = "auto"
    scheme: Scheme | None = None
    requests: int = REQUESTS
    test_requests: int = 6_000
    validation_from: int = 0
    test_from: int = 0
    index_parts: int = 4
    gbdt: GbdtSettings = field(default_factory=GbdtSettings)
    architecture: str = "gbdt"
    retrieval: Choice = "tables"
    tower: TowerSettings = field(default_factory=TowerSettings)
    position: Position = "column"
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
    meaning: MeaningSettings | None = None
    tuned: str = ""
    tuned_until: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def wanted(self, now: int, heads: Sequence[str] = ()) -> Wanted:
        """Which requests are learned from at a moment, with labels for further targets as well."""
        return Wanted(now - self.window_us, now, self.lateness_us, self.rows, self.scheme, heads)

    def hurried(self) -> "TrainSettings":
        """The same with what `quick` means filled in."""
        if not self.quick:
            return self
        gbdt = replace(
            self.gbdt, trees=min(self.gbdt.trees, 150), rate=max(self.gbdt.rate, 0.08), patience=15
        )
        few = (
            min(self.requests or QUICK_REQUESTS, QUICK_REQUESTS),
            min(self.test_requests or QUICK_TEST, QUICK_TEST),
        )
        return replace(self, requests=few[0], test_requests=few[1], index_parts=2, gbdt=gbdt)


@dataclass(frozen=True)
class TrainReport:
    """What came of it.

    Attributes:
        version: in the registry.
        promoted: whether it became the champion; `decision` says why or why not.
        instead: the version that serves where it did not and nothing did before: the best judged
            baseline; "" otherwise.
        incumbent: the champion before, "" without one.
        rows: of each part.
        heads: those that the bundle carries: of the slot, then of other slots.
        notes: what was left out, and what a reader must know to trust the figures.
        seconds: stage → wall time.
        report: the page with tables and pictures, if one was asked for.
        priced: with it, of each that was judged what an answer costs, how good it is, and whether
            it lies on the front of both.
    """

    version: str
    promoted: bool
    incumbent: str
    decision: Decision
    evaluation: Evaluation
    rows: dict[str, int]
    heads: tuple[str, ...]
    notes: tuple[str, ...]
    about: dict[str, Any]
    seconds: dict[str, float]
    report: Path | None = None
    instead: str = ""
    priced: tuple[Mapping[str, Any], ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        told = {
            "version": self.version,
            "promoted": self.promoted,
            "reasons": list(self.decision.reasons),
        }
        told |= {"incumbent": self.incumbent, "instead": self.instead}
        more = {
            "notes": list(self.notes),
            "rows": self.rows,
            "about": self.about,
            "seconds": self.seconds,
        }
        return {
            **self.evaluation.plain(),
            **told,
            **more,
            "serving": list(self.priced),
            "report": str(self.report) if self.report else None,
        }
