"""A project's checked declarations, and the schema hash that identifies everything built from them.

`load_features` runs a project's `features.py`, which is the project's own code, and collects its
declarations. The vocabulary is in `features.declare.vocabulary`; the records that follow from it,
in `features.layout.layout`.
"""

import json
import runpy
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from tailorbird.errors import DeclarationError
from tailorbird.events.clock import MINUTE, SESSION_GAP
from tailorbird.events.contract.plan import EVENT_TYPES
from tailorbird.features.declare.checks import collect_features
from tailorbird.features.declare.declarations import (
    Amount,
    Attribute,
    Derived,
    Entity,
    EventFeature,
    Feature,
    Ratio,
    Seen,
    SequenceOf,
    SessionFeature,
    Similarity,
)
from tailorbird.features.declare.learned import check_similarities
from tailorbird.features.expr.expression import Expression, parse
from tailorbird.features.expr.nodes import ExpressionError
from tailorbird.features.expr.scalar import check_computable
from tailorbird.features.layout.compile import compile_layout
from tailorbird.features.layout.layout import Layout, RecordLane
from tailorbird.features.layout.steps import attribute_lane
from tailorbird.features.transform_checks import check_transforms
from tailorbird.features.transforms import Transform, collect_transforms

# Part of the schema hash: raise it when the same declarations lead to other records or other bits.
ENGINE_VERSION = 2
ORIGINAL_SESSION_GAP = 30 * MINUTE  # Any other gap becomes part of the schema hash.


@dataclass(frozen=True)
class Column:
    """One column of what a request reads, or (`kind` "learned") of what only a model sees.

    `kind`: numeric, categorical, sequence or learned; `entity` is "" for request and derived.
    """

    name: str
    kind: str
    entity: str
    description: str


