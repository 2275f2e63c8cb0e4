"""Drift scores of Evidently and NannyML with their defaults, in the environment of the peers.

    .peers/monitoring/bin/python drift.py FILE

    FILE   npz: reference, current (features, bins) histograms, the first bin of missing values;
           is_category (features,). Prints JSON: by library the score of each feature, or an error.

Imports nothing of ours.
"""

import json
import os
import sys

import numpy as np
import pandas as pd

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
os.environ["DO_NOT_TRACK"] = "1"


def main(path: str) -> None:
    data = np.load(path)
    is_category = data["is_category"]
    reference, current = (rows_of(data[name], is_category) for name in ("reference", "current"))
    scores: dict[str, list[float] | str] = {}
    for name, score in (("evidently", evidently_scores), ("nannyml", nannyml_scores)):
        try:
            scores[name] = score(reference, current)
        except ImportError as error:
            scores[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(scores))


def rows_of(histograms: np.ndarray, is_category: np.ndarray) -> pd.DataFrame:
    """Return a row for each count: the number of its bin, or its name for a category."""
    columns = {}
    for index, counts in enumerate(histograms):
        values = np.repeat(np.arange(-1, len(counts) - 1), counts).astype(np.float64)
        np.random.default_rng(index).shuffle(values)
        column = pd.Series(np.where(values < 0, np.nan, values))
        if is_category[index]:
            names = column.map(lambda value: f"c{value:.0f}", na_action="ignore")
            column = names.astype("category")
        columns[f"f{index}"] = column
    return pd.DataFrame(columns)


def evidently_scores(reference: pd.DataFrame, current: pd.DataFrame) -> list[float]:
    from evidently import Report
    from evidently.presets import DataDriftPreset

    report = Report([DataDriftPreset()]).run(current, reference).dict()
    found = {
        each["config"]["column"]: float(each["value"])
        for each in report["metrics"]
        if "column" in each.get("config", {})
    }
    return [found[name] for name in reference]


def nannyml_scores(reference: pd.DataFrame, current: pd.DataFrame) -> list[float]:
    import nannyml

    calculator = nannyml.UnivariateDriftCalculator(
        column_names=list(reference), chunk_size=len(current)
    ).fit(reference)
    frame = calculator.calculate(current).filter(period="analysis").to_df()
    return [float(frame[name, "jensen_shannon", "value"].iloc[0]) for name in reference]


if __name__ == "__main__":
    main(sys.argv[1])
