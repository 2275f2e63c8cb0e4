"""Tailorbird: events in, recommendations out, and the proof that they helped."""

import os

# Nothing is sent anywhere: these libraries would count what is done with them, and look only while
# they are loaded.
for _refusal in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(_refusal, "1")
