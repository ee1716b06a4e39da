"""Measures trained matchers: python eval.py --workdir=DIR[,DIR...] [--output=DIR].

The config lies in the workdir; several are evaluated as one, their embeddings side by side. A
matcher without parameters has no workdir: python eval.py --config=configs/color_histogram.py.
Writes results.json, ranks.parquet (every query's) and results.html; of a detector detection.json.
"""

from grnet_jax.commands import eval_main

if __name__ == "__main__":
    eval_main()
