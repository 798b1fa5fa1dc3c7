"""A grid search on a cluster: the same code runs on one machine or on many, with a network of your own.

    python examples/grid_on_cluster.py              two worker processes on this machine
    python examples/grid_on_cluster.py ADDRESS      the cluster whose scheduler listens there

It needs the extra ``cluster``: ``pip install '.[cluster]'`` in a clone. The digits are sent to each worker once, not
with every candidate. The result is right even if a worker is lost: another worker then repeats its work.
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
    """Build convolutions over images of 8 by 8 pixels; the workers get this function from the script."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, n_out),
    )


def search(X, folds):
    """Search over the share of the losses that counts (eps) and the weight of the KL term, by the worst tenth."""
    pipeline = make_pipeline(
        MinMaxScaler(),
        RiskAwareVAE(n_components=8, encoder=encoder, likelihood="bernoulli", max_epochs=60, lr=5e-3, random_state=0),
    )
    grid = {"riskawarevae__eps": [0.1, 0.5], "riskawarevae__beta": [0.5, 1.0]}
    return GridSearchCV(pipeline, grid, scoring=tail_loss_scorer(0.1), cv=folds, error_score="raise").fit(X)


def main(address=None):
    """Search on a cluster, and print what it found."""
    X, _ = train_test_split(load_digits().data.astype("float32"), test_size=0.25, random_state=0)
    # One thread per worker: several candidates side by side are faster than one candidate on several threads.
    local = nullcontext(address) if address else LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    # All workers get the row numbers of the folds, too: data that only one worker holds would be lost with it.
    folds = list(KFold(3).split(X))
    with local as cluster, Client(cluster) as client:
        # Dask's memory manager would remove the extra copies again, and the last copy would be lost with its worker.
        client.amm.stop()
        with joblib.parallel_config("dask", scatter=[X, *chain(*folds)]):
            found = search(X, folds)
    for parameters, score in zip(found.cv_results_["params"], found.cv_results_["mean_test_score"], strict=True):
        print({name.removeprefix("riskawarevae__"): value for name, value in parameters.items()}, f"{score:.4f}")
    print("best:", {name.removeprefix("riskawarevae__"): value for name, value in found.best_params_.items()})
    return found


if __name__ == "__main__":
    main(*sys.argv[1:2])
