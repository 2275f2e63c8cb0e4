"""A server in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

CHILD_PROGRAM = """
import json, os, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
class NoPandas:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(name, name=name)
# The extra `serve` brings no pandas, and PyArrow would import it where it is installed.
sys.meta_path.insert(0, NoPandas())
from tests.support.shops import shop_plan
from tailorbird.events import RoutePlan
from tailorbird.serving.http import body
from tailorbird.serving.auth.limits import ServerLimits
from tailorbird.serving.server import ServeOptions, run
if room := int(os.environ.get("ROOM_FOR_BODIES", "0")):
    body.Budget.__init__.__defaults__ = (room,)
data, stop_requested = Path(sys.argv[2]), threading.Event()
if sys.argv[8:]:
    stop_requested.set()
run(ServeOptions(
    stream=data / "stream", routed=data / "stream" / "routed.db", state=data / "state", registry=data / "registry", run=data / "run",
    features=shop_plan.feature_set(), slots=shop_plan.slots(), plan=RoutePlan(), port=0, probe=sys.argv[3] == "probe",
    header_deadline_s=float(sys.argv[4]), connections_max=int(sys.argv[5]), limits=ServerLimits(address_connections=int(sys.argv[6])),
    **json.loads(sys.argv[7]),
), stop=stop_requested)
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


class Server:
    """A serve process over a data folder; asks it over one connection pool.

    Args:
        bodies_bytes_max: room for bodies, if little.
        more: other options of `ServeOptions`.
    """

    def __init__(
        self,
        data: Path,
        *,
        probe: bool = False,
        header_deadline_s: float = 10.0,
        connections_max: int = 4_096,
        address_connections: int = 512,
        bodies_bytes_max: int = 0,
        **more: float,
    ) -> None:
        self.data = data
        command = [
            sys.executable,
            "-c",
            CHILD_PROGRAM,
            str(Path(__file__).parents[2]),
            str(data),
            "probe" if probe else "trust",
            str(header_deadline_s),
            str(connections_max),
            str(address_connections),
            json.dumps(more),
        ]
        environment = {**os.environ, "ROOM_FOR_BODIES": str(bodies_bytes_max)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        address = data / "run" / "serve-1.json"
        wait_for(lambda: address.exists() or self.process.poll() is not None, 30)
        assert address.exists(), self.process.communicate()[1]
        self.url = json.loads(address.read_bytes())["url"]
        self.http = httpx.Client(base_url=self.url, timeout=10)

    def recommend(self, **query) -> dict:
        answer = self.http.post("/v1/recommend", json={"slot": "home", "user_id": "u1", **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stop(self) -> tuple[int, str]:
        """Ask it to stop; its status and what it printed."""
        self.process.send_signal(signal.SIGTERM)
        out, error = self.process.communicate(timeout=10)
        assert "Traceback" not in error, error
        return self.process.returncode, out

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.http.close()


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)
