"""Models in training, and the callbacks of the libraries that train them."""
