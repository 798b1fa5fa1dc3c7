"""A grid search on a cluster: the same code on one machine or many, with a network of your own.

    python examples/grid_on_cluster.py              two worker processes on this machine
    python examples/grid_on_cluster.py ADDRESS      the cluster whose scheduler listens there

Needs the extra ``cluster``: ``pip install '.[cluster]'`` in a clone. The digits are sent to each worker once, not
with every candidate, and the result is right even when a worker is lost: another one does its work again.
"""

import sys
from contextlib import nullcontext
from itertools import chain

import joblib
from dask.distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from torch import nn

from riskvae import RiskAwareVAE
from riskvae.metrics import tail_loss_scorer


def encoder(n_in, n_out):
    """Convolutions over images of 8 by 8: defined here, and known to the workers all the same."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, n_out),
    )


def search(X, folds):
    """Grid over the tail that training looks at and the weight of the KL term, scored on the worst tenth."""
    pipeline = make_pipeline(
        MinMaxScaler(),
        RiskAwareVAE(n_components=8, encoder=encoder, likelihood="bernoulli", max_epochs=60, lr=5e-3, random_state=0),
    )
    grid = {"riskawarevae__eps": [0.1, 0.5], "riskawarevae__beta": [0.5, 1.0]}
    return GridSearchCV(pipeline, grid, scoring=tail_loss_scorer(0.1), cv=folds, error_score="raise").fit(X)


def main(address=None):
    """Search on a cluster, print what it found."""
    X, _ = train_test_split(load_digits().data.astype("float32"), test_size=0.25, random_state=0)
    # One thread for each worker: several candidates side by side are faster than one on several threads.
    local = nullcontext(address) if address else LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    # Rows of the folds, too, go to all workers: what only one of them holds is gone with it.
    folds = list(KFold(3).split(X))
    with local as cluster, Client(cluster) as client:
        # Dask's memory manager would drop copies again, and the last one goes with its worker.
        client.amm.stop()
        with joblib.parallel_config("dask", scatter=[X, *chain(*folds)]):
            found = search(X, folds)
    for parameters, score in zip(found.cv_results_["params"], found.cv_results_["mean_test_score"], strict=True):
        print({name.removeprefix("riskawarevae__"): value for name, value in parameters.items()}, f"{score:.4f}")
    print("best:", {name.removeprefix("riskawarevae__"): value for name, value in found.best_params_.items()})
    return found


if __name__ == "__main__":
    main(*sys.argv[1:2])
