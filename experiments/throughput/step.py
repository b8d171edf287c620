"""What a step of stage 1 spends its time on, on a CPU: `step.csv`.

    python experiments/throughput/step.py ../shared/data FOLDER

`FOLDER` is that of `bench.py`. minilm on lines of `mr` in batches of 64, MLM alone: milliseconds a step without the
profiler, and with torch's, by kind of operation; what is in none of these is Python and Lightning.
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
from bench import HERE, prepare, shared_settings  # noqa: E402
from torch.profiler import ProfilerActivity, profile, record_function  # noqa: E402

from poolwise import dropout  # noqa: E402
from poolwise.stages import mlm  # noqa: E402
from poolwise.stages.loop import choices_of, work_of_step  # noqa: E402

FIRST, TIMED, PROFILED = 10, 30, 20
"""Steps that make ready, that are timed, and that are profiled."""
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

    def __init__(self) -> None:
        self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
        self.begun = self.seconds = 0.0

    def on_train_batch_start(self, trainer: Any, stage: Any, batch: Any, batch_idx: int) -> None:
        """Begin what begins with this step."""
        if trainer.global_step == FIRST:
            self.begun = time.perf_counter()
        if trainer.global_step == FIRST + TIMED:
            self.seconds = time.perf_counter() - self.begun
            self.profile.start()

    def on_train_batch_end(self, trainer: Any, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End with the last step."""
        if trainer.global_step == FIRST + TIMED + PROFILED:
            self.profile.stop()


def spent(profiled: profile, weights: set[tuple[int, ...]]) -> Counter[str]:
    """Milliseconds a step by kind of operation; copies of what has the shape of a weight apart."""
    found: Counter[str] = Counter()
    for event in profiled.key_averages(group_by_input_shape=True):
        if not event.key.startswith("aten::"):
            continue  # ranges around operations, such as a whole step
        kind = next((kind for kind, names in KINDS.items() if re.search(names, event.key)), "elementwise")
        of_weights = bool(event.input_shapes) and tuple(event.input_shapes[0]) in weights
        if kind == "copies":
            kind = "copies of weights and their gradients" if of_weights else "copies of states"
        elif event.key == "aten::mul_" and of_weights:
            kind = "norm of the gradient"  # what clips by it
        found[kind] += event.self_cpu_time_total / 1000 / PROFILED
    return found


def main() -> None:
    """Train, and write what a step spent."""
    data, folder = (Path(each).absolute() for each in sys.argv[1:3])
    prepare(data, folder)
    mlm.PROBES = 0
    dropout.random_bits = record_function("aten::random_bits")(dropout.random_bits)  # numpy draws them
    length = f"budget={FIRST + TIMED + PROFILED}steps"
    given = ["stage=mlm", "objective=none", "pretraining.batch_size=64", length]
    job = app.planned(app.composed(app.prepared([*given, *shared_settings(folder, "minilm", "mr")])), [])
    stage, texts = job.build()
    machine.fit_threads(work_of_step(stage, texts), texts.workers)
    watch = Watch()
    arguments = machine.trainer_arguments(job.settings.trainer) | {"limit_val_batches": 0, "max_epochs": -1}
    trainer = lightning.Trainer(
        **arguments, **choices_of(job), callbacks=[watch], logger=False, enable_checkpointing=False
    )
    trainer.fit(stage, texts)
    found = spent(watch.profile, {tuple(parameter.shape) for parameter in stage.parameters()})
    rows = [{"kind": "a step, without the profiler", "milliseconds": 1000 * watch.seconds / TIMED}]
    rows += [{"kind": "operations of torch, with it", "milliseconds": sum(found.values())}]
    rows += [{"kind": kind, "milliseconds": milliseconds} for kind, milliseconds in found.most_common()]
    table = pandas.DataFrame(rows)
    table.to_csv(HERE / "step.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
