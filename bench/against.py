"""Loads a checkpoint in pairs, with the tool of one revision and of another, and bounds how much longer one takes.

Called by against.sh, and by conversions.sh, where both tools are one and the second load has more arguments. A pair is a load by each, one right after the other; which one is first alternates from pair to pair, and
in each pair all ways to load have their turn, so that what drifts is much the same for both. No load waits for anything, so memory
lies free no longer than a process takes to start: the host of a virtual machine takes it back after seconds. The seconds are those
that the tool reports: of opening, planning and loading, without starting processes. CPU seconds are those of all processes from
their start to their end: they change less on a busy machine, and do not show who waits.

The bounds assume nothing of how times are distributed: see `rank_of_bound`. Of 31 ratios the 11th and the 21st smallest bound the
median from below and from above with 95 % confidence each (96.5 %, exactly).
"""

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

CONFIDENCE = 0.95
LAUNCHERS = ("threads", "mpi")
WAYS = {
    "scatter": ["--transport", "scatter"],
    "broadcast": ["--transport", "broadcast"],
    "own-read": ["--transport", "own-read"],
    "automatic": ["--transport", "automatic"],
    "every-rank-loads": ["--policy", "every-rank-loads"],
}
LOAD_SECONDS = 600  # a load that takes longer has failed


# -- statistics -------------------------------------------------------------------------------------------------------


def rank_of_bound(n, confidence=CONFIDENCE):
    """Which of n values, in order, from 1, is at least their distribution's median with this confidence; None: no value is.

    The k-th smallest is below the median only where k or more of the n values are. Each is with probability 1/2 (at most), so that
    happens with probability P(B >= k), B binomial of n and 1/2. By symmetry the k-th largest bounds the median from below.
    """
    below = 0
    for k in range(1, n + 1):
        below += math.comb(n, k - 1)  # ways in which fewer than k values are below
        if below >= confidence * 2**n:
            return k
    return None


def median_and_bounds(values):
    ordered = sorted(values)
    k = rank_of_bound(len(ordered))
    return median(ordered), ordered[len(ordered) - k], ordered[k - 1]


def self_test():
    assert rank_of_bound(4) is None, "the largest of 4 is below the median once in 16 times"
    assert rank_of_bound(5) == 5
    assert rank_of_bound(31) == 21
    assert sum(math.comb(31, i) for i in range(21)) >= 0.95 * 2**31 > sum(math.comb(31, i) for i in range(20))
    assert median_and_bounds(range(31, 0, -1)) == (16, 11, 21)
    assert median_and_bounds([3, 1, 2, 5, 4]) == (3, 1, 5)
    chance = random.Random(0)
    trials = 4000
    held = [0, 0]
    for _ in range(trials):  # skewed, with the median 1
        _, low, high = median_and_bounds([chance.expovariate(math.log(2)) for _ in range(31)])
        held[0] += low <= 1
        held[1] += high >= 1
    for count in held:
        assert 0.95 <= count / trials <= 0.98, f"bounds hold in {count} of {trials} trials; 96.5 % are expected"


# -- loads ------------------------------------------------------------------------------------------------------------


class Failed(Exception):
    pass


def environment():
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    more_ranks_than_cores = {
        "OMPI_MCA_rmaps_base_oversubscribe": "true",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # of Open MPI 5
    }
    return {**os.environ, **more_ranks_than_cores, **(as_root if os.geteuid() == 0 else {})}


