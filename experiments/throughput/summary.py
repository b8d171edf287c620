"""Tables and figure of `results.csv`: medians over rounds, ratios, and the share of the machine's limit.

python experiments/throughput/summary.py
"""

from pathlib import Path

import matplotlib
import pandas

matplotlib.use("svg")
from matplotlib.figure import Figure

from poolwise.compare.figures.drawing import COLOURS, STYLE

HERE = Path(__file__).parent
DEFAULTS, BEST = "Trainer, defaults", "Trainer, best settings"


def summary(results: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each part, size, texts and system: medians over rounds of figures and of ratios within a round."""
    trained = results[results["part"].isin(["stage1", "stage2"])].copy()
    trained["tokens_per_second"] = trained["tokens"] / trained["seconds"]
    trained["share_of_limit"] = trained["tokens_per_second"] * trained["flops"] / trained["limit"]
    cell = ["part", "size", "texts", "round"]
    for name, peer in (("to_defaults", DEFAULTS), ("to_best", BEST)):
        base = trained[trained["system"] == peer].set_index(cell)["tokens_per_second"]
        trained[name] = (
            trained["tokens_per_second"] / base.reindex(pandas.MultiIndex.from_frame(trained[cell])).to_numpy()
        )
    columns = ["tokens_per_second", "to_defaults", "to_best", "share_of_limit", "peak_mib"]
    return trained.groupby(["part", "size", "texts", "system"], sort=False)[columns].median().reset_index()


def drawn(table: pandas.DataFrame) -> Figure:
    """A bar for each system, by part, size and texts: how many times the peer's defaults."""
    cells = list(table.groupby(["part", "size", "texts"], sort=False))
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(7, 0.6 + 1.35 * len(cells)), layout="constrained")
        for axes, ((part, size, texts), rows) in zip(
            figure.subplots(len(cells), 1, sharex=True, squeeze=False)[:, 0], cells, strict=True
        ):
            stage = "stage 1" if part == "stage1" else "stage 2, fine-tuning"
            axes.set_title(f"{stage}, {size}, {texts}")
            own = rows["system"].str.startswith("poolwise")
            axes.barh(rows["system"], rows["to_defaults"], color=[COLOURS[0] if ours else "#999999" for ours in own])
            for place, (_, row) in enumerate(rows.iterrows()):
                axes.text(
                    row["to_defaults"],
                    place,
                    f" {row['to_defaults']:.1f} x, {row['tokens_per_second']:,.0f} tokens/s, "
                    f"{100 * row['share_of_limit']:.0f} % of the limit",
                    va="center",
                )
            axes.invert_yaxis()
            axes.set_xlim(0, 1.9 * table["to_defaults"].max())
        axes.set_xlabel("real tokens a second, times those of Trainer with its defaults")
    return figure


def main() -> None:
    """Write `summary.csv` and `throughput.svg`, and print the table as Markdown."""
    table = summary(pandas.read_csv(HERE / "results.csv"))
    table.to_csv(HERE / "summary.csv", index=False, float_format="%.4g")
    drawn(table).savefig(HERE / "throughput.svg")
    print("| part, size, texts | system | tokens/s | x defaults | x best | share of limit | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for _, row in table.iterrows():
        print(
            f"| {row['part']}, {row['size']}, {row['texts']} | {row['system']} | {row['tokens_per_second']:,.0f} "
            f"| {row['to_defaults']:.1f} | {row['to_best']:.1f} | {100 * row['share_of_limit']:.0f} % "
            f"| {row['peak_mib']:,.0f} |"
        )


if __name__ == "__main__":
    main()
