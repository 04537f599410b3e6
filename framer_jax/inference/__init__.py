"""What a person does with a trained recipe: read pictures, upscale them by tiles, fix colours, write them."""
