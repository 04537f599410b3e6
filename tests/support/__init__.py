"""What tests share: places, drawn weights, tiny photographs, configurations, models and checkpoints."""
