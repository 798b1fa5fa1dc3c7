"""Train one model in several processes, on the worst tenth of all rows, whichever process they are in.

    torchrun --nproc-per-node 2 examples/train_together.py

This is an ordinary script with one more parameter. Here, each process is given all rows and takes its share of every
batch; with ``distributed="sharded"``, each process would load rows of its own. The risk is taken over the whole batch,
that is, over the rows of all processes together.
"""

import os

from sklearn.datasets import load_digits

from riskvae import RiskAwareVAE
from riskvae.metrics import tail_loss_scorer


def main():
    """Train in all processes, and let the first one print the result."""
    X = load_digits().data.astype("float32") / 16
    vae = RiskAwareVAE(
        n_components=8, eps=0.1, early_stopping=True, lr=3e-3, random_state=0, distributed="replicated"
    ).fit(X)
    # Each process now has the whole model, and may go on by itself.
    if os.environ["RANK"] == "0":
        print(f"{vae.n_iter_} epochs, epoch {vae.best_iter_} kept by all of {os.environ['WORLD_SIZE']} processes")
        print(
            f"worst tenth: {-tail_loss_scorer(0.1)(vae, X):.2f} nats; all rows: {vae.reconstruction_loss(X).mean():.2f}"
        )
    return vae


if __name__ == "__main__":
    main()
