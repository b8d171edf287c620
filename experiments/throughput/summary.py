"""Tables and figure of `results.csv`: medians over rounds, ratios, and the share of the machine's limit.

    python experiments/throughput/summary.py

writes the tables into README.md, between the marks that are there, `summary.csv` and `throughput.svg`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas

matplotlib.use("svg")
from matplotlib.figure import Figure

from poolwise.compare.figures.drawing import COLOURS, STYLE

HERE = Path(__file__).parent
PARTS = {"stage1": "stage 1", "stage2": "stage 2, fine-tuning", "encode": "encoding"}
DEFAULTS = {"stage1": "Trainer, defaults", "stage2": "Trainer, defaults", "encode": "sentence-transformers"}
BEST = DEFAULTS | dict.fromkeys(("stage1", "stage2"), "Trainer, best settings")
MLM_ALONE = dict.fromkeys(PARTS, "poolwise, MLM alone")
BASES = {"to_defaults": DEFAULTS, "to_best": BEST, "to_mlm_alone": MLM_ALONE}
"""Of which system of a round another one's rate is a multiple; `to_best` is of the faster of the peer's two."""
COMBINED = "poolwise, combined"
"""Halves texts and gives each half special tokens, so that it trains on more tokens of the same texts: theirs count."""
RATE_HEADS = (
    *("part, size, texts", "system", "rounds", "tokens/s", "tokens a step", "x defaults", "x best", "(least, most)"),
    *("x MLM alone", "(least, most)", "share of limit", "peak MiB", "anonymous MiB"),
)
PEERS = (
    *("Trainer, defaults", "Trainer, best settings", "Trainer, best settings, with poolwise's allocator settings"),
    "sentence-transformers",
)
"""In the order of a table, before poolwise."""
AIMS = {
    "stage1": {"to_defaults": 10.0, "to_best": 4.0, "share_of_limit": 0.6},
    "stage2": {"to_defaults": 3.0},
    "encode": {"to_best": 1.0},
}
"""The least that a figure shall be; and memory shall be no more than the peer's."""
SLOWER = " **slower**"
"""Marks where poolwise is slower than the best of a peer."""


