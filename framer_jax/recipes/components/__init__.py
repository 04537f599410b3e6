"""What several methods are made of: latent spaces, text, networks, a teacher, perceptual terms."""
