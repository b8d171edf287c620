"""What a step of stage 1 spends its time on, on a CPU: `step.csv`.

    python experiments/throughput/step.py ../shared/data FOLDER [tiny] [minilm] [base]

`FOLDER` is that of `bench.py`. Lines of `mr` in batches of 64, MLM alone: milliseconds a step without the profiler, and
with torch's, by kind of operation; what is in none of these is Python and Lightning. Beside it the operations a second
of the matrix products in their time, and of one large product (`limit`) before and after.
"""

import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from poolwise import app, machine

machine.prepare()  # before torch is loaded

import lightning  # noqa: E402
import pandas  # noqa: E402
import torch  # noqa: E402
from bench import HERE, bf16_pays, needed_flops, prepare, shared_settings  # noqa: E402
from torch.profiler import ProfilerActivity, profile, record_function  # noqa: E402
from worker import limit  # noqa: E402

from poolwise import dropout  # noqa: E402
from poolwise.cross_entropy import ROWS  # noqa: E402
from poolwise.stages import mlm  # noqa: E402
from poolwise.stages.loop import choices_of, work_of_step  # noqa: E402

STEPS = {"tiny": (60, 60, 20), "minilm": (30, 30, 20), "base": (10, 10, 6)}
"""Of each size, that make ready, that are timed, and that are profiled."""
KINDS = {
    "optimiser": "adamw",
    "norm of the gradient": "linalg_vector_norm|foreach_norm|foreach_mul|clamp",
    "matrix products": "mm$|bmm|addmm|linear|matmul|mkldnn",
    "random bits of dropout": "random",
    "loss": "log_softmax|nll_loss|cross_entropy",
    "softmax of attention": "softmax",
    "layer norm": "layer_norm",
    "activation": "gelu|tanh",
    "embedding": "embedding|index_select|index_add|index_put|gather",
    "copies": "copy|clone|contiguous|cat$|fill_|zero_",
}
"""Of operations, by what their names hold; all others are elementwise."""


class Watch(lightning.Callback):
    """Times some steps, and profiles those after them."""

    def __init__(self, first: int, timed: int, profiled: int) -> None:
        self.first, self.timed, self.profiled = first, first + timed, first + timed + profiled
        self.tokens = 0
        self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
        self.begun = self.seconds = 0.0

    def on_train_batch_start(self, trainer: Any, stage: Any, batch: Any, batch_idx: int) -> None:
        """Begin what begins with this step."""
        if trainer.global_step == self.first:
            self.begun = time.perf_counter()
        if trainer.global_step == self.timed:
            self.seconds = time.perf_counter() - self.begun
            self.tokens = stage.tokens
            self.profile.start()

    def on_train_batch_end(self, trainer: Any, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End with the last step."""
        if trainer.global_step == self.profiled:
            self.profile.stop()
            self.tokens = stage.tokens - self.tokens


def spent(profiled: profile, steps: int, weights: set[tuple[int, ...]], vocabulary: int) -> Counter[str]:
    """Milliseconds of each of `steps` by kind of operation; copies of what has the shape of a weight apart.

    All that is done with a few rows of the vocabulary is the loss.
    """
    found: Counter[str] = Counter()
    for event in profiled.key_averages(group_by_input_shape=True):
        if not event.key.startswith("aten::"):
            continue  # ranges around operations, such as a whole step
        kind = next((kind for kind, names in KINDS.items() if re.search(names, event.key)), "elementwise")
        shape = tuple(event.input_shapes[0]) if event.input_shapes else ()
        of_weights = shape in weights
        if kind != "matrix products" and len(shape) == 2 and shape[0] <= ROWS and shape[1] == vocabulary:
            kind = "loss"
        if kind == "copies":
            kind = "copies of weights and their gradients" if of_weights else "copies of states"
        elif event.key == "aten::mul_" and of_weights:
            kind = "norm of the gradient"  # what clips by it
        found[kind] += event.self_cpu_time_total / 1000 / steps
    return found


def step_of(folder: Path, size: str) -> list[dict[str, Any]]:
    """Train, and tell what a step spent."""
    _, timed, profiled = STEPS[size]
    given = ["stage=mlm", "objective=none", "pretraining.batch_size=64", f"budget={sum(STEPS[size])}steps"]
    job = app.planned(app.composed(app.prepared([*given, *shared_settings(folder, size, "mr")])), [])
    stage, texts = job.build()
    threads, before = torch.get_num_threads(), limit(bf16_pays())
    machine.fit_threads(work_of_step(stage, texts), texts.workers)
    watch = Watch(*STEPS[size])
    arguments = machine.trainer_arguments(job.settings.trainer) | {"limit_val_batches": 0, "max_epochs": -1}
    trainer = lightning.Trainer(
        **arguments, **choices_of(job), callbacks=[watch], logger=False, enable_checkpointing=False
    )
    trainer.fit(stage, texts)
    torch.set_num_threads(threads)
    after = limit(bf16_pays())
    weights = {tuple(parameter.shape) for parameter in stage.parameters()}
    found = spent(watch.profile, profiled, weights, stage.model.config.vocab_size)
    flops = needed_flops(folder, size, "mr", "stage1") * watch.tokens / profiled
    rows: list[dict[str, Any]] = [
        {"kind": "a step, without the profiler", "milliseconds": 1000 * watch.seconds / timed}
    ]
    rows += [{"kind": "operations of torch, with it", "milliseconds": sum(found.values())}]
    rows += [{"kind": kind, "milliseconds": milliseconds} for kind, milliseconds in found.most_common()]
    rows += [{"kind": "products, operations a second", "rate": 1000 * flops / found["matrix products"]}]
    rows += [{"kind": "one large product, operations a second", "rate": (before + after) / 2}]
    return [{"size": size} | row for row in rows]


def main() -> None:
    """Write what a step of each size spends."""
    data, folder = (Path(each).absolute() for each in sys.argv[1:3])
    prepare(data, folder)
    mlm.PROBES = 0
    dropout.random_bits = record_function("aten::random_bits")(dropout.random_bits)  # numpy draws them
    chosen, file = sys.argv[3:] or list(STEPS), HERE / "step.csv"
    table = pandas.read_csv(file) if file.exists() else pandas.DataFrame(columns=["size"])
    for size in chosen:
        table = pandas.concat([table[table["size"] != size], pandas.DataFrame(step_of(folder, size))])
        table.to_csv(file, index=False, float_format="%.4g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
