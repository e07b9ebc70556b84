"""Units to speech: a unit HiFi-GAN with duration predictor, its training, and the vocoders that are loaded by name."""
