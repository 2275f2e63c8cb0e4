"""Parameters of nets, and the defaults of each architecture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import msgspec

from tailorbird.errors import UsageError

RATE_MAX = 1e6  # far beyond any useful rate; optimisers reject larger numbers
NUMERIC_ENCODINGS = ("standardise", "quantile", "periodic")


def _require(is_valid: bool, name: str, value: object, requirement: str) -> None:
    if not is_valid:
        raise UsageError(
            f"{name} is {value!r}", where="parameters of a net", fix=f"{name} must be {requirement}"
        )


@dataclass(frozen=True)
class DeepParameters:
    """Parameters of a net and its training.

    The defaults are the reference: 128–dropout 0.2–64–sigmoid, Adam, cross-entropy, 10 epochs,
    batch 256.

    Attributes:
        hidden: widths of the layers.
        dropout: dropout between layers.
        rate, weight_decay: of AdamW, which without decay is Adam.
        embedding_l2: penalty on the squared embeddings that a batch looks up; nets over ids overfit
            from the second epoch on.
        epochs: maximum passes over the data.
        batch: rows of a step.
        patience: epochs without a better validation loss before training stops; each head then
            keeps its best epoch. 0 disables early stopping.
        numeric: `standardise` uses numbers on one scale; `quantile` encodes the progress through
            each of `bins` bins of equal count; `periodic` uses sines and cosines of learned
            frequencies. The latter two give each number a vector of `width`.
        embedding_max: widest embedding; n codes get min(embedding_max, 2 · n^0.35).
        unknown_share: share of the codes in training rows that are replaced by the unknown code, so
            that its embedding is learned. At 0 it is learned from rare ids only, and stays noise
            without any.
        position_dropout: share of the training rows that are treated as if shown first, as all are
            in serving.
        crosses, rank: cross layers of DCN-v2; rank of their matrices, 0 for full ones.
        attention: whether the candidate attends to the person's newest items, instead of their
            mean.
        experts, expert_hidden, tower: of MMoE; one expert is a shared bottom.
        positive_weight: weight of a positive row in the loss; 0 balances both classes. Scores are
            corrected for it.
        negative_share: share of the rows without any positive that each epoch draws. Scores are
            corrected for it.
        shards: parts of a batch whose gradients are added in order; up to as many processes can
            share the work with equal results.
        threads: of torch; 0 uses half the cores.
    """

    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    rate: float = 1e-3
    weight_decay: float = 0.0
    embedding_l2: float = 0.0
    epochs: int = 10
    batch: int = 256
    patience: int = 0
    numeric: str = "standardise"
    bins: int = 16
    width: int = 8
    embedding_max: int = 16
    unknown_share: float = 0.02
    position_dropout: float = 0.0
    crosses: int = 0
    rank: int = 0
    attention: bool = False
    experts: int = 0
    expert_hidden: tuple[int, ...] = (64,)
    tower: tuple[int, ...] = (32,)
    positive_weight: float = 1.0
    negative_share: float = 1.0
    shards: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        _require(
            self.numeric in NUMERIC_ENCODINGS,
            "numeric",
            self.numeric,
            f"one of {', '.join(NUMERIC_ENCODINGS)}",
        )
        for name in ("epochs", "batch", "bins", "width", "embedding_max", "shards"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in (
            "patience",
            "crosses",
            "rank",
            "experts",
            "threads",
            "weight_decay",
            "embedding_l2",
            "positive_weight",
        ):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("dropout", "unknown_share", "position_dropout"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "from 0 to below 1")
        _require(
            0 < self.negative_share <= 1,
            "negative_share",
            self.negative_share,
            "above 0 and at most 1",
        )
        _require(0 < self.rate <= RATE_MAX, "rate", self.rate, f"above 0 and at most {RATE_MAX:g}")
        for name in ("hidden", "expert_hidden"):
            _require(
                min(getattr(self, name), default=0) >= 1,
                name,
                getattr(self, name),
                "widths of at least one layer, each at least 1",
            )
        _require(
            min(self.tower, default=1) >= 1,
            "tower",
            self.tower,
            "widths of layers, each at least 1",
        )


_REGULARISED = DeepParameters(
    weight_decay=1e-5,
    embedding_l2=1e-4,
    patience=2,
    numeric="quantile",
    position_dropout=0.1,
    attention=True,
)
DEFAULTS: Mapping[str, DeepParameters] = {
    "mlp": DeepParameters(),
    "dcn": replace(_REGULARISED, crosses=2),
    "shared": replace(_REGULARISED, crosses=1, experts=1),
    "mmoe": replace(_REGULARISED, crosses=1, experts=4),
}


def resolve_parameters(architecture: str, parameters: Mapping[str, Any]) -> DeepParameters:
    """Return the architecture's default parameters with overrides.

    Raises:
        UsageError: unknown architecture or parameter, or a value of a wrong type or out of
            bounds.
    """
    if architecture not in DEFAULTS:
        raise UsageError(
            f"there is no architecture {architecture!r}", fix=f"use one of {', '.join(DEFAULTS)}"
        )
    valid_names = [field.name for field in fields(DeepParameters)]
    if unknown_names := [name for name in parameters if name not in valid_names]:
        raise UsageError(
            f"{architecture} has no parameter {unknown_names[0]!r}",
            fix=f"use one of {', '.join(valid_names)}",
        )
    try:
        return msgspec.convert({**asdict(DEFAULTS[architecture]), **parameters}, DeepParameters)
    except msgspec.ValidationError as error:
        raise UsageError(
            str(error), where="parameters of a net", fix="see DeepParameters for what each may be"
        ) from error
