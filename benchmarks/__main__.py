"""Run the benchmarks one after another; nothing else should run on the machine."""

from benchmarks import data_import, sampling, sharing, training

for title, bench in (("Training", training.main), ("Sampling", sampling.main), ("Data import", data_import.main),
                     ("Sampling beside training", sharing.main)):  # fmt: skip
    print(f"\n{title}", flush=True)
    bench([])