@dataclass(frozen=True)
class FeatureSet:
    """Checked declarations, in order, and the layout compiled from them.

    Created by `from_declarations` or `load_features`. `transforms` say how a model sees the
    columns, and `similarities` are columns that only the model sees; neither is part of the schema.
    """

    features: tuple[Feature, ...]
    layout: Layout
    transforms: tuple[Transform, ...] = ()
    similarities: tuple[Similarity, ...] = ()

    @classmethod
    def from_declarations(
        cls,
        declarations: Sequence[Feature],
        *,
        event_types: Sequence[str] = EVENT_TYPES,
        transforms: Sequence[Transform] = (),
    ) -> "FeatureSet":
        """Check the declarations together.

        Args:
            event_types: the types that the project knows, the built-in ones included.
            transforms: what a model sees of the columns.
        Raises:
            DeclarationError: a name twice, an unknown event type, or a derived column that cannot
                be computed; names the line.
        """
        _check_names(declarations)
        _check_event_types(declarations, event_types)
        similarities = tuple(f for f in declarations if isinstance(f, Similarity))
        features = tuple(f for f in declarations if not isinstance(f, Similarity))
        check_similarities(similarities, features)
        expressions = {
            f.name: _parse_derived(f, features, similarities)
            for f in features
            if isinstance(f, Derived)
        }
        derived_order = _order_derived(features, expressions)
        layout = compile_layout(features, expressions, derived_order)
        kinds = {step.name: step.kind for step in layout.steps}
        check_transforms(
            transforms,
            kinds | dict.fromkeys((similarity.name for similarity in similarities), "numeric"),
        )
        return cls(features, layout, tuple(transforms), similarities)

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.layout.steps if step.kind == "numeric")

    @cached_property
    def categorical(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.layout.steps if step.kind == "categorical")

    @cached_property
    def sequences(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.layout.steps if step.kind == "sequence")

    @cached_property
    def user_fields(self) -> tuple[str, ...]:
        """The numeric columns about the person alone, which rules may read."""
        return tuple(
            column.name
            for column in self.columns
            if column.entity == "user" and column.kind == "numeric"
        )

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Each column with its entity, in order of declaration; learned columns come last."""
        steps = zip(self.features, self.layout.steps, strict=True)
        request_columns = (
            Column(feature.name, step.kind, _entity_name(feature), feature.description)
            for feature, step in steps
        )
        entity_names = {feature.name: _entity_name(feature) for feature in self.features}
        learned_columns = (
            Column(
                similarity.name,
                "learned",
                f"{entity_names[similarity.of]}+item",
                similarity.description,
            )
            for similarity in self.similarities
        )
        return (*request_columns, *learned_columns)

    @cached_property
    def schema_hash(self) -> str:
        """Twelve hexadecimal digits over everything that determines records and columns.

        It names the state's folder.
        """
        content = {
            "engine": ENGINE_VERSION,
            "features": [_schema_data(f) for f in self.features],
            "layout": _schema_data(self.layout),
        }
        if SESSION_GAP != ORIGINAL_SESSION_GAP:
            content["session_gap"] = SESSION_GAP
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return blake2b(text.encode(), digest_size=6, person=b"tb-schema").hexdigest()

    @cached_property
    def user_attributes(self) -> tuple[str, ...]:
        """User attributes that declarations name; the router stores them with each event."""
        return self._profile_attributes("user")

    @cached_property
    def item_attributes(self) -> tuple[str, ...]:
        return self._profile_attributes("item")

    @cached_property
    def key_part_lanes(self) -> dict[tuple[int, int], RecordLane]:
        """(entity, part) → the lane of the user's or item's record that has this key part."""
        return {
            (entity.index, part): attribute_lane(self.layout, name)
            for entity in self.layout.entities
            for part, name in enumerate(entity.entity.fields)
            if "." in name
        }

    def feature(self, name: str) -> Feature:
        """Return the declaration of a column; raises KeyError for an unknown name."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise KeyError(name)

    @cached_property
    def event_attributes(self) -> dict[str, tuple[str, ...]]:
        """By "user" and "item", the attributes that entities and expressions take from events.

        Other attributes are read from profiles only.
        """
        return {
            owner: _attributes_of_owner(owner, self._event_fields) for owner in ("user", "item")
        }

    def _profile_attributes(self, owner: str) -> tuple[str, ...]:
        profile_fields = {
            f"{feature.entity.name}.{feature.attribute}"
            for feature in self.features
            if isinstance(feature, Attribute) and not feature.element
        }
        return _attributes_of_owner(owner, self._event_fields | profile_fields)

    @cached_property
    def _event_fields(self) -> set[str]:
        fields = {name for entity in self.layout.entities for name in entity.entity.fields}
        for entity in self.layout.entities:
            event_accumulators = (
                *entity.rings,
                *entity.sketches,
                *entity.lasts,
                *entity.firsts,
                *entity.first_values,
                *entity.sequences,
            )
            for source in (accumulator.source for accumulator in event_accumulators):
                for expression in (
                    source.where,
                    source.value.of if isinstance(source.value, Amount) else source.value,
                ):
                    fields.update(
                        () if expression is None else (name for name, _ in expression.names)
                    )
            fields.update(
                name
                for sequence in entity.sequences
                for expression in sequence.of
                for name, _ in expression.names
            )
        return fields


def load_features(path: Path, *, event_types: Sequence[str] = EVENT_TYPES) -> FeatureSet:
    """Run a project's `features.py` and check what it declares.

    Raises:
        DeclarationError: the file is missing, fails, declares nothing, or declares something wrong;
            names the line.
    """
    if not path.is_file():
        raise DeclarationError(
            "no such file", where=str(path), fix="tailorbird init makes a project with one"
        )
    with collect_features() as declared, collect_transforms() as transforms:
        try:
            runpy.run_path(str(path))
        except DeclarationError:
            raise
        except SystemExit as exit_error:  # Otherwise the command would exit silently.
            line = _error_line(exit_error, path)
            message = f"ends the program ({exit_error.code!r}) before all is declared"
            raise DeclarationError(
                message, where=f"{path}:{line}" if line else str(path), fix="leave exit() away"
            ) from exit_error
        except Exception as error:
            line = error.lineno if isinstance(error, SyntaxError) else _error_line(error, path)
            raise DeclarationError(
                f"{type(error).__name__}: {error}", where=f"{path}:{line}" if line else str(path)
            ) from error
    if not declared and transforms:
        transform = transforms[0]
        raise DeclarationError(
            f"transforms {transform.column!r}, and declares no feature",
            where=transform.location,
            fix="declare the feature first",
        )
    if not declared:
        raise DeclarationError("declares no feature", where=str(path))
    return FeatureSet.from_declarations(declared, event_types=event_types, transforms=transforms)