def cpu_seconds():
    """Of all processes that this one has waited for, and they in turn."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def load(which, way, options, folder):
    """Seconds of the load, and CPU seconds of its processes; with the old tool or the new one."""
    launcher, _, how = way.partition("-")
    report = Path(folder) / "report.json"
    report.unlink(missing_ok=True)
    command = ["mpirun", "-n", str(options.ranks)] if launcher == "mpi" else []
    command += [getattr(options, which), "load", options.checkpoint, "--shards", str(options.ranks), "--launcher", launcher]
    command += ["--report", str(report), *WAYS[how], *options.both_with]
    command += options.new_with if which == "new" else []
    before = cpu_seconds()
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=LOAD_SECONDS, env=environment()
    )
    if ended.returncode != 0:
        said = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise Failed(next((line for line in said if "fsdpinit" in line), said[-1]))
    return json.loads(report.read_text())["seconds"], cpu_seconds() - before


def ways_of_both(options, folder):
    """Of those asked for. Their first loads bring the files into the page cache, and count for nothing."""
    both = []
    for way in options.ways:
        try:
            load("new", way, options, folder)
        except Failed as failure:
            raise Failed(f"{way}: the new tool fails: {failure}") from failure
        try:
            load("old", way, options, folder)
            both.append(way)
        except Failed as failure:
            print(f"left out: {way}: the old tool fails: {failure}", flush=True)
    if not both:
        raise Failed("no way to load that both have")
    return both


def measure(ways, options, folder):
    samples = {way: {"old": [], "new": []} for way in ways}
    for pair in range(options.pairs):
        for number, way in enumerate(ways):
            if sys.stderr.isatty():
                print(f"\r\033[Kpair {pair + 1} of {options.pairs}: {way}", end="", file=sys.stderr, flush=True)
            order = ("old", "new") if (pair + number) % 2 == 0 else ("new", "old")
            for which in order:
                samples[way][which].append(load(which, way, options, folder))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return samples


def ratios(samples, index):
    return [new[index] / old[index] for old, new in zip(samples["old"], samples["new"])]


def print_table(samples, options):
    """Whether no ratio can be above the limit."""
    print(f"{options.ranks} ranks, {options.pairs} pairs, warm page cache; each bound holds with {CONFIDENCE:.0%} confidence")
    print()
    print("| way                      |   old s |   new s | new / old | at least | at most | CPU new / old | at least | at most |")
    print("|--------------------------|--------:|--------:|----------:|---------:|--------:|--------------:|---------:|--------:|")
    over = []
    for way, each in samples.items():
        middle, low, high = median_and_bounds(ratios(each, 0))
        seconds = [median(sample[0] for sample in each[which]) for which in ("old", "new")]
        print(
            f"| {way:<24} | {seconds[0]:>7.4f} | {seconds[1]:>7.4f} | {middle:>9.3f} | {low:>8.3f} | {high:>7.3f} "
            "| {:>13.3f} | {:>8.3f} | {:>7.3f} |".format(*median_and_bounds(ratios(each, 1)))
        )
        if options.limit is not None and high > options.limit:
            over.append(way)
    if options.limit is not None:
        print()
        print(f"at most {options.limit}: " + (f"not shown for {', '.join(over)}" if over else "all"))
    return not over


def parsed():
    known = [f"{launcher}-{how}" for launcher in LAUNCHERS for how in WAYS]
    parser = argparse.ArgumentParser(prog="against.sh")
    parser.add_argument("--old", required=True)
    parser.add_argument("--new", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--samples", required=True, type=Path)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--ways", default=",".join(known))
    parser.add_argument("--limit", type=float)
    parser.add_argument("--both-with", default=[], type=str.split, help="further arguments of both loads")
    parser.add_argument("--new-with", default=[], type=str.split, help="further arguments of the new one")
    options = parser.parse_args()
    options.ways = options.ways.split(",")
    if unknown := sorted(set(options.ways) - set(known)):
        parser.error(f"no ways to load: {', '.join(unknown)}; use some of {', '.join(known)}")
    if rank_of_bound(options.pairs) is None:
        parser.error(f"{options.pairs} pairs bound nothing with {CONFIDENCE:.0%} confidence; use 5 or more")
    return options


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    options = parsed()
    try:
        with tempfile.TemporaryDirectory() as folder:
            samples = measure(ways_of_both(options, folder), options, folder)
    except Failed as failure:
        print(f"against: {failure}", file=sys.stderr)
        return 1
    options.samples.write_text(json.dumps(samples, indent=1) + "\n")
    return 0 if print_table(samples, options) else 1


if __name__ == "__main__":
    sys.exit(main())
