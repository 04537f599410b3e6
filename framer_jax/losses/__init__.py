"""Training losses as pure functions of arrays that return one value per example."""
