"""Writes docs/reliability.md from the list of faults, the unsafe changes, and what the last runs found (docs/reliability.json).

python docs/reliability_page.py                            writes the page
python docs/reliability_page.py --run A.json --mutants B.json    takes up what `make chaos` and CHAOS=--mutants wrote, and then writes it
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.fault_list import FAULTS  # noqa: E402

PAGE, FOUND = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"
_KINDS = {
    "kill": "killed before a call",
    "power": "power cut behind a call",
    "sync": "a sync that fails (EIO)",
    "full": "a write without space (ENOSPC)",
    "lost": "a write confirmed and swallowed",
}

_HEAD = """# Reliability

<!-- Made by docs/reliability_page.py from what `make chaos` found; edit that, not this page. -->

What may go wrong under Tailorbird, what is promised then, how it is tried, and what is not covered.

## The promise

- An event that was acknowledged is never lost and counts once.
- What was refused is kept whole in the quarantine, with its reason; nothing of it counts.
- What got no answer may be there or not, never by halves; a client sends it again under the same `event_id`.
- The state from which answers are read equals what the lake's events make, bit for bit.
- Damage is named, with file and place, and nothing is counted on top of it.

**Which faults.** Processes die at any moment, alone or all at once with the power; a disk is full, slow, refuses a write or a sync, or changes
what lies on it; clocks are wrong; brokers and caches go away; clients send anything, twice, or too much. Not among them: a kernel or a CPU that
computes wrongly, somebody with write access who means harm (checksums are no signatures), and the loss of the disk that holds log and lake
without a copy elsewhere.

**An answer's own record** is the exception, by design: answers are logged after the reply, in groups, so a crash may lose those of the last 50 ms.
They are counted (`answers_lost`).

**A write that the disk confirms and swallows** is another exception. What was swallowed is gone; mostly it is found and named, but of
what the door or the router wrote it can take acknowledged events along with nobody told. The last run has how often.

## How it is tried

`make chaos` (`KILLS=n` for fewer or more). Each scene is a role's step, as the role runs, on a small site that has been through some traffic: in a
process of its own, watched by `strace`, which kills it at the first, second, … call that changes a file or makes it last, until none is left;
lets a sync fail, a disk be full, a write be confirmed and swallowed; or stops it behind a sync or an acknowledgement, when a copy of the file
system's backing file is what a power cut would have left. What the step acknowledged was said over a socket to a ledger outside. Then all
roles start again, the client sends half of what got no answer once more, and a judge counts:

| | |
|---|---|
| lost | acknowledged and not in the lake; refused and not in the quarantine; raw rows that are in no table |
| doubled | in the lake, or in its tables as a raw row, more than once |
| unequal | state that differs from what the lake's events make; a lake that does not verify; a click without the answer that it followed; a sync that was tried again; a recovery that needs hands |

