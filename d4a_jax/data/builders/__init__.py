"""tfds builders that prepare data sets without TensorFlow."""
