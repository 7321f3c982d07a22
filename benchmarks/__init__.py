"""Side-by-side measurements against peers, by `python -m benchmarks`. Never timed tests: nothing here fails a build."""
