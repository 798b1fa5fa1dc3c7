"""BetaVAE: the evidence lower bound with a weighted KL term."""

import os
from collections.abc import Sequence
from typing import Any

from riskvae.estimators._base import BaseVAE
from riskvae.estimators._types import (
    Activation,
    Auto,
    Device,
    Distributed,
    Learned,
    LikelihoodLike,
    Network,
    OutputActivation,
    Precision,
    RandomState,
)

__all__ = ["BetaVAE"]


class BetaVAE(BaseVAE):
    r"""Variational autoencoder with a weighted KL term.

    The model minimizes, over the encoder q and the decoder p,

    .. math:: \frac1N \sum_i -E_{q(z|x_i)} \log p(x_i|z) + \beta \, \mathrm{KL}(q(z|x_i) \,\|\, N(0, I)).

    ``beta=1`` is the standard variational autoencoder. Larger values trade reconstruction quality for latent
    coordinates that are closer to independent.

    Parameters stand in three groups: the model (``n_components`` to ``scale_offset``), training (``max_epochs`` to
    ``random_state``), and execution (``n_score_samples`` to ``compile``).

    Parameters
    ----------
    n_components : int, default=10
        Number of latent dimensions.
    beta : float, default=1.0
        Weight of the KL term, at least 0.
    hidden_layer_sizes : sequence of int, default=(512, 256)
        Widths of the encoder's hidden layers; the decoder mirrors them. Empty for a linear model.
    activation : str, default="relu"
        Hidden activation: "relu", "leaky_relu", "elu", "gelu", "silu", "tanh" or "softplus".
    encoder, decoder : callable, default=None
        Factories ``(n_in, n_out) -> nn.Module`` that replace the multilayer perceptrons, such as
        :func:`riskvae.nets.conv_encoder`. The encoder returns ``2 * n_components`` values per row in one tensor: the
        means, then raw scales, which go through a softplus. Functions and classes of an importable file, and partials
        of them, can be pickled. Others need cloudpickle, which joblib uses for its workers.
    likelihood : {"gaussian", "bernoulli"} or Likelihood, default="gaussian"
        Observation model. "bernoulli" needs X in [0, 1]. An object can be one of :mod:`riskvae.likelihoods` or your
        own; a grid search reaches its parameters by names such as ``likelihood__nu``.
    noise_scale : float or "learned", default="learned"
        Standard deviation of the Gaussian observation noise, shared by all features, in units of X. "learned" tracks
        the root mean squared error of the reconstructions. ``0.5 ** 0.5`` makes the reconstruction loss equal to the
        summed squared error (plus a constant).
    output_activation : {"auto", "identity", "sigmoid"}, default="auto"
        Activation of the decoder's output. "auto" uses the sigmoid for "bernoulli" and the identity otherwise.
    scale_offset : float, default=0.0
        Constant tau added to the encoder's standard deviations, in training and afterwards. It is a lower limit on the
        latent noise, so the decoder learns to tolerate at least that much.
    max_epochs : int or "auto", default="auto"
        Number of passes over the data. "auto" aims for 2,000 gradient steps within 30 to 200 epochs; for an iterable
        Dataset, whose length is unknown, it means 30 epochs. For QuantileVAE the minimum is one epoch, and if there are
        more rows than 2,000 steps can use, it trains on a random subset of that size.
    beta_warmup : int, default=0
        Number of epochs over which the weight of the KL term increases in equal steps from 0 to ``beta``, so that
        latent coordinates are in use before they are penalized. With ``warm_start`` and ``partial_fit``, epochs of
        earlier calls count. Early stopping starts after the warm-up.
    batch_size : int, default=256
        Maximum number of rows per gradient step. An epoch is split into batches whose sizes differ by at most one row.
    lr : float, default=1e-3
        Learning rate of Adam.
    weight_decay : float, default=0.0
        Decoupled weight decay (AdamW).
    lipschitz_penalty : float, default=0.0
        Weight, in nats, of a penalty on reconstructions that move farther than their rows: on the excess over 1 of the
        squared ratio of the two moves, in the direction that moves the reconstruction most. Robustness margins widen at
        little cost, since a projection onto the data manifold has the ratio 1; for images, 10 works well. An epoch
        takes about three times as long. Losses in ``history_`` exclude the penalty.
    early_stopping : bool, default=False
        Hold out some rows, stop when their loss no longer improves, and keep the weights of the best epoch.
    validation_fraction : float, default=0.1
        Fraction of the rows to hold out if ``early_stopping`` is True.
    n_iter_no_change : int, default=5
        Number of epochs without improvement after which early stopping ends the training.
    tol : float, default=1e-4
        Smallest decrease of the held-out loss, in nats per row, that counts as an improvement.
    callbacks : list, default=None
        Skorch callbacks, such as schedules, checkpoints and loggers. They are not copied, so their state can be read
        after fit (and is pickled with this parameter). Pass scikit-learn's own callbacks to ``set_callbacks``.
    warm_start : bool, default=False
        Whether :meth:`fit` continues from the previous fit (weights, optimizer, history) instead of starting over.
    checkpoint : path, default=None
        File in which :meth:`fit` stores, after each epoch, all it needs to resume. If the file exists, fit resumes from
        it and ends bit for bit as if it had never been interrupted. A file from other data or parameters is rejected;
        ``max_epochs`` may be raised later. In an existing folder, each training gets its own file, as a grid search
        needs. With ``random_state=None``, the seed in the file is used. Your own callbacks must stay the same; of all
        callbacks, attributes that end in "_" are saved, as in skorch.
    random_state : int, RandomState or None, default=None
        Determines the initial weights, the order of the rows and the latent draws, which depend on no other seed. None
        draws a seed from NumPy's global generator.
    n_score_samples : int or "auto", default="auto"
        Number of latent draws per row in :meth:`score_samples`. "auto" uses complete sets of 2 ``n_components``, at
        least 16 draws, which leaves almost no sampling noise in a score.
    refine : int, default=0
        Number of steps that refine each row's posterior on its own evidence bound (see :meth:`encode`), in all methods
        of the fitted model. Codes then fit their rows better, but calls take many times as long. 0 uses the encoder's
        posterior. QuantileVAE sets its threshold with refined posteriors, so it keeps the value it was fitted with.
    verbose : int, default=0
        1 shows a progress bar, or one line per epoch if tqdm is not installed.
    device : str or torch.device, default="auto"
        "cpu", "cuda", "cuda:1" or "mps"; "auto" uses the best device available. A fitted model computes in the dtype of
        its input, and most GPUs are many times slower in float64, so pass float32 rows on a GPU:
        ``X.astype("float32")``. MPS has no float64; there, float64 input is computed on the CPU.
    distributed : {"replicated", "sharded"}, default=None
        Train one model in all processes that ``torchrun`` started. With "replicated", each gets all rows and takes its
        share of every batch; with "sharded", each gets its own rows. Losses, thresholds and a learned noise scale are
        those of all rows, so the model is that of one process, up to rounding. Afterwards each process has it.
    precision : {"float32", "tf32", "bfloat16"}, default="float32"
        Precision of the networks in training; losses, weights and all results of the fitted model stay in float32 or
        better. "bfloat16" suits NVIDIA GPUs since Ampere, and CPUs with AMX or AVX-512 instructions for it; "tf32"
        suits only those GPUs. Elsewhere, training uses float32 and a warning says so.
    compile : bool, default=False
        Compile the training step with :func:`torch.compile`, which takes about ten seconds and needs a C++ compiler.
        Leave it off on a GPU: there ``fit`` records its steps as CUDA graphs, which is faster.

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had column names that are all strings.
    module_ : nn.Module
        The fitted model: ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on tensors.
    net_ : skorch.NeuralNet
        The net that trained the model.
    history_ : list of dict
        One dict per epoch. "train_loss" is the minimized loss; "train_reconstruction" and "train_kl" are the plain
        means of its terms, all in nats per row. (train_loss minus beta times train_kl is the risk of the reconstruction
        losses.) With early stopping, the ``"valid_..."`` entries are the same for the held-out rows. "beta" and "eps"
        are the epoch's values under ``beta_warmup`` and ``eps_warmup``; "dur" is its duration in seconds. "noise_scale"
        is the learned noise after the epoch, and "active" the number of active latent coordinates, recorded for epochs
        1 to 16 and then for eight in each doubling.
    n_iter_ : int
        Number of epochs trained.
    best_iter_ : int
        Epoch whose weights were kept, counted from 1: with ``early_stopping`` the one with the smallest held-out loss,
        ``history_[best_iter_ - 1]``, otherwise the last.
    noise_scale_ : float
        Standard deviation of the observation noise (NaN for "bernoulli").
    device_ : torch.device
        Device of the model.

    See Also
    --------
    BetaTCVAE : Weights only the total correlation within the KL term.
    RiskAwareVAE : Trains on the tail of the reconstruction losses.

    References
    ----------
    Kingma and Welling, "Auto-encoding variational Bayes" (2014).
    Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational framework" (2017).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, beta=2.0, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (1797, 4)
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        # What is learned.
        beta: float = 1.0,
        hidden_layer_sizes: Sequence[int] = (512, 256),
        activation: Activation = "relu",
        encoder: Network | None = None,
        decoder: Network | None = None,
        likelihood: LikelihoodLike = "gaussian",
        noise_scale: float | Learned = "learned",
        output_activation: OutputActivation = "auto",
        scale_offset: float = 0.0,
        # How it trains.
        max_epochs: int | Auto = "auto",
        beta_warmup: int = 0,
        batch_size: int = 256,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        lipschitz_penalty: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        callbacks: Sequence[Any] | None = None,
        warm_start: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        random_state: RandomState = None,
        # What it runs on.
        n_score_samples: int | Auto = "auto",
        refine: int = 0,
        verbose: int = 0,
        device: Device = "auto",
        distributed: Distributed | None = None,
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        self._remember(locals())
