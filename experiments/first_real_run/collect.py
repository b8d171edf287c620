"""Print the tables of this experiment from its run records: all runs, and stage 1.

python experiments/first_real_run/collect.py runs/first_real_run
"""

import sys
from pathlib import Path

from poolwise.compare.records import read_runs


def main() -> None:
    """Markdown tables on standard output."""
    runs = read_runs(Path(sys.argv[1]), "sentiment").sort_values(["objective", "repr", "seed"])
    print("| objective | representation | seed | dev F1 | dev accuracy | test accuracy | test F1 | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for _, run in runs.iterrows():
        figures = [100 * run[name] for name in ("dev/macro_f1", "dev/accuracy", "test/accuracy", "test/macro_f1")]
        cells = [run["objective"], run["repr"], str(run["seed"]), *(f"{value:.1f}" for value in figures)]
        print("| " + " | ".join([*cells, f"{run['wall_seconds']:.0f}"]) + " |")
    print("\n| stage 1 | seconds | tokens per second | dev MLM loss | dev objective loss | pooler | pooler moved |")
    print("|---|---|---|---|---|---|---|")
    for _, run in read_runs(Path(sys.argv[1]), "mlm").iterrows():
        provenance = run["provenance"]
        moved = provenance["parts"]["pooler"]["distance_moved"]
        figures = f"{run['dev/mlm_loss']:.3f} | {run['dev/objective_loss']:.3f}"
        speed = f"{run['wall_seconds']:.0f} | {run['tokens_per_second']:.0f}"
        print(f"| {run['objective']} | {speed} | {figures} | {provenance['pooler_status']} | {moved:.3f} |")


if __name__ == "__main__":
    main()
