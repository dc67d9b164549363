"""The project's folder, a package so that its tests are `reproduction.tests` and not a second `tests`."""
