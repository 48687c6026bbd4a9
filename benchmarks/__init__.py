"""What is claimed about speed, runnable: `make bench`, or one of `python -m benchmarks.{training,sampling,...}`."""
