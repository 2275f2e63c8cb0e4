"""Export of a booster's trees for explanations, with training row counts that ONNX cannot hold."""

from typing import Any, Literal

from tailorbird.models.gbdt import Gbdt
from tailorbird.ranking.tree_shap import (
    CATEGORY_SET,
    LEAF,
    MISSING_LEFT,
    NAN_MISSING,
    ZERO_MISSING,
    Trees,
)

_LINKS: dict[str, Literal["logit", "log", "identity"]] = {
    "binary": "logit",
    "poisson": "log",
    "tweedie": "log",
    "lambdarank": "identity",
}
_MISSING = {"None": 0, "NaN": NAN_MISSING, "Zero": ZERO_MISSING}


def export_trees(model: Gbdt) -> Trees:
    """Export the trees up to the best iteration."""
    model_dump = model.booster.dump_model(num_iteration=model.trees)
    trees = Trees(
        columns=len(model.columns),
        link=_LINKS[model.settings.objective],
        roots=[],
        feature=[],
        threshold=[],
        left=[],
        right=[],
        kind=[],
        cover=[],
        value=[],
        sets=[],
    )
    for tree in model_dump["tree_info"]:
        trees.roots.append(len(trees.feature))
        _append_tree(trees, tree["tree_structure"])
    return Trees(**{name: getattr(trees, name) for name in Trees.__struct_fields__})


def _append_tree(trees: Trees, root: dict[str, Any]) -> None:
    open_nodes: list[tuple[dict[str, Any], int, bool]] = [(root, -1, True)]
    while open_nodes:
        node, parent, is_left = open_nodes.pop()
        index = len(trees.feature)
        if parent >= 0:
            (trees.left if is_left else trees.right)[parent] = index
        is_inner = "split_feature" in node
        trees.feature.append(node["split_feature"] if is_inner else LEAF)
        trees.threshold.append(_split_threshold(trees, node) if is_inner else 0.0)
        trees.kind.append(_encode_split_kind(node) if is_inner else 0)
        trees.cover.append(float(node["internal_count"] if is_inner else node.get("leaf_count", 0)))
        trees.value.append(0.0 if is_inner else float(node["leaf_value"]))
        trees.left.append(0)
        trees.right.append(0)
        if is_inner:
            open_nodes += [(node["right_child"], index, False), (node["left_child"], index, True)]


def _split_threshold(trees: Trees, node: dict[str, Any]) -> float:
    if node["decision_type"] != "==":
        return float(node["threshold"])
    trees.sets.append([int(code) for code in str(node["threshold"]).split("||")])
    return float(len(trees.sets) - 1)


def _encode_split_kind(node: dict[str, Any]) -> int:
    kind = _MISSING[node["missing_type"]] | (MISSING_LEFT if node["default_left"] else 0)
    return kind | CATEGORY_SET if node["decision_type"] == "==" else kind
