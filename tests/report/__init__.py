"""Tests of matryoshka2d.report."""
