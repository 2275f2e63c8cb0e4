"""AUC expected by NannyML's CBPE, in the environment of the peers.

    .peers/monitoring/bin/python cbpe.py FILE

    FILE   npz: reference_p, reference_y (sites, m), p (sites, n); prints JSON: AUC of each site

Imports nothing of ours.
"""

import json
import os
import sys

import numpy as np

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"


def main(path: str) -> None:
    import nannyml
    import pandas as pd

    data = np.load(path)
    areas = []
    for reference_p, reference_y, p in zip(
        data["reference_p"], data["reference_y"], data["p"], strict=True
    ):
        estimator = nannyml.CBPE(
            y_pred_proba="p",
            y_pred="predicted",
            y_true="y",
            metrics=["roc_auc"],
            chunk_size=len(p),
            problem_type="classification_binary",
        )
        reference = pd.DataFrame({"p": reference_p, "y": reference_y.astype(int)})
        estimator.fit(reference.assign(predicted=(reference_p > 0.5).astype(int)))
        frame = pd.DataFrame({"p": p, "predicted": (p > 0.5).astype(int)})
        estimates = estimator.estimate(frame).filter(period="analysis").to_df()
        areas.append(float(estimates["roc_auc", "value"].iloc[0]))
    print(json.dumps(areas))


if __name__ == "__main__":
    main(sys.argv[1])
