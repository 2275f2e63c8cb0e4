"""Writes docs/reliability.md from the list of faults, the mutants, and docs/reliability.json.

python docs/reliability_page.py                     writes the page
python docs/reliability_page.py --run A.json --mutants B.json
                                                    takes the results of `make chaos` and
                                                    CHAOS=--mutants, and then writes it; scenes
                                                    and drills that A did not play stay as they
                                                    were, with their day
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.attack_list import ATTACKS  # noqa: E402
from tests.faults.chaos.live import LIVE  # noqa: E402
from tests.faults.chaos.scenes import SCENES  # noqa: E402
from tests.faults.fault_list import FAULTS  # noqa: E402

PAGE, FIGURES = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"
AVAILABILITY = ROOT / "benchmarks" / "figures" / "availability.json"
BACKUP = ROOT / "benchmarks" / "figures" / "backup.json"
KILLS_ANSWERED = 0.999
_SCENARIOS = {
    "kills": "a random role killed every 5 s, 1 in 10 stopped, 1 in 20 `up` itself",
    "server": "`kill -9` of one server every 5 s",
    "swap": "another model promoted every 10 s",
    "index": "20 items of the catalogue changed every 2 s",
    "replace": "`tailorbird up --replace` every 30 s",
    "busy": "another process takes a core",
}
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

- An acknowledged event is never lost and counts once.
- A refused event is kept whole in the quarantine, with its reason, and does not count.
- An event without a reply may be there or not, but never in part. A client sends it again under the
  same `event_id`.
- The state that serves equals what the lake's events make, bit for bit.
- Damage is named, with file and place, and nothing is counted on top of it.

**Faults covered.** Processes die at any moment, alone or all at once with the power. A disk is
full, slow, refuses a write or a sync, or changes what lies on it. Clocks are wrong. Brokers and
caches go away. Clients send anything, twice, or too much.

**Not covered**: a kernel or CPU that computes wrongly, somebody with write access who means harm
(checksums are no signatures), and the loss of a disk without a [backup](how-to/backup.md).

**The response log is an exception.** Responses are logged after the reply, in groups, so a crash
may lose those of the last 50 ms. They are counted (`tailorbird_answers_lost`).

**A write that the disk confirms and swallows** is another. It is gone, and nearly always found and
named. If the collector dies before anybody reads such a write, acknowledged events may be gone
unnoticed. The last run has how often.

## A clock that was ahead

Events of that time keep their time of receipt, which is ahead. So is `ts`, unless the sender gave
`ts` without `sent_at`; such an event counts as late if the jump is longer than `events.lateness`. A
value is read behind the newest event of each record that it is made of ([decision
4](decisions/0004-two-times.md)). Until the clock has passed these events:

- A response that reads a record of such an event is dated as of then, and so are events that name
  it. Reports have them on a later day. All responses read the record of a feature about everyone.
- Windows shorter than the jump miss what happens meanwhile. Longer ones count it, and nothing that
  comes later counts as late.
- Clicks on responses from before a jump longer than `events.answer` do not find them. `checks run`
  may have looked at a day before it was over.
- After a jump of more than a day, idle people and items may be gone from the state too early, and
  nothing is read as of earlier.

It mends itself once the clock and the windows have passed. Sooner, it takes a backup from before.

## How it is tried

`make chaos` (`KILLS=n` for fewer or more) plays scenes. Each is a step of a role on a small site
with some traffic, in a process of its own under `strace`:

- It is killed at the first, second, … call that changes or syncs a file, until none is left.
- A sync fails, a disk is full, or a write is confirmed and swallowed.
- It stops behind a sync or an acknowledgement. A copy of the file system's backing file is what a
  power cut would have left.

A ledger outside has what the step acknowledged. Then all roles start again, and the client sends
half of what got no reply once more. A judge counts:

| | |
|---|---|
| lost | acknowledged and not in the lake; refused and not in the quarantine; raw rows that are in no table |
| doubled | in the lake, or in its tables as a raw row, more than once |
| unequal | state that differs from what the lake's events make; a lake that does not verify; a click without the response that it followed; an event of another person than identifies and merges say; a sync that is believed though one before failed to write the same; a recovery that needs hands |

The drills run the real processes, as `tailorbird up` starts them, under load. `make test` has 40 of
the faults, `make nightly` 120 and all unsafe changes to the data plane. A new role's step goes into
`tests/faults/chaos/scenes.py`.
"""


