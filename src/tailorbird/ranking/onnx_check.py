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
DOMAINS = frozenset({b"", b"ai.onnx", b"ai.onnx.ml"})

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Message → field number → message. Field numbers are from onnx.proto of ONNX 1.20; those of 1.23
# that are absent here hold no tensor.
_CHILDREN: dict[str, dict[int, str]] = {
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
_DOMAIN = {"Node": 7, "Function": 10}
_NAME = {"Node": 4, "Function": 1}
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


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
        self.nodes = 0
        self.used: set[tuple[bytes, bytes]] = set()  # (domain, operator)
        self.defined: set[tuple[bytes, bytes]] = set()

    def run(self) -> None:
        if not self.data or len(self.data) > BYTES_MAX:
            raise BundleError(
                f"a model has between 1 and {BYTES_MAX} bytes, this has {len(self.data)}",
                where=self.where,
            )
        if self.data[4:8] == b"ORTM":
            raise BundleError("is in ORT's own format, expected ONNX", where=self.where)
        self._check_message("Model", 0, len(self.data), 0)
        if not self.nodes:
            raise BundleError("is no ONNX model: it has no nodes", where=self.where)
        if foreign := sorted(
            operator for operator in self.used - self.defined if operator[0] not in DOMAINS
        ):
            domain, name = (text.decode(errors="replace")[:60] for text in foreign[0])
            message = f"uses the operator {name!r} of the domain {domain!r}"
            raise BundleError(message, where=self.where, fix="export with standard operators only")

    def _check_message(self, kind: str, start: int, end: int, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise BundleError("is nested too deeply", where=self.where)
        self.nodes += kind == "Node"
        if self.nodes > NODES_MAX:
            raise BundleError(f"has more than {NODES_MAX} nodes", where=self.where)
        children, domain_at, name_at = _CHILDREN[kind], _DOMAIN.get(kind), _NAME.get(kind)
        domain, name = b"", b""
        for number, wire, begin, stop in self._read_fields(start, end):
            if kind == "Tensor" and (
                number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and begin != 0)
            ):
                raise BundleError(
                    "keeps a tensor in another file",
                    where=self.where,
                    fix="save the model with its tensors inside",
                )
            if number in children:
                if wire != _BYTES:
                    raise ValueError(f"field {number} of {kind} has wire type {wire}")
                self._check_message(children[number], begin, stop, depth + 1)
            elif wire == _BYTES and number == domain_at:
                domain = self.data[begin:stop]
            elif wire == _BYTES and number == name_at:
                name = self.data[begin:stop]
        if kind == "Node":
            self.used.add((domain, name))
        elif kind == "Function":
            self.defined.add((domain, name))

    def _read_fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (number, wire type, begin, end) of each field except plain floats.

        For a varint, `begin` is its value.
        """
        data, position = self.data, start
        while position < end:
            tag = data[position]
            if tag < 0x80:
                position += 1
            else:
                tag, position = self._read_varint(position, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise ValueError("field 0")
            if wire in (_FIXED32, _FIXED64):  # Mostly thresholds of forests, which need no check.
                position += 4 if wire == _FIXED32 else 8
            elif wire == _VARINT:
                value, position = self._read_varint(position, end)
                yield number, wire, value, position
            elif wire == _BYTES:
                length, start = self._read_varint(position, end)
                position = start + length
                if position <= end:
                    yield number, wire, start, position
            else:
                raise ValueError(f"wire type {wire}")
            if position > end:
                raise ValueError(f"field {number} is longer than its message")

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
