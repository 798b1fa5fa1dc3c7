"""What tests/test_cluster.py runs by itself: one search in this process, and one on two workers of which one dies."""

import json
import os
import signal
import threading
import time
import warnings
from itertools import chain

import dask
import joblib
import numpy as np
from dask.distributed import Client, LocalCluster
from grid_on_cluster import search
from sklearn.datasets import load_digits
from sklearn.model_selection import KFold


class Counted(Client):
    """Remembers how often large arrays were sent."""

    sent = 0

    def scatter(self, data, *args, **kwargs):
        Counted.sent += sum(isinstance(part, np.ndarray) and part.nbytes > 1e5 for part in data)
        return super().scatter(data, *args, **kwargs)


def kill_one(client, killed):
    """End one worker's process, as a machine does that fails, while it works on something.

    Not at once: dask's memory manager, which drops copies of data every two seconds, has had time to do so.
    """
    time.sleep(5)
    while not killed:
        for address, tasks in client.processing().items():
            pid = client.run(os.getpid, workers=[address])[address] if tasks else None
            if pid is not None:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.02)


def main():
    X = load_digits().data.astype("float32")
    folds = list(KFold(3).split(X))
    alone = search(X, folds).cv_results_
    # A graph that holds the data is told.
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "100kB"})
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Counted(cluster) as client,
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        threads = client.run(lambda: __import__("torch").get_num_threads())
        client.amm.stop()  # As in the example: it would drop the copies that outlive a worker.
        killed = []
        thread = threading.Thread(target=kill_one, args=(client, killed), daemon=True)
        with joblib.parallel_config("dask", scatter=[X, *chain(*folds)]):
            thread.start()
            found = search(X, folds).cv_results_
        thread.join(timeout=60)
    splits = [name for name in alone if name.startswith("split")]
    print(
        json.dumps(
            {
                "equal": all(np.array_equal(alone[name], found[name]) for name in splits),
                "n_splits": len(splits),
                "killed": len(killed),
                "sent": Counted.sent,
                "threads": sorted(set(threads.values())),
                "large": [str(warning.message) for warning in told if "large graph" in str(warning.message)],
            }
        )
    )


if __name__ == "__main__":
    main()
