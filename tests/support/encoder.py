"""A sentence encoder that fits on a page: words of one meaning have one vector."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

MEANINGS = (("coat", "parka", "jacket", "anorak"), ("hat", "cap", "headgear"), ("gift", "present"))


def write_encoder(folder: Path) -> Path:
    """Write an encoder that knows the words of `MEANINGS`, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [word for group in MEANINGS for word in group]
    vocabulary = {"[UNK]": 0, **{word: n for n, word in enumerate(words, 1)}}
    vectors = np.zeros((len(vocabulary), len(MEANINGS) + 1), np.float32)
    vectors[0, -1] = 1e-3  # a word that it does not know says little
    for axis, group in enumerate(MEANINGS):
        for word in group:
            vectors[vocabulary[word], axis] = 1.0
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["tokens"])],
        "encoder",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["n", "t", "d"])],
        [onnx.numpy_helper.from_array(vectors, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder
