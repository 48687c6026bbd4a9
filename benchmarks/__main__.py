"""Run the benchmarks one after another; nothing else should run on the machine."""

from benchmarks import sampling, training

for title, bench in (("Training", training.main), ("Sampling", sampling.main)):
    print(f"\n{title}")
    bench([])
