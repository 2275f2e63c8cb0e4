"""External tensors are found wherever a model can hide one; what is not a standard model is
refused; nothing crashes the walk.
"""

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.support.shops import ranking_world

from tailorbird.errors import BundleError
from tailorbird.ranking.onnx_check import check_onnx

FLOAT = TensorProto.FLOAT


def tensor(external=False, name="w"):
    initializer = numpy_helper.from_array(np.ones((2, 2), np.float32), name)
    if external:
        initializer.data_location = TensorProto.EXTERNAL
        initializer.ClearField("raw_data")
        initializer.external_data.add(key="location", value="secret.bin")
    return initializer


def graph(nodes=(), initializers=(), sparse=()):
    nodes = list(nodes) or [helper.make_node("Identity", ["x"], ["y"])]
    value = [helper.make_tensor_value_info(name, FLOAT, [None, 2]) for name in ("x", "y")]
    return helper.make_graph(
        nodes, "g", value[:1], value[1:], list(initializers), sparse_initializer=list(sparse)
    )


def model(of_graph, functions=(), **fields):
    return onnx.ModelProto(
        ir_version=8,
        graph=of_graph,
        opset_import=[helper.make_opsetid("", 17)],
        functions=list(functions),
        **fields,
    )


def constant(external):
    return helper.make_node("Constant", [], ["c"], value=tensor(external))


def sparse(external):
    return onnx.SparseTensorProto(
        values=tensor(external, "s"), indices=tensor(False, "i"), dims=[4]
    )


def inside_if(external):
    branch = helper.make_graph(
        [constant(external)], "b", [], [helper.make_tensor_value_info("c", FLOAT, None)]
    )
    return model(
        graph([helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)])
    )


def inside_function(external):
    function = helper.make_function(
        "own", "f", ["x"], ["c"], [constant(external)], [helper.make_opsetid("", 17)]
    )
    return model(graph([helper.make_node("f", ["x"], ["y"], domain="own")]), [function])


def inside_list(external):
    node = helper.make_node("Identity", ["x"], ["y"])
    node.attribute.add(
        name="many", type=onnx.AttributeProto.TENSORS, tensors=[tensor(False), tensor(external)]
    )
    return model(graph([node]))


def inside_training(external):
    valid_model = model(graph())
    valid_model.training_info.add().algorithm.CopyFrom(graph([constant(external)]))
    return valid_model


PLACES = {
    "initializer": lambda external: model(graph(initializers=[tensor(external)])),
    "sparse initializer": lambda external: model(graph(sparse=[sparse(external)])),
    "attribute": lambda external: model(graph([constant(external)])),
    "list attribute": inside_list,
    "subgraph": inside_if,
    "function": inside_function,
    "training": inside_training,
}


@pytest.mark.parametrize("location", PLACES)
def test_an_external_tensor_is_detected_everywhere(location):
    check_onnx(PLACES[location](False).SerializeToString(), where="model")
    with pytest.raises(BundleError, match="model: keeps a tensor in another file"):
        check_onnx(PLACES[location](True).SerializeToString(), where="model")


def test_either_mark_alone_suffices():
    for change in (
        lambda each: each.ClearField("external_data"),
        lambda each: each.ClearField("data_location"),
    ):
        external = tensor(True)
        change(external)
        with pytest.raises(BundleError, match="another file"):
            check_onnx(model(graph(initializers=[external])).SerializeToString(), where="model")


def test_a_model_split_into_two_messages_is_read_as_protobuf_merges_it():
    concatenated = (
        model(graph()).SerializeToString()
        + onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor(True)])).SerializeToString()
    )
    with pytest.raises(BundleError, match="another file"):
        check_onnx(concatenated, where="model")


def test_operators_of_foreign_domains_are_refused():
    foreign = model(graph([helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")]))
    with pytest.raises(BundleError, match=r"'EPContext' of the domain 'com\.microsoft'"):
        check_onnx(foreign.SerializeToString(), where="model")
    function = helper.make_function(
        "com.microsoft", "other", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], []
    )
    with pytest.raises(BundleError, match="EPContext"):
        check_onnx(model(foreign.graph, [function]).SerializeToString(), where="model")
    check_onnx(
        model(
            graph([helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml")])
        ).SerializeToString(),
        where="model",
    )


def test_deep_nesting_is_refused():
    inner = graph()
    for _ in range(25):
        inner = graph([helper.make_node("If", ["x"], ["y"], then_branch=inner)])
    with pytest.raises(BundleError, match="nested too deeply"):
        check_onnx(model(inner).SerializeToString(), where="model")


GOOD = ranking_world.make_linear_model(4)


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=200) | st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)))
def test_any_bytes_are_refused_or_pass_and_never_raise_anything_else(content):
    if isinstance(content, tuple):
        at, byte = content
        content = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    try:
        check_onnx(content, where="model")
        loaded = onnx.load_from_string(content)
    except (
        BundleError,
        DecodeError,
    ):  # the walk skips what can hold no tensor; protobuf itself refuses more
        return
    assert not any(each.external_data for each in loaded.graph.initializer)