def _error_line(error: BaseException, path: Path) -> int | None:
    return next(
        (
            f.lineno
            for f in reversed(traceback.extract_tb(error.__traceback__))
            if f.filename == str(path)
        ),
        None,
    )


def _check_names(declarations: Sequence[Feature]) -> None:
    first_by_name: dict[str, Feature] = {}
    for feature in declarations:
        first_declaration = first_by_name.setdefault(feature.name, feature)
        if first_declaration is not feature:
            raise DeclarationError(
                f"{feature.name} is declared twice, first at {first_declaration.location}",
                where=feature.location,
            )


def _check_event_types(declarations: Sequence[Feature], event_types: Sequence[str]) -> None:
    for feature in declarations:
        types: tuple[str, ...] = ()
        if isinstance(feature, EventFeature):
            types = feature.types + (feature.below if isinstance(feature, Ratio) else ())
        elif isinstance(feature, SessionFeature):
            types = feature.measured_types
        for type_ in types:
            if type_ not in event_types:
                valid_types = ", ".join(event_types)
                raise DeclarationError(
                    f"{feature.name}: {type_!r} is no event type; expected one of {valid_types}",
                    where=feature.location,
                )


def _parse_derived(
    feature: Derived, declarations: Sequence[Feature], similarities: Sequence[Similarity]
) -> Expression:
    numeric_names = {
        f.name
        for f in declarations
        if getattr(f, "kind", "numeric") == "numeric" and not isinstance(f, SequenceOf)
    }
    try:
        expression = parse(
            feature.text,
            lambda name: "number" if name in numeric_names else None,
            expected_kind="number",
        )
        check_computable(expression)
        return expression
    except ExpressionError as error:
        fix = (
            f"numeric columns: {', '.join(sorted(numeric_names - {feature.name}))}"
            if "no field" in error.message
            else error.fix
        )
        if any(error.message == f"{similarity.name} is no field" for similarity in similarities):
            fix = (
                "a similarity is known to the model alone, which brings its table: leave it out "
                "here"
            )
        raise DeclarationError(
            f"{feature.name}: {feature.text!r}: {error}", where=feature.location, fix=fix
        ) from None


def _order_derived(
    declarations: Sequence[Feature], expressions: dict[str, Expression]
) -> tuple[str, ...]:
    """Return the derived columns, each after those that it reads."""
    locations = {feature.name: feature.location for feature in declarations}
    derived_order: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            cycle = " → ".join((*path[path.index(name) :], name))
            raise DeclarationError(
                f"derived columns go in a circle: {cycle}", where=locations[name]
            )
        if name in expressions and name not in derived_order:
            for read_column, _ in expressions[name].names:
                visit(read_column, (*path, name))
            derived_order[name] = None

    for name in expressions:
        visit(name, ())
    return tuple(derived_order)


def _attributes_of_owner(owner: str, names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(name.partition(".")[2] for name in names if name.startswith(owner + ".")))


def _entity_name(feature: Feature) -> str:
    if isinstance(feature, SessionFeature):
        return "user"
    if isinstance(feature, Seen):
        return Entity((*feature.entity.fields, "item")).name
    entity = getattr(feature, "entity", None)
    return entity.name if isinstance(entity, Entity) else ""


def _schema_data(value: object) -> object:
    """Return plain data of what determines the schema: no locations, descriptions, syntax trees."""
    if is_dataclass(value):
        non_default_fields = {
            name: _schema_data(content)
            for name, field_ in value.__dataclass_fields__.items()
            if field_.compare
            and ((content := getattr(value, name)) or "added_later" not in field_.metadata)
        }
        return {"": type(value).__name__, **non_default_fields}
    if isinstance(value, tuple | list):
        return [_schema_data(item) for item in value]
    return value
