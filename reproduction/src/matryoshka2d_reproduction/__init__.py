"""Experiments: plans of methods, seeds, backbones and data, run once each and compared with intervals."""
