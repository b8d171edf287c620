"""Tables and figure of `results.csv`: medians over rounds, ratios, and the share of the machine's limit.

python experiments/throughput/summary.py
"""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pandas

matplotlib.use("svg")
from matplotlib.figure import Figure

from poolwise.compare.figures.drawing import COLOURS, STYLE

HERE = Path(__file__).parent
DEFAULTS, BEST = "Trainer, defaults", "Trainer, best settings"
MLM_ALONE = "poolwise, MLM alone"


def summary(results: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each part, size, texts and system: medians over rounds of figures and of ratios within a round."""
    trained = results[results["part"].isin(["stage1", "stage2"]) & results["tokens"].notna()].copy()
    trained["tokens_per_second"] = trained["tokens"] / trained["seconds"]
    trained["share_of_limit"] = trained["tokens_per_second"] * trained["flops"] / trained["limit"]
    cell = ["part", "size", "texts", "round"]
    for name, base in (("to_defaults", DEFAULTS), ("to_best", BEST), ("to_mlm_alone", MLM_ALONE)):
        rates = trained[trained["system"] == base].set_index(cell)["tokens_per_second"]
        trained[name] = (
            trained["tokens_per_second"] / rates.reindex(pandas.MultiIndex.from_frame(trained[cell])).to_numpy()
        )
    columns = ["tokens_per_second", "to_defaults", "to_best", "to_mlm_alone", "share_of_limit", "peak_mib"]
    found = trained.groupby(["part", "size", "texts", "system"], sort=False)
    spread = found["to_best"].agg(["min", "max"]).add_prefix("to_best_")
    return found[columns].median().join(spread).join(found.size().rename("rounds")).reset_index()


def drawn(table: pandas.DataFrame) -> Figure:
    """A bar for each system, by part, size and texts: how many times the peer's defaults."""
    cells = list(table.groupby(["part", "size", "texts"], sort=False))
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8.5, 0.6 + 1.35 * len(cells)), layout="constrained")
        for axes, ((part, size, texts), rows) in zip(
            figure.subplots(len(cells), 1, sharex=True, squeeze=False)[:, 0], cells, strict=True
        ):
            stage = "stage 1" if part == "stage1" else "stage 2, fine-tuning"
            axes.set_title(f"{stage}, {size}, {texts}")
            own = rows["system"].str.startswith("poolwise")
            names = rows["system"].str.replace(
                ", best settings, with poolwise's allocator settings", ", best, and our allocator"
            )
            axes.barh(names, rows["to_defaults"], color=[COLOURS[0] if ours else "#999999" for ours in own])
            for place, (_, row) in enumerate(rows.iterrows()):
                axes.text(
                    row["to_defaults"],
                    place,
                    f" {row['to_defaults']:.1f} x, {row['tokens_per_second']:,.0f} tokens/s, "
                    f"{100 * row['share_of_limit']:.0f} % of the limit",
                    va="center",
                )
            axes.invert_yaxis()
            axes.set_xlim(0, 2.1 * table["to_defaults"].max())
        axes.set_xlabel("real tokens a second, times those of Trainer with its defaults")
    return figure


def lines(results: pandas.DataFrame, table: pandas.DataFrame) -> Iterator[str]:
    """The tables as Markdown."""
    yield "| part, size, texts | system | tokens/s | x defaults | x best (least, most) | share of limit | peak MiB |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for _, row in table.iterrows():
        best = f"{row['to_best']:.2f} ({row['to_best_min']:.2f} to {row['to_best_max']:.2f})"
        yield (
            f"| {row['part']}, {row['size']}, {row['texts']} | {row['system']} | {row['tokens_per_second']:,.0f} "
            f"| {row['to_defaults']:.2f} | {best} | {100 * row['share_of_limit']:.0f} % | {row['peak_mib']:,.0f} |"
        )
    for part, title, columns in (
        ("loss", "dev MLM loss", ["seconds", "steps", "dev_loss"]),
        ("frozen", "frozen", ["seconds", "jobs"]),
        ("growth", "growth", ["all_seconds", "peak_mib"]),
    ):
        rows = results[results["part"] == part].reindex(columns=["system", *columns])
        if len(rows):
            yield ""
            yield f"| {title} | {' | '.join(columns)} |"
            yield f"|---|{'--:|' * len(columns)}"
            for _, row in rows.iterrows():
                cells = ["" if pandas.isna(row[name]) else f"{row[name]:,.4g}" for name in columns]
                yield f"| {row['system']} | {' | '.join(cells)} |"


def main() -> None:
    """Write `summary.csv` and `throughput.svg`, and print the tables as Markdown."""
    results = pandas.read_csv(HERE / "results.csv")
    table = summary(results)
    table.to_csv(HERE / "summary.csv", index=False, float_format="%.4g")
    drawn(table).savefig(HERE / "throughput.svg")
    print("\n".join(lines(results, table)))


if __name__ == "__main__":
    main()
