"""Validation of an ONNX file before ONNX Runtime sees it.

It walks the protobuf itself, so that serving needs no `onnx` package.

Refused are tensors stored in another file by any route (ONNX Runtime reads such a file from the
current directory even when it loads from bytes), ORT's own format, operators of other domains, and
malformed or deeply nested messages. The walk follows every message that can hold a tensor or a
graph, subgraphs and functions included.
"""

from collections.abc import Iterator

from tailorbird.errors import BundleError

BYTES_MAX = 2 << 30
NODES_MAX = 200_000
DEPTH_MAX = 60
STANDARD_DOMAINS = frozenset({b"", b"ai.onnx", b"ai.onnx.ml"})

# Wire types.
_VARINT = 0
_FIXED64 = 1
_BYTES = 2
_FIXED32 = 5
# Message → field number → message. Field numbers are from onnx.proto of ONNX 1.20; those of 1.23
# that are absent here hold no tensor.
_CHILD_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
# Where a node, and a function that the model defines, keep their domain and name.
_DOMAIN_FIELD = {"Node": 7, "Function": 10}
_NAME_FIELD = {"Node": 4, "Function": 1}
_TENSOR_EXTERNAL_DATA_FIELD = 13
_TENSOR_DATA_LOCATION_FIELD = 14


def check_onnx(data: bytes, *, where: str) -> None:
    """Raise BundleError unless the model is self-contained and made of standard operators."""
    try:
        _OnnxWalk(data, where).run()
    except (IndexError, ValueError) as error:
        raise BundleError(f"is no readable ONNX model: {error}", where=where) from error


class _OnnxWalk:
    def __init__(self, data: bytes, where: str) -> None:
        self.data = data
        self.where = where
        self.node_count = 0
        self.used_operators: set[tuple[bytes, bytes]] = set()  # (domain, operator)
        self.defined_operators: set[tuple[bytes, bytes]] = set()

    def run(self) -> None:
        if not self.data or len(self.data) > BYTES_MAX:
            raise BundleError(
                f"a model has between 1 and {BYTES_MAX} bytes, this has {len(self.data)}",
                where=self.where,
            )
        if self.data[4:8] == b"ORTM":
            raise BundleError("is in ORT's own format, expected ONNX", where=self.where)
        self._check_message("Model", 0, len(self.data), 0)
        if not self.node_count:
            raise BundleError("is no ONNX model: it has no nodes", where=self.where)
        if foreign_operators := sorted(
            operator
            for operator in self.used_operators - self.defined_operators
            if operator[0] not in STANDARD_DOMAINS
        ):
            domain, name = (text.decode(errors="replace")[:60] for text in foreign_operators[0])
            message = f"uses the operator {name!r} of the domain {domain!r}"
            raise BundleError(message, where=self.where, fix="export with standard operators only")

    def _check_message(self, message_type: str, start: int, end: int, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise BundleError("is nested too deeply", where=self.where)
        self.node_count += message_type == "Node"
        if self.node_count > NODES_MAX:
            raise BundleError(f"has more than {NODES_MAX} nodes", where=self.where)
        child_types = _CHILD_MESSAGES[message_type]
        domain_field = _DOMAIN_FIELD.get(message_type)
        name_field = _NAME_FIELD.get(message_type)
        domain = b""
        name = b""
        for field_number, wire_type, begin_or_value, stop in self._read_fields(start, end):
            if message_type == "Tensor" and (
                field_number == _TENSOR_EXTERNAL_DATA_FIELD
                or (field_number == _TENSOR_DATA_LOCATION_FIELD and begin_or_value != 0)
            ):
                raise BundleError(
                    "keeps a tensor in another file",
                    where=self.where,
                    fix="save the model with its tensors inside",
                )
            if field_number in child_types:
                if wire_type != _BYTES:
                    raise ValueError(
                        f"field {field_number} of {message_type} has wire type {wire_type}"
                    )
                self._check_message(child_types[field_number], begin_or_value, stop, depth + 1)
            elif wire_type == _BYTES and field_number == domain_field:
                domain = self.data[begin_or_value:stop]
            elif wire_type == _BYTES and field_number == name_field:
                name = self.data[begin_or_value:stop]
        if message_type == "Node":
            self.used_operators.add((domain, name))
        elif message_type == "Function":
            self.defined_operators.add((domain, name))

    def _read_fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (number, wire type, begin, end) of each field except plain floats.

        For a varint, `begin` is its value.
        """
        data = self.data
        position = start
        while position < end:
            tag = data[position]
            if tag < 0x80:
                position += 1
            else:
                tag, position = self._read_varint(position, end)
            field_number = tag >> 3
            wire_type = tag & 7
            if field_number == 0:
                raise ValueError("field 0")
            if wire_type in (
                _FIXED32,
                _FIXED64,
            ):  # Mostly thresholds of forests, which need no check.
                position += 4 if wire_type == _FIXED32 else 8
            elif wire_type == _VARINT:
                value, position = self._read_varint(position, end)
                yield field_number, wire_type, value, position
            elif wire_type == _BYTES:
                length, start = self._read_varint(position, end)
                position = start + length
                if position <= end:
                    yield field_number, wire_type, start, position
            else:
                raise ValueError(f"wire type {wire_type}")
            if position > end:
                raise ValueError(f"field {field_number} is longer than its message")

    def _read_varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise ValueError("a number is cut short")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, position
        raise ValueError("a number is too long")
