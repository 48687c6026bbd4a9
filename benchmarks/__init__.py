"""What is claimed about speed and quality, runnable: `make bench`, or one of `python -m benchmarks.{training,...}`."""
