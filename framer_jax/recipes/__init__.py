"""Recipes: one published way to train a super-resolver each, and FRAMER, a function from recipe to recipe."""
