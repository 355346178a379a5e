"""The table of bench/prediction.sh, from the lines that prediction_ratio printed."""

import json
import sys
from pathlib import Path
from statistics import median

NEAR = 1.05  # measured times that are this close may change places


def ranked_as_measured(ways):
    """Is no way predicted to be faster than another one that was measured to be clearly faster?"""
    return all(
        a["predicted"] <= b["predicted"] * NEAR for a in ways for b in ways if a["measured"] * NEAR < b["measured"]
    )


def main(path):
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    print("| model       | ranks | way              | predicted s | measured s | ratio | bound by        |")
    print("|-------------|------:|------------------|------------:|-----------:|------:|-----------------|")
    jobs = {}
    for row in rows:
        jobs.setdefault((row["checkpoint"], row["ranks"]), []).append(row)
        print(
            f"| {Path(row['checkpoint']).name:<11} | {row['ranks']:>5} | {row['way']:<16} | {row['predicted']:>11.3f} "
            f"| {row['measured']:>10.3f} | {row['predicted'] / row['measured']:>5.2f} | {row['bottleneck']:<15} |"
        )
    ratios = sorted(row["predicted"] / row["measured"] for row in rows)
    agreeing = sum(ranked_as_measured(ways) for ways in jobs.values())
    fastest = sum(
        min(ways, key=lambda way: way["predicted"])["measured"] <= min(way["measured"] for way in ways) * NEAR
        for ways in jobs.values()
    )
    probes = median(ways[0]["probe"] for ways in jobs.values())
    print()
    print(
        f"predicted / measured: median {median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}; "
        f"within 0.5 and 2: {sum(0.5 <= ratio <= 2 for ratio in ratios)} of {len(ratios)}"
    )
    print(
        f"ways ranked as measured (within {NEAR:.2f}): {agreeing} of {len(jobs)} jobs; "
        f"the one predicted to be fastest is, within {NEAR:.2f}: {fastest} of {len(jobs)}"
    )
    print(f"a calibration took {probes:.2f} s (median)")


if __name__ == "__main__":
    main(sys.argv[1])
