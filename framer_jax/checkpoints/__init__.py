"""Files and recipes: opening weights with their recipe, their dependencies and identity, published layouts, merging."""
