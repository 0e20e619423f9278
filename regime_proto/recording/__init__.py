"""Records a model during training, as if a checkpoint had been saved at every step."""