def page(figures: dict[str, Any]) -> str:
    """Return the page of the figures."""
    return (
        "\n".join(
            [
                _HEAD,
                *_last_run(figures["run"], figures.get("aimed", [])),
                *_availability(),
                *_backup(),
                *_table(),
                *_attacks(),
                *_mutants(figures["mutants"]),
                *_uncovered(figures["run"]),
            ]
        ).rstrip()
        + "\n"
    )


def _excluded_note(swallowed_writes: dict[str, Any]) -> list[str]:
    """Return the note below the headline on the writes that it does not count."""
    text = (
        f"**These counts leave out the {swallowed_writes['tried']} writes that a disk swallowed.** "
    )
    if not swallowed_writes["silent"]:
        return [text + "None of those did harm that nobody was told of."]
    counts = swallowed_writes.get("silent_counts")
    if counts:
        detail = (
            f"(lost {counts['lost']}, doubled {counts['doubled']}, unequal {counts['unequal']})"
        )
    else:
        detail = (
            "(the record of this run does not say which; since then a log notes its last "
            "block, and later writes stand below)"
        )
    return [
        text + f"{swallowed_writes['silent']} of them did harm that nobody was told of {detail}."
    ]


def _swallowed_only_runs(runs: list[dict[str, Any]]) -> list[str]:
    """Return the table of runs of swallowed writes alone, which are in no other figure."""
    if not runs:
        return []
    lines = [
        "Runs of swallowed writes alone, which are in none of the other figures:",
        "",
        "| `python -m tests.faults.chaos` | revision, day | writes | harmless | found by a role | "
        "by `features verify` | by `lake verify` | by nobody | acknowledged rows lost |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        options = run["what"].removeprefix("python -m tests.faults.chaos ")
        lines.append(
            f"| `{options}` ({run['scenes']}) | {run['revision']}, {run['at']} | {run['tried']} | "
            f"{run['harmless']} | {run['role']} | {run['features verify']} | "
            f"{run['lake verify']} | {run['silent']} | {run['lost']} |"
        )
    return [*lines, "", " ".join(run["note"] for run in runs), ""]


def _last_run(run: dict[str, Any], swallowed_only: list[dict[str, Any]]) -> list[str]:
    scenes = sorted({scene for counts in run["by_kind"].values() for scene in counts})
    swallowed_writes = run["swallowed_writes"]
    lines = [
        "## The last run",
        "",
        f"`kills {run['kills']}, lost {run['lost']}, doubled {run['doubled']}, unequal "
        f"{run['unequal']}`: {run['faults']:,} faults in scenes and "
        f"{len(run['drills'])} drills, in {run['seconds'] // 60} minutes on "
        f"{run['machine']}, which other work shared.{_continuation_note(run)}",
        "",
        *_excluded_note(swallowed_writes),
        "",
        "| faults that took place | " + " | ".join(scenes) + " | all |",
        "|---|" + "---:|" * (len(scenes) + 1),
    ]
    for kind, counts in run["by_kind"].items():
        cells = [str(counts.get(scene, "")) for scene in scenes]
        lines.append(f"| {_KINDS[kind]} | " + " | ".join(cells) + f" | {sum(counts.values())} |")
    for label, name in (("revision", "revision"), ("day", "at")):
        cells = [run.get("tried", {}).get(scene, {}).get(name) or "not kept" for scene in scenes]
        lines.append(f"| {label} | " + " | ".join(cells) + " | |")
    rest = run["recovery_s"]
    lines += [
        "",
        f"From the start of all roles until everything was through: {rest['median']} s in "
        f"the middle, {rest['p99']} s at the 99th percentile (small "
        "folders; Python and libraries loaded already).",
        "",
        f"Of {swallowed_writes['tried']} swallowed writes {swallowed_writes.get('harmless', 0)} were harmless, "
        f"{swallowed_writes.get('role', 0)} were found by a role, which stopped and "
        f"named the file, {swallowed_writes.get('lake verify', 0)} by `lake verify`, "
        f"{swallowed_writes.get('features verify', 0)} by `features verify`, and "
        f"{swallowed_writes['silent']} by nobody.",
        "",
        *_swallowed_only_runs(swallowed_only),
        "| drill | kills | acknowledged | lost | doubled | unequal | revision, day | |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for drill in run["drills"]:
        label = f"not run: {drill['skipped']}" if drill.get("skipped") else drill["what"]
        counts = " | ".join(
            f"{drill[name]:,}" for name in ("kills", "acked", "lost", "doubled", "unequal")
        )
        when = f"{drill['revision']}, {drill['at']}" if drill.get("revision") else "not kept"
        lines.append(f"| {drill['name']} | {counts} | {when} | {label} |")
    return [*lines, ""]


def not_played(run: dict[str, Any]) -> list[str]:
    """Return scenes and drills that exist now and that this run did not have."""
    scenes = [scene.name for scene in SCENES if scene.name not in run["by_kind"]["kill"]]
    return scenes + [
        drill.name for drill in LIVE if drill.name not in {each["name"] for each in run["drills"]}
    ]


def _continuation_note(run: dict[str, Any]) -> str:
    text = " It was cut short and continued." if run.get("continued") else ""
    text += (
        " Scenes and drills are of the days that stand beside them." if run.get("carried") else ""
    )
    missing = not_played(run)
    return text + (f" Newer than this run, and not in it: {', '.join(missing)}." if missing else "")


def _availability() -> list[str]:
    """Return the section on answers while parts die, from the figures of the benchmark."""
    report = json.loads(AVAILABILITY.read_text())
    lines = [
        "## Answers while parts die",
        "",
        "One client asks for 50 lists a second, with a deadline of 2 s and no retry. It sends 500 "
        "events a second, each again until it is acknowledged. "
        "`python -m benchmarks.availability`; "
        f"{report['cores']} cores, revisions {_revisions(report)}. `load` is how many processes "
        "wanted a core at the end. Refused is a 503 for load, failed is everything else without an "
        "answer. Unequal are feature values and candidate lists that `features verify` finds to "
        "differ from what the lake's events make.",
        "",
        "| while | load | s | asked | answered | p50, p99 | refused | failed | events | lost | "
        "doubled | unequal |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, text in _SCENARIOS.items():
        row = report["results"].get(name)
        if row is None:
            continue
        lines.append(
            f"| {text} | {row['load_1min']:g} | {row['seconds']:.0f} | {row['asked']:,} | "
            f"{row['answered']:.2%} | "
            f"{row['ms']['p50']:.0f}, {row['ms']['p99']:.0f} ms | {row['refused']:,} | "
            f"{row['failed']:,} | {row['events']:,} | {row['lost']} | {row['doubled']} | "
            f"{row['unequal']} of {row['compared']:,} |"
        )
    restart_s = report["results"]["server"]["restart_s"]
    lines += [
        "",
        "Wanted: at least 99.9 % answered with p99 under 1 s where roles are killed, and no failed "
        "request elsewhere, but those under way in a killed server. Lost, doubled, unequal: 0. "
        + _missed(report["results"]),
        "",
        f"A killed server serves again after {restart_s['p50']:.1f} s (at most "
        f"{restart_s['max']:.1f} s); meanwhile the other one answers.",
        *_restart(report["results"].get("restart")),
    ]
    lines += ["", *_overload(report["results"].get("overload"))]
    return lines


def _restart(results: dict[str, Any] | None) -> list[str]:
    if results is None:
        return []
    first_s = results["first_answer_s"]
    return [
        "",
        f"With both servers killed ({results['killed']} times), the next request is answered "
        f"{first_s['p50']:.1f} s after the kill (at most {first_s['max']:.1f} s; wanted: 1 s).",
    ]


def _revisions(report: dict[str, Any]) -> str:
    """Return the revisions that scenarios were measured at, and which ones."""
    by_revision: dict[str, list[str]] = {}
    for name, row in report["results"].items():
        if name != "start":
            by_revision.setdefault(row["revision"][:10], []).append(name)
    return "; ".join(f"{revision} ({', '.join(names)})" for revision, names in by_revision.items())


def _missed(results: dict[str, Any]) -> str:
    """Return a sentence for each scenario that misses its target."""
    kills = results["kills"]
    missed = []
    if kills["answered"] < KILLS_ANSWERED:
        missed.append(
            f"Random kills miss it with {kills['answered']:.2%}: {kills['refused']} were refused "
            f"for load, {kills['broken']} were under way in a killed server, {kills['late']} in a "
            "stopped one."
        )
    for name in ("swap", "index", "replace", "busy"):
        if failed := results[name]["refused"] + results[name]["failed"]:
            missed.append(f"With {_SCENARIOS[name]}, {failed} failed or were refused.")
    return " ".join(missed) or "All are met."


def _overload(results: dict[str, Any] | None) -> list[str]:
    if results is None:
        return []
    lines = [
        f"Answers beyond what it can do, which was {results['capacity_per_s']:,.0f} a second with "
        "the client on the same cores:",
        "",
        "| load | offered, a second | goodput by CPU | by the clock | p50, p99 of refusals | failed | "
        "p99 after it |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for factor in ("3x", "10x"):
        row = results[factor]
        refusal = row["refusal_ms"]
        refused = f"{refusal['p50']:.0f}, {refusal['p99']:.0f} ms" if refusal else "–"
        lines.append(
            f"| {factor} | {row['offered_per_s']:,.0f} | {row['goodput_per_cpu']:.0%} | "
            f"{row['goodput']:.0%} | {refused} | {row['failed']:,} | "
            f"{row['after']['ms'].get('p99', 0):.0f} ms |"
        )
    load_s = results["10x"]["asked"] / results["10x"]["offered_per_s"]
    p99s = [results[factor]["refusal_ms"].get("p99", 0) for factor in ("3x", "10x")]
    most = results["10x"]
    answers_s = most["answered"] * results["cpu_s"] / results["answered"]
    refusal_us = (most["cpu_s"] - answers_s) / most["refused"] * 1e6
    lines += [
        "",
        "Wanted: goodput of 90 %, and refusals within 50 ms. Their median meets it, their p99 "
        f"({max(p99s):.0f} ms) does not: client and servers share the cores, so a request waits "
        f"before it is read. At 10x a refusal costs {refusal_us:.0f} µs, an answer "
        f"{results['cpu_s'] / results['answered'] * 1e3:.1f} ms; refusals take "
        f"{1 - answers_s / most['cpu_s']:.0%} of the servers' time. Each load lasted "
        f"{load_s:.0f} s.",
    ]
    return [*lines, ""]


def _backup() -> list[str]:
    """Return the section on backup and restore, from the figures of the benchmark."""
    report = json.loads(BACKUP.read_text())
    results, wanted = report["results"], report["wanted"]
    rows = [
        (f"acknowledged before it and lost, of {results['acknowledged_before']:,}", "lost", 0),
        ("doubled", "doubled", 0),
        (f"sent after it and there, of {results['sent_after']:,}", "later", 0),
        (f"feature values unequal, of {results['features_compared']:,}", "unequal", 0),
        ("ingest p99 during full backups ÷ between them", "p99_ratio", 2),
        ("restore, MB/s", "restore_mb_per_s", 0),
    ]
    lines = [
        "## Backup and restore",
        "",
        f"`{report['command']}`: a project of {results['project_mb']:,.0f} MB is backed up "
        f"{results['backups']} times while {results['events_per_s']:,.0f} events a second come in, "
        f"in {results['backup_s']:.0f} s each. The last full one is restored by its time, and its "
        "state built. One backup more wrote "
        f"{results['second_backup_written_mb']:,.1f} MB. Ingest p99 was "
        f"{results['ingest_p99_before_ms']:.0f} ms without and "
        f"{results['ingest_p99_during_ms']:.0f} ms with a backup, on "
        f"{report['environment']['cores']} cores at a load of {report['load_average'][0]:g}.",
        "",
        "| | measured | wanted |",
        "|---|---:|---:|",
    ]
    for text, name, digits in rows:
        sign = "" if not wanted[name] else "≥ " if name == "restore_mb_per_s" else "≤ "
        lines.append(f"| {text} | {results[name]:.{digits}f} | {sign}{wanted[name]:g} |")
    lines += ["", "What a person still has to do: [the disk is lost](operate/disk-lost.md).", ""]
    return lines


def _table() -> list[str]:
    lines = [
        "## Fault by fault",
        "",
        "| | fault | promised | shown by | not shown, or not so |",
        "|---|---|---|---|---|",
    ]
    for fault in FAULTS:
        tests = "<br>".join(f"`{test}`" for test in fault.tests) or "nothing yet"
        lines.append(
            f"| {fault.number} | {fault.fault} | {fault.promised} | {tests} | {fault.missing} |"
        )
    return [*lines, ""]


def _attacks() -> list[str]:
    lines = [
        "## Attacks",
        "",
        "On collector, lake, Valkey and secrets.",
        "",
        "| | attack | promised | shown by | not shown, or not so |",
        "|---|---|---|---|---|",
    ]
    for each in ATTACKS:
        tests = "<br>".join(f"`{test}`" for test in each.tests) or "nothing yet"
        lines.append(
            f"| {each.surface} | {each.attack} | {each.promised} | {tests} | {each.missing} |"
        )
    return [*lines, ""]


def _mutants(rows: list[dict[str, Any]]) -> list[str]:
    caught = sum(row["caught"] for row in rows)
    lines = [
        "## Unsafe changes that must be noticed",
        "",
        "Each of these is one unsafe change, patched into the process that plays a scene "
        f"(`make chaos CHAOS=--mutants`); {caught} of {len(rows)} were noticed.",
        "",
        "| change | noticed by |",
        "|---|---|",
    ]
    lines += [
        f"| {row['name']} | {_escape(row['how']) if row['caught'] else '**not noticed**'} |"
        for row in rows
    ]
    return [*lines, ""]


def merge_runs(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge a run with scenes and drills of an earlier one; each names its revision and day."""
    tried = {
        **{scene: {} for counts in old["by_kind"].values() for scene in counts},
        **old.get("tried", {}),
        **new["tried"],
    }
    kinds: dict[str, dict[str, int]] = {}
    for kind in {**old["by_kind"], **new["by_kind"]}:
        before = {
            scene: count
            for scene, count in old["by_kind"].get(kind, {}).items()
            if scene not in new["tried"]
        }
        kinds[kind] = {**before, **new["by_kind"].get(kind, {})}
    new_drills = {drill["name"] for drill in new["drills"]}
    drills = [drill for drill in old["drills"] if drill["name"] not in new_drills] + new["drills"]
    kills = sum(sum(kinds.get(kind, {}).values()) for kind in ("kill", "power")) + sum(
        drill["kills"] for drill in drills
    )
    totals = {name: old[name] + new[name] for name in ("lost", "doubled", "unequal")}
    swallowed = (
        new["swallowed_writes"] if new["swallowed_writes"]["tried"] else old["swallowed_writes"]
    )
    faults = sum(sum(counts.values()) for counts in kinds.values())
    carried = len(tried) > len(new["tried"]) or len(drills) > len(new["drills"])
    seconds = new["seconds"] + (
        sum(drill["seconds"] for drill in drills if drill["name"] not in new_drills)
        if carried
        else 0
    )
    return {
        **new,
        **totals,
        "kills": kills,
        "faults": faults,
        "by_kind": kinds,
        "drills": drills,
        "tried": tried,
        "seconds": seconds,
        "swallowed_writes": swallowed,
        "carried": carried,
    }


def _escape(text: str) -> str:
    return text.replace("|", "/").replace("<", "&lt;").replace("[", "(").replace("]", ")")[:160]


def _uncovered(run: dict[str, Any]) -> list[str]:
    upper = 3 / run["kills"] if run["kills"] else 1.0
    return [
        "## What this does not show",
        "",
        f"- {run['kills']:,} kills without a loss bound the chance of one, for kills like "
        f"these, below {upper:.1e} at 95 % confidence; they say "
        "nothing of other faults.",
        "- One machine, one kernel, ext4 for power cuts; small folders, so that no scene has "
        "a WAL, a table or a state of real size.",
        "- strace counts calls by thread: with several threads in a step, the Nth call of "
        "all is not always reached.",
        "- The broker of the tests keeps nothing when it ends, so that brokers are killed "
        "only in librdkafka's mock cluster.",
        "- `up --replace` is tried with one version only; there is no release to come from.",
        "- Training, experiments and the console are not part of the promise: they read the "
        "lake, and are run again.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path)
    parser.add_argument("--mutants", type=Path)
    options = parser.parse_args()
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if options.run:
        run = json.loads(options.run.read_text())
        figures["run"] = merge_runs(figures["run"], run) if "run" in figures else run
    if options.mutants:
        figures["mutants"] = json.loads(options.mutants.read_text())["mutants"]
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(page(figures))


if __name__ == "__main__":
    main()