The drills run the real processes, as `tailorbird up` starts them, under load. `make test` has some 120 of these faults in it, and all unsafe
changes to the data plane. A new role's step is a function and a line in `tests/faults/chaos/scenes.py`.
"""


def page(found: dict[str, Any]) -> str:
    """The page, from what was found."""
    return (
        "\n".join(
            [_HEAD, *_last_run(found["run"], found.get("aimed", [])), *_table(), *_mutants(found["mutants"]), *_uncovered(found["run"])]
        ).rstrip()
        + "\n"
    )


def _left_out(told: dict[str, Any]) -> list[str]:
    """What the headline does not count, in words that stand right below it."""
    text = f"**These counts leave out the {told['tried']} writes that a disk swallowed.** "
    if not told["silent"]:
        return [text + "None of those did harm that nobody was told of."]
    counts = told.get("silent_counts")
    if counts:
        detail = f"(lost {counts['lost']}, doubled {counts['doubled']}, unequal {counts['unequal']})"
    else:
        detail = "(the record of this run does not say which; in later ones, below, it was acknowledged rows that were lost, mostly)"
    return [text + f"{told['silent']} of them did harm that nobody was told of {detail}."]


def _aimed(runs: list[dict[str, Any]]) -> list[str]:
    """Runs of swallowed writes alone, that are in no other figure."""
    if not runs:
        return []
    lines = ["Later runs of swallowed writes alone, which are in none of the other figures:", ""]
    for run in runs:
        crashed = (
            f"; after {run['crashed']} ({run['crashed_scenes']}) a process ended with a TypeError that names no file"
            if run["crashed"]
            else ""
        )
        lines.append(
            f"- `{run['what']}`: of {run['tried']} swallowed writes {run['silent']} ({run['scenes']}) lost acknowledged rows, {run['lost']} in "
            f"all, and nobody was told{crashed}."
        )
    return [*lines, ""]


def _last_run(run: dict[str, Any], aimed: list[dict[str, Any]]) -> list[str]:
    scenes = sorted({scene for counts in run["by_kind"].values() for scene in counts})
    told = run["swallowed_writes"]
    lines = [
        "## The last run", "",
        f"`kills {run['kills']}, lost {run['lost']}, doubled {run['doubled']}, unequal {run['unequal']}`: {run['faults']:,} faults in scenes and "
        f"{len(run['drills'])} drills, in {run['seconds'] // 60} minutes on {run['machine']}, which other work shared; kept and continued over several starts.", "",
        *_left_out(told), "",
        "| faults that took place | " + " | ".join(scenes) + " | all |", "|---|" + "---:|" * (len(scenes) + 1),
    ]  # fmt: skip
    for kind, counts in run["by_kind"].items():
        cells = [str(counts.get(scene, "")) for scene in scenes]
        lines.append(f"| {_KINDS[kind]} | " + " | ".join(cells) + f" | {sum(counts.values())} |")
    rest = run["recovery_s"]
    lines += [
        "",
        f"From the start of all roles until everything was through: {rest['median']} s in the middle, {rest['p99']} s at the 99th percentile (small "
        "folders; Python and libraries loaded already).", "",
        f"Of {told['tried']} swallowed writes {told.get('harmless', 0)} were harmless, {told.get('role', 0)} were found by a role, which stopped and "
        f"named the file, {told.get('lake verify', 0)} by `lake verify`, {told.get('features verify', 0)} by `features verify`, and "
        f"{told['silent']} by nobody. What a disk swallowed cannot be brought back, so none of the {told['tried']} is among the counts above.", "",
        *_aimed(aimed),
        "| drill | kills | acknowledged | lost | doubled | unequal | |", "|---|---:|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for drill in run["drills"]:
        what = f"not run: {drill['skipped']}" if drill.get("skipped") else drill["what"]
        counts = " | ".join(f"{drill[name]:,}" for name in ("kills", "acked", "lost", "doubled", "unequal"))
        lines.append(f"| {drill['name']} | {counts} | {what} |")
    return [*lines, ""]


def _table() -> list[str]:
    lines = ["## Fault by fault", "", "| | fault | promised | shown by | not shown, or not so |", "|---|---|---|---|---|"]
    for fault in FAULTS:
        tests = "<br>".join(f"`{test}`" for test in fault.tests) or "nothing yet"
        lines.append(f"| {fault.number} | {fault.fault} | {fault.promised} | {tests} | {fault.missing} |")
    return [*lines, ""]


def _mutants(rows: list[dict[str, Any]]) -> list[str]:
    caught = sum(row["caught"] for row in rows)
    lines = [
        "## Unsafe changes that must be noticed", "",
        "A judge that never finds anything proves nothing. Each of these is one unsafe change, patched into the process that plays a scene "
        f"(`make chaos CHAOS=--mutants`); {caught} of {len(rows)} were noticed.", "",
        "| change | noticed by |", "|---|---|",
    ]  # fmt: skip
    lines += [f"| {row['name']} | {_plain(row['how']) if row['caught'] else '**not noticed**'} |" for row in rows]
    return [*lines, ""]


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("<", "&lt;").replace("[", "(").replace("]", ")")[:160]


def _uncovered(run: dict[str, Any]) -> list[str]:
    upper = 3 / run["kills"] if run["kills"] else 1.0
    return [
        "## What this does not show", "",
        f"- {run['kills']:,} kills without a loss bound the chance of one, for kills like these, below {upper:.1e} at 95 % confidence; they say "
        "nothing of faults that are not tried.",
        "- One machine, one kernel, ext4 for power cuts; small folders, so that no scene has a WAL, a table or a state of real size.",
        "- strace counts calls by thread: with several threads in a step, the Nth call of all is not always reached.",
        "- The broker of the tests keeps nothing when it ends, so that brokers are killed only in librdkafka's mock cluster.",
        "- No fault while the software is updated; there is no released version to come from.",
        "- Training, experiments and the console are not part of the promise: they read the lake, and are run again.",
        "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--mutants", type=Path)
    options = parser.parse_args()
    found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    if options.run:
        found["run"] = json.loads(options.run.read_text())
    if options.mutants:
        found["mutants"] = json.loads(options.mutants.read_text())["mutants"]
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
