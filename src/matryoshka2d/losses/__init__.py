"""One loss over every size of one pass: an objective, a strategy, and how a step spares memory."""