def summary(results: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each part, size, texts and system: medians over rounds of figures and of ratios within a round."""
    timed = results[results["part"].isin(PARTS) & results["tokens"].notna()].copy()
    cell = ["part", "size", "texts", "round"]
    alone = timed[timed["system"] == timed["part"].map(MLM_ALONE)].set_index(cell)["tokens"]
    combined = timed["system"] == COMBINED
    of_texts = alone.reindex(pandas.MultiIndex.from_frame(timed.loc[combined, cell])).to_numpy()
    timed.loc[combined, "tokens"] = of_texts
    timed["tokens_per_second"] = timed["tokens"] / timed["seconds"]
    timed["tokens_per_step"] = timed["tokens"] / timed["steps"]
    limit = timed.groupby(cell)["limit"].transform("median")  # one of two seconds is the machine's moment
    timed["share_of_limit"] = timed["tokens_per_second"] * timed["flops"] / limit
    of = {name: timed["system"] == timed["part"].map(base) for name, base in BASES.items()}
    for name, rows in {**of, "to_best": of["to_best"] | of["to_defaults"]}.items():  # settings may be best elsewhere
        rates = timed[rows].groupby(cell)["tokens_per_second"].max()
        timed[name] = timed["tokens_per_second"] / rates.reindex(pandas.MultiIndex.from_frame(timed[cell])).to_numpy()
    columns = ["tokens_per_second", "tokens_per_step", "to_defaults", "to_best", "to_mlm_alone", "share_of_limit"]
    columns += ["peak_mib", "anon_mib"]
    found = timed.reindex(columns=[*timed.columns.difference(columns), *columns]).groupby(
        ["part", "size", "texts", "system"], sort=False
    )
    spread = [found[name].agg(["min", "max"]).add_prefix(f"{name}_") for name in BASES]
    table = found[columns].median().join(spread).join(found.size().rename("rounds")).reset_index()
    names = table["part"] + table["size"] + table["texts"]
    places = {name: place for place, name in enumerate(names.unique())}
    own = table["system"].str.startswith("poolwise")  # in turns each system is first in some round
    ranks = own.astype(int) * len(PEERS) + table["system"].map(lambda name: PEERS.index(name) if name in PEERS else 0)
    order = pandas.DataFrame({"place": names.map(places), "rank": ranks}).sort_values(["place", "rank"], kind="stable")
    return table.loc[order.index].reset_index(drop=True)


def drawn(table: pandas.DataFrame) -> Figure:
    """A bar for each system, by part, size and texts: how many times the peer's defaults."""
    cells = list(table.groupby(["part", "size", "texts"], sort=False))
    with matplotlib.style.context(STYLE):
        bars = [len(rows) for _, rows in cells]
        figure = Figure(figsize=(8.5, 0.6 + 0.5 * len(cells) + 0.27 * sum(bars)), layout="constrained")
        panels = figure.subplots(len(cells), 1, sharex=True, squeeze=False, height_ratios=bars)[:, 0]
        for axes, ((part, size, texts), rows) in zip(panels, cells, strict=True):
            axes.set_title(f"{PARTS[part]}, {size}, {texts}")
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
        axes.set_xlabel("real tokens a second, times those of the peer with its defaults")
    return figure


def aims(table: pandas.DataFrame) -> Iterator[str]:
    """What poolwise reached in each part, size and texts, as Markdown; in bold where each round reached the aim."""
    heads = ["part, size, texts", "poolwise", "rounds", "x defaults", "x best", "share of limit"]
    rows = []
    for (part, size, texts), cell in table.groupby(["part", "size", "texts"], sort=False):
        peaks = cell.set_index("system")["peak_mib"]
        for _, row in cell[cell["system"].str.startswith("poolwise")].iterrows():
            least = AIMS[part]
            memory = [row["peak_mib"] / peaks.get(base[part], np.nan) for base in (DEFAULTS, BEST)]
            rows.append(
                [
                    f"{part}, {size}, {texts}",
                    row["system"].removeprefix("poolwise, "),
                    str(row["rounds"]),
                    *(
                        f"{bold(number(row[name], '.2f'), row[f'{name}_min'] >= least.get(name, np.inf))} "
                        f"{least_and_most(row, name)}".strip()
                        for name in ("to_defaults", "to_best")
                    ),
                    bold(
                        number(row["share_of_limit"], ".0%"),
                        row["share_of_limit"] >= least.get("share_of_limit", np.inf),
                    ),
                    *(bold(number(times, ".2f"), times <= 1) for times in memory),
                ]
            )
    yield from markdown([*heads, "memory, x defaults", "memory, x best settings"], rows, words=2)


def bold(words: str, is_met: bool) -> str:
    """A figure, marked where it is what was aimed for."""
    return f"**{words}**" if is_met else words


def lines(results: pandas.DataFrame, table: pandas.DataFrame) -> Iterator[str]:
    """The tables of all figures as Markdown."""
    yield from markdown(
        RATE_HEADS,
        [rate_cells(row) for _, row in table.iterrows()],
        words=2,
    )
    runs = results[results["part"] == "loss"]
    if len(runs):
        columns = ["system", "round", "seconds", "steps", "dev_loss"]
        yield from markdown(
            ["dev MLM loss", "seed", *columns[2:]], plain_cells(runs.assign(round=runs["round"] + 1), columns)
        )
        yield from markdown(
            [
                *("to the dev MLM loss of", "seed", "dev MLM loss", "seconds", "seconds of poolwise", "times as fast"),
                *("steps", "steps of poolwise"),
            ],
            list(loss_cells(runs)),
        )
    frozen = results[results["part"] == "frozen"]
    if len(frozen):
        heads = ["frozen", "seconds", "x one pass of sentence-transformers", "jobs", "peak MiB", "anonymous MiB"]
        yield from markdown(heads, frozen_cells(frozen))
    starts = medians(results, "start")
    if len(starts):
        yield from markdown(["start", "seconds"], plain_cells(starts, ["system", "seconds"]))
    grown = results[results["part"] == "growth"]
    if len(grown):
        heads = ["growth", "call", "seconds in all", "seconds of training", "steps", "peak MiB", "anonymous MiB"]
        columns = ["system", "call", "all_seconds", "seconds", "steps", "peak_mib", "anon_mib"]
        yield from markdown(heads, plain_cells(grown, columns))


def medians(results: pandas.DataFrame, part: str) -> pandas.DataFrame:
    """Of each system of a part, over rounds."""
    rows = results[results["part"] == part]
    return rows.groupby("system", sort=False).median(numeric_only=True).reset_index()


def frozen_cells(rows: pandas.DataFrame) -> list[list[str]]:
    """Of the passes over frozen encoders, as multiples of the peer's of a round; the start of the program is none."""
    peer = rows[rows["system"].str.startswith("sentence-transformers")].set_index("round")["seconds"]
    times = rows["seconds"] / rows["round"].map(peer)
    passes = rows.assign(times=times.where(~rows["system"].str.contains("start of the program")))
    table = medians(passes, "frozen")
    found = plain_cells(table, ["system", "seconds", "times", "jobs", "peak_mib", "anon_mib"])
    for cells, (_, row) in zip(found, table.iterrows(), strict=True):
        if row["system"].startswith("poolwise, a probe") and row["times"] > 1:
            cells[2] += SLOWER
    return found


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> Iterator[str]:
    """A table, of which so many columns are words; an empty line after it."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * words}{'--:|' * (len(heads) - words)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def number(value: float, form: str = ",.4g") -> str:
    """A figure; nothing where there is none."""
    return "" if pandas.isna(value) else format(value, form)


def plain_cells(rows: pandas.DataFrame, columns: Sequence[str]) -> list[list[str]]:
    """Of each row the system and figures."""
    taken = rows.reindex(columns=columns)
    return [[row.iloc[0], *(number(value) for value in row.iloc[1:])] for _, row in taken.iterrows()]


def rate_cells(row: pandas.Series) -> list[str]:
    """Of a system in a part, size and texts."""
    slower = SLOWER if row["system"].startswith("poolwise") and row["to_best"] < 1 else ""
    beside_alone = row["system"].startswith("poolwise, ") and row["to_mlm_alone"] != 1
    return [
        f"{row['part']}, {row['size']}, {row['texts']}",
        row["system"],
        str(row["rounds"]),
        number(row["tokens_per_second"], ",.0f"),
        number(row["tokens_per_step"], ",.0f"),
        number(row["to_defaults"], ".2f"),
        number(row["to_best"], ".2f") + slower,
        least_and_most(row, "to_best"),
        number(row["to_mlm_alone"], ".2f") if beside_alone else "",
        least_and_most(row, "to_mlm_alone") if beside_alone else "",
        number(row["share_of_limit"], ".0%"),
        number(row["peak_mib"], ",.0f"),
        number(row["anon_mib"], ",.0f"),
    ]


def least_and_most(row: pandas.Series, name: str) -> str:
    """Of a ratio, where there are several rounds and it is known."""
    known = row["rounds"] > 1 and not pandas.isna(row[name])
    return f"({row[f'{name}_min']:.2f}, {row[f'{name}_max']:.2f})" if known else ""


def loss_cells(runs: pandas.DataFrame) -> Iterator[list[str]]:
    """Of each peer and seed: its loss, and how long poolwise needs to it, in seconds and in steps."""
    for (_, round_), rows in runs.groupby(["size", "round"]):
        own = rows["system"].str.startswith("poolwise")
        for _, peer in rows[~own].iterrows():
            seconds, bound = needed_to(peer["dev_loss"], rows[own], "seconds")
            steps, _ = needed_to(peer["dev_loss"], rows[own], "steps")
            ratio = peer["seconds"] / seconds
            sign = {"": "", "at most": "at least ", "more than": "less than "}[bound]
            slower = SLOWER if ratio < 1 else ""
            yield [
                peer["system"],
                str(round_ + 1),
                number(peer["dev_loss"]),
                number(peer["seconds"]),
                f"{bound} {number(seconds)}".strip(),
                f"{sign}{ratio:.2f}{slower}",
                number(peer["steps"]),
                f"{bound} {number(steps, ',.0f')}".strip(),
            ]


def needed_to(loss: float, runs: pandas.DataFrame, of: str) -> tuple[float, str]:
    """Seconds, or steps, of training to a dev loss, and in what sense they are a bound.

    Between the last of the longer and longer runs before the first one that reaches it and that one: linear in the
    logarithm.
    """
    runs = runs.sort_values("seconds")
    needed, losses = runs[of].to_numpy(), runs["dev_loss"].to_numpy()
    reached = np.flatnonzero(losses <= loss)
    if not len(reached):
        return float(needed[-1]), "more than"
    first = int(reached[0])
    if first == 0:
        return float(needed[0]), "at most"
    share = (losses[first - 1] - loss) / (losses[first - 1] - losses[first])
    return float(np.exp((1 - share) * np.log(needed[first - 1]) + share * np.log(needed[first]))), ""


def with_tables(page: str, results: pandas.DataFrame, table: pandas.DataFrame) -> str:
    """A page whose tables, each block between its two marks, are those of these figures."""
    for name, rows in {"aims": aims(table), "figures": lines(results, table)}.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, after = page.split(begin)[0], page.split(end)[1]
        page = "\n".join([before + begin, *rows, end + after])
    return page


def main() -> None:
    """Write `summary.csv` and `throughput.svg`, and the tables into the page."""
    results = pandas.read_csv(HERE / "results.csv")
    table = summary(results)
    table.to_csv(HERE / "summary.csv", index=False, float_format="%.4g")
    drawn(table).savefig(HERE / "throughput.svg")
    page = HERE / "README.md"
    page.write_text(with_tables(page.read_text(), results, table))


if __name__ == "__main__":
    main()
