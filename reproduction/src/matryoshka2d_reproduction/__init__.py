"""The experiments behind the results of matryoshka2d: plans, runs, comparisons and reports."""
