"""Records a model in training: the trajectory that a checkpoint at every step would give."""
