"""Dense vectors of texts by a sentence encoder in ONNX, for semantic search.

An encoder is a folder with two files, as sentence-transformers and Optimum export them:
`model.onnx` (inputs `input_ids`, `attention_mask` and optionally `token_type_ids`) and
`tokenizer.json` (of the library `tokenizers`, extra `text`). Vectors have unit length, so that
their product is the cosine.

Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019: the mean of the token vectors.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError, UsageError

Floats = npt.NDArray[np.float32]

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
TOKENS_MAX = 64  # A title and its category are shorter.
BATCH_TEXTS = 64
CACHED_TEXTS_MAX = 20_000  # vectors; 30 MB where they have 384 dimensions


class TextEncoder:
    """A sentence encoder, safe to use from several threads.

    Attributes:
        digest: identifies the encoder; vectors of two encoders are not comparable.
    """

    def __init__(self, model: bytes, tokenizer: bytes) -> None:
        """Load an encoder from the bytes of its two files.

        Raises:
            UsageError: the extra `text` is not installed.
            BundleError: a file is unreadable, or the model has other inputs.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise UsageError(
                "search by meaning needs the library `tokenizers`",
                fix='pip install "tailorbird[text]"',
            ) from error
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self._tokenizer = Tokenizer.from_buffer(tokenizer)
        except Exception as error:  # Both libraries raise exceptions of their own types.
            raise BundleError(
                f"the text encoder cannot be loaded: {error}",
                fix=f"export {MODEL_FILE} and {TOKENIZER_FILE} again, see docs/how-to/search.md",
            ) from error
        self._tokenizer.enable_truncation(TOKENS_MAX)
        self._tokenizer.enable_padding()
        self._input_names = {entry.name for entry in self._session.get_inputs()}
        unexpected_inputs = self._input_names - {"input_ids", "attention_mask", "token_type_ids"}
        if unexpected_inputs or "input_ids" not in self._input_names:
            raise BundleError(
                f"the text encoder has the inputs {sorted(self._input_names)}",
                fix="export it with input_ids, attention_mask and, if needed, token_type_ids",
            )
        output_names = [entry.name for entry in self._session.get_outputs()]
        self._output_name = (
            "sentence_embedding" if "sentence_embedding" in output_names else output_names[0]
        )
        self.digest = blake2b(model + tokenizer, digest_size=8).hexdigest()
        self._cached_vectors: dict[str, Floats] = {}

    @classmethod
    def from_folder(cls, folder: Path) -> "TextEncoder":
        """Load the encoder of a folder."""
        files = {}
        for name in (MODEL_FILE, TOKENIZER_FILE):
            try:
                files[name] = (folder / name).read_bytes()
            except OSError as error:
                raise UsageError(
                    f"the text encoder has no {name}: {error.strerror or error}",
                    where=str(folder),
                    fix="set search.encoder to a folder with both files, see docs/how-to/search.md",
                ) from error
        return cls(files[MODEL_FILE], files[TOKENIZER_FILE])

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return the unit vector of each text, float32 (n, d); zeros for an empty text."""
        lengths = np.array([len(text) for text in texts])
        length_order = np.argsort(
            lengths, kind="stable"
        )  # Texts of similar length need little padding.
        vector_batches = [
            self._encode_batch(
                [texts[i] for i in length_order[start : start + BATCH_TEXTS].tolist()]
            )
            for start in range(0, len(texts), BATCH_TEXTS)
        ]
        if not vector_batches:
            return np.zeros((0, 0), np.float32)
        vectors = np.empty((len(texts), vector_batches[0].shape[1]), np.float32)
        vectors[length_order] = np.concatenate(vector_batches)
        vectors[lengths == 0] = 0.0
        return vectors

    def encode_cached(self, texts: Sequence[str]) -> Floats:
        """Return the unit vector of each text as `encode` does, without encoding recent ones again.

        Meant for queries, and for items that came after the index was built. `texts` is not empty.
        """
        vector_by_text = {text: self._cached_vectors.get(text) for text in texts}
        missing_texts = [text for text, vector in vector_by_text.items() if vector is None]
        if missing_texts:
            new_vectors = dict(zip(missing_texts, self.encode(missing_texts), strict=True))
            vector_by_text |= new_vectors
            if len(self._cached_vectors) + len(new_vectors) > CACHED_TEXTS_MAX:
                self._cached_vectors.clear()
            self._cached_vectors.update(new_vectors)
        return np.stack([vector for text in texts if (vector := vector_by_text[text]) is not None])

    def _encode_batch(self, texts: list[str]) -> Floats:
        encodings = self._tokenizer.encode_batch(texts)
        attention_mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
        input_by_name = {
            "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
            "attention_mask": attention_mask,
            "token_type_ids": np.array([encoding.type_ids for encoding in encodings], np.int64),
        }
        inputs = {name: input_by_name[name] for name in self._input_names}
        output = np.asarray(self._session.run([self._output_name], inputs)[0], np.float32)
        if output.ndim == 3:
            weights = attention_mask[:, :, None].astype(np.float32)
            output = (output * weights).sum(1) / np.maximum(weights.sum(1), 1.0)
        norms = np.linalg.norm(output, axis=1, keepdims=True)
        return output / np.maximum(norms, 1e-9)


def load_encoder(files: Mapping[str, bytes | memoryview]) -> "TextEncoder":
    """Load an encoder from the files of an index, see `retrieval.index`."""
    return TextEncoder(
        bytes(files[f"encoder/{MODEL_FILE}"]), bytes(files[f"encoder/{TOKENIZER_FILE}"])
    )
