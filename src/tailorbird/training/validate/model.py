"""The model that `tailorbird train` would fit, fitted to one split: trees, a net, or whichever of
both orders the watched part better.

Fits are those of tuning (`training.tune.architectures`); what `auto` holds against what is
training's own (`training.architecture`).
"""

from dataclasses import asdict, replace
from typing import Any

from tailorbird.models.architectures import Net
from tailorbird.models.deep.parameters import settled
from tailorbird.training.architecture import check_whole, net_beside_trees, ordered_better
from tailorbird.training.settings import AUTO, TrainSettings
from tailorbird.training.tune.architectures import ARCHITECTURES, Ask, Heads, net_settings
from tailorbird.training.tune.rows import Split

TREES = "gbdt"


def ask_of(train: TrainSettings, seed: int) -> Ask:
    """One fit as training would do it: trees by `gbdt` of its settings, a net by its `parameters`."""
    return Ask(dict(train.parameters), seed, train, train.gbdt.threads)


def fit_model(split: Split, ask: Ask) -> Heads:
    """The model of the architecture that the settings name.

    Raises:
        Diverged: the weights of a net are no numbers.
    """
    name = ask.train.architecture
    if name != AUTO:
        return _one(name, split, ask)
    trees = _one(TREES, split, ask)
    if split.layout is None:  # torch is not installed
        return trees
    net, watch = _one(net_beside_trees(split.objective), split, ask), split.watch
    gain = ordered_better(
        net.value(split.served),
        trees.value(split.served),
        watch.gain(split.objective),
        watch.offsets,
        watch.person,
    )
    return net if gain.known and gain.low > 0 else trees


def _one(name: str, split: Split, ask: Ask) -> Heads:
    found = ARCHITECTURES[name].heads(split, replace(ask, settings={}) if name == TREES else ask)
    if isinstance(found.model, Net):
        check_whole(found.model.deep)
    return found


def settings_of(name: str, ask: Ask) -> dict[str, Any]:
    """All settings that a fit of an architecture has, as JSON."""
    return asdict(ask.train.gbdt) if name == TREES else asdict(settled(name, net_settings(ask)))
