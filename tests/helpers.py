"""What several tests call."""


def small(cls, **parameters):
    """Estimator that fits in milliseconds."""
    return cls(**{"n_components": 2, "hidden_layer_sizes": (16,), "max_epochs": 3, "random_state": 0, **parameters})
