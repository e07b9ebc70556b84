"""Speech to units: an SSL encoder cut at one layer, a k-means codebook, and runs."""
