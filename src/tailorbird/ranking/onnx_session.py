"""ONNX Runtime sessions for servers: one thread, no spinning, verified bytes."""

import onnxruntime as ort

from tailorbird.errors import BundleError
from tailorbird.ranking.onnx_check import check_onnx


def start_session(data: bytes, *, where: str) -> ort.InferenceSession:
    """Start a session for a model with any inputs.

    Raises:
        BundleError: it is not self-contained, not made of standard operators, or ONNX Runtime
            refuses it.
    """
    check_onnx(data, where=where)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # a server runs one process a core
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = (
        3  # converted LightGBM models warn about their label's shape at each run
    )
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return ort.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except (
        Exception
    ) as error:  # ONNX Runtime's exceptions have no common base; their text may name paths
        raise BundleError(
            f"ONNX Runtime refuses the model ({type(error).__name__})", where=where
        ) from error
