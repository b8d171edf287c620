"""What a training step spends its time on, on a CPU: `step.csv`.

    python experiments/throughput/step.py ../shared/data FOLDER [tiny] [minilm] [base] [tiny:16] [minilm:16]

`FOLDER` is that of `bench.py`. Lines of `mr`, stage 1 in batches of 64, MLM alone, or fine-tuning in batches of 16:
milliseconds a step without the profiler, and with torch's, by kind of operation; what is in none of these is Python and
Lightning. Beside it the operations a second of the matrix products in their time, and of one large product (`limit`)
before and after.
"""

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from poolwise import app, machine

machine.prepare()  # before torch is loaded

import lightning  # noqa: E402
import pandas  # noqa: E402
import torch  # noqa: E402
from bench import HERE, asked, bf16_pays, needed_flops, shared_settings  # noqa: E402
from torch.profiler import ProfilerActivity, profile, record_function  # noqa: E402
from worker import limit  # noqa: E402

from poolwise import dropout  # noqa: E402
from poolwise.cross_entropy import ROWS  # noqa: E402
from poolwise.stages import mlm  # noqa: E402
from poolwise.stages.loop import choices_of, work_of_step  # noqa: E402

STEPS = {
    "tiny": (60, 60, 20),
    "minilm": (30, 30, 20),
    "base": (10, 10, 6),
    "tiny:16": (150, 100, 40),
    "minilm:16": (100, 60, 40),
}
"""Of each size, and of its fine-tuning: how many make ready, are timed, and are profiled."""
STAGE1 = ("stage=mlm", "objective=none", "pretraining.batch_size=64")
STAGE2 = ("stage=sentiment", "encoder=base", "repr=pooler", "protocol.epochs=1", "protocol.batch_size=16")
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


def step_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """Train, and tell what a step spent."""
    steps, size = STEPS[name], name.partition(":")[0]
    _, timed, profiled = steps
    is_stage1 = name == size
    given = [*STAGE1, f"budget={sum(steps)}steps"] if is_stage1 else STAGE2
    job = app.planned(app.composed(app.prepared([*given, *shared_settings(folder, size, "mr")])), [])
    stage, texts = job.build()
    threads, before = torch.get_num_threads(), limit(bf16_pays())
    machine.fit_threads(work_of_step(stage, texts), texts.workers)
    watch = Watch(*steps)
    lengths = {"limit_val_batches": 0, "max_epochs": -1, "max_steps": sum(steps)}
    arguments = machine.trainer_arguments(job.settings.trainer) | lengths
    trainer = lightning.Trainer(
        **arguments, **choices_of(job), callbacks=[watch], logger=False, enable_checkpointing=False
    )
    trainer.fit(stage, texts)
    torch.set_num_threads(threads)
    after = limit(bf16_pays())
    weights = {tuple(parameter.shape) for parameter in stage.parameters()}
    found = spent(watch.profile, profiled, weights, stage.model.config.vocab_size if is_stage1 else 0)
    flops = needed_flops(folder, size, "mr", "stage1" if is_stage1 else "stage2") * watch.tokens / profiled
    rows: list[dict[str, Any]] = [
        {"kind": "a step, without the profiler", "milliseconds": 1000 * watch.seconds / timed}
    ]
    rows += [{"kind": "operations of torch, with it", "milliseconds": sum(found.values())}]
    rows += [{"kind": kind, "milliseconds": milliseconds} for kind, milliseconds in found.most_common()]
    rows += [{"kind": "products, operations a second", "rate": 1000 * flops / found["matrix products"]}]
    rows += [{"kind": "one large product, operations a second", "rate": (before + after) / 2}]
    return [{"size": name} | row for row in rows]


def main() -> None:
    """Write what a step of each size spends."""
    folder, chosen = asked(__doc__, STEPS)
    mlm.PROBES = 0
    dropout.random_bits = record_function("aten::random_bits")(dropout.random_bits)  # numpy draws them
    file = HERE / "step.csv"
    table = pandas.read_csv(file) if file.exists() else pandas.DataFrame(columns=["size"])
    for size in chosen:
        table = pandas.concat([table[table["size"] != size], pandas.DataFrame(step_of(folder, size))])
        table.to_csv(file, index=False, float_format="%.4g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
