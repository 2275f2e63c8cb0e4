"""Make `.peers/`: environments with each peer that installs, at pinned versions: `make peers`.

    python -m benchmarks.peers.install [--folder .peers]

    .peers/             libraries that models are compared with: requirements.txt, by
                        constraints.txt
    .peers/serving/     what `benchmarks.serving` is compared with, which needs another numpy:
                        serving.txt
    .peers/statistics/  what analyses of experiments are compared with: statistics.txt
    .peers/off_policy/  what off-policy estimators are compared with: off_policy.txt
    .peers/monitoring/  what `benchmarks.quality.monitoring` is compared with: monitoring.txt

A peer that does not install is left out; the reason is kept in the folder, so that the page of
results can state it.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".peers"
FAILED = "failed.json"
SERVING, STATISTICS, OFF_POLICY = "serving", "statistics", "off_policy"
MONITORING = "monitoring"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.install", description="Make environments with the peers"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder: Path = parser.parse_args().folder
    make_environment(folder, requirements(), ["-c", str(HERE / "constraints.txt")])
    for name in (SERVING, STATISTICS, OFF_POLICY, MONITORING):
        options = ["--no-build-isolation"] if name == STATISTICS else None
        make_environment(folder / name, requirements(f"{name}.txt"), options)


def make_environment(
    folder: Path, requirements_: list[str], options: list[str] | None = None
) -> None:
    """Make an environment and install the requirements one after the other."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    failed: dict[str, str] = {}
    for requirement in requirements_:
        print(f"installing {requirement} into {folder}", file=sys.stderr)
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *(options or []),
            requirement,
        ]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            failed[name_of(requirement)] = last_error(process.stderr)
            print(f"left out: {failed[name_of(requirement)]}", file=sys.stderr)
    (folder / FAILED).write_text(json.dumps(failed, indent=1) + "\n")


def interpreter(subfolder: str = "") -> Path:
    """Return the Python of an environment: TAILORBIRD_PEERS, or `.peers` in the repository."""
    return Path(os.environ.get("TAILORBIRD_PEERS") or FOLDER) / subfolder / "bin" / "python"


def requirements(file: str = "requirements.txt") -> list[str]:
    """Return the requirement lines, one for each peer."""
    lines = (HERE / file).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def name_of(requirement: str) -> str:
    """Return the package name: `rectools[torch]==0.19.0` → `rectools`."""
    return requirement.partition("=")[0].partition("[")[0]


def last_error(text: str) -> str:
    """Return the last line that reports an error, or else the last line with text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if "error" in line.lower()),
        lines[-1] if lines else "no reason was given",
    )


if __name__ == "__main__":
    main()
