"""Parts that methods share: latent spaces, text conditioning, networks, a teacher, perceptual terms."""
