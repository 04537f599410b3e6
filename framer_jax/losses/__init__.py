"""Loss terms as pure functions of arrays that return one value per example; docs/equations.md lists them."""
