"""RiskAwareVAE: trains on the tail of the reconstruction losses."""

import os
from collections.abc import Sequence
from typing import Any, Literal

from riskvae import risk as risk_measures
from riskvae.estimators._base import BaseVAE
from riskvae.estimators._risk_parameters import Risk, RiskOver, RiskParametersMixin, Threshold
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
from riskvae.training import Objective, RiskObjective

__all__ = ["RiskAwareVAE"]


class RiskAwareVAE(RiskParametersMixin, BaseVAE):
    r"""Variational autoencoder trained on the tail of its reconstruction losses.

    Given the reconstruction losses :math:`l_i = -\log p(x_i | z_i)` of a batch, the model minimizes

    .. math:: C_\epsilon(l_1, \dots, l_N) + \beta \, \frac1N \sum_i \mathrm{KL}(q(z|x_i) \,\|\, N(0, I)),

    where :math:`C_\epsilon` is the conditional value at risk, the mean of the worst fraction eps of the losses
    (:func:`riskvae.risk.cvar`). ``risk="seeking"`` uses the best fraction instead; the KL terms and the learned noise
    scale are then those of the rows that count, and all other rows are ignored. ``risk="neutral"`` uses the mean, which
    gives ``BetaVAE(beta=beta)``.

    The losses come from latent draws: one per row, or several with ``n_subsamples``. Let :math:`l_{ij}` be the loss of
    draw j of row i. ``risk_over`` selects what the risk :math:`\rho` is taken over:

    - "batch": :math:`\rho_i(\frac1B \sum_j l_{ij})`, the rows that are reconstructed badly on average;
    - "subsamples": :math:`\frac1N \sum_i \rho_j(l_{ij})`, each row's worst draws;
    - "nested": :math:`\rho_i(\rho_j(l_{ij}))`, the worst draws of the worst rows;
    - "joint": :math:`\rho_{ij}(l_{ij})`, all draws of all rows as one sample;
    - "groups": :math:`\rho_g(\bar l_g)`, the mean losses of groups of rows, which you pass to :meth:`fit`. Every group
      counts once, however few rows it has, and the KL term is averaged over groups, too
      (:func:`riskvae.risk.group_means`).

    Relative to the KL term, the tail has more weight than the mean has, so part of the gain in the tail comes from
    weaker regularization. Compare models over several values of beta.

    Parameters stand in four groups: the model (``n_components`` to ``scale_offset``), the tail (``eps`` to
    ``eps_warmup``), training (``max_epochs`` to ``random_state``), and execution (``n_score_samples`` to ``compile``).

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
    eps : float, default=0.5
        Fraction of the losses that count, in (0, 1]. 1 gives the mean, and eps * batch_size <= 1 the maximum.
    risk : {"averse", "seeking", "neutral"}, default="averse"
        Whether to train on the worst losses, on the best, or on all.
    risk_over : {"batch", "subsamples", "nested", "joint", "groups"}, default="batch"
        What the risk is taken over. "subsamples", "nested" and "joint" need ``n_subsamples`` of at least 2. "groups"
        needs ``fit(X, groups=...)``; ``eps`` is then a fraction of the groups in a batch, so use batches large enough
        to hold some rows of each group.
    n_subsamples : int, default=1
        B, the number of latent draws per row and step, decoded in one pass.
    eps_subsamples : float, default=None
        Fraction of a row's draws that count, for "subsamples" and "nested" with a measure that uses the estimator's
        eps. None means ``eps``.
    measure : "cvar" or object, default="cvar"
        Risk measure: any of :mod:`riskvae.risk`, such as ``risk.SmoothedCVaR(smoothing=1.0)``, ``risk.Entropic(0.1)``
        or ``risk.Spectral(risk.Extremile(3))``, or a subclass of ``risk.Measure``. A measure whose ``eps`` is None uses
        the estimator's; measures without such a parameter ignore it.
    threshold : {"batch", "ema", "learned"}, default="batch"
        Where the tail begins in training. "batch" uses the quantile of the batch; "ema" its moving average, corrected
        for lag (:class:`riskvae.risk.EMAThreshold`); "learned" a quantile that is learned along with the model
        (:class:`riskvae.risk.LearnedThreshold`). The last two need a tail measure ("cvar" or ``SmoothedCVaR``) over
        rows, and batches with eps * batch_size above 1: a batch without losses beyond the threshold gives no
        reconstruction gradient. Held-out losses always use the risk itself.
    threshold_decay : float, default=0.9
        Weight of the old average if ``threshold="ema"``, in [0, 1).
    risk_on : {"reconstruction", "elbo"}, default="reconstruction"
        "reconstruction" takes the risk of the reconstruction losses and adds the mean KL term. "elbo" takes the risk of
        each row's whole negative evidence bound, with the KL term weighted by ``beta``; "train_loss" is then that risk.
    risk_per : {"row", "value"}, default="row"
        Reconstruction loss of a row with missing values. "row" is the sum over its known values. "value" is their mean
        times the number of features, :math:`l_i d / d_i` with :math:`d_i` of d values known. A row's place in the tail
        then does not depend on how many of its values are known, and each known value counts for more. Complete rows
        are not affected.
    eps_warmup : int, default=0
        Number of epochs over which eps, and ``eps_subsamples``, decrease in equal steps from 1 to their values. This
        helps ``risk="seeking"``, which otherwise gives up on more of the other rows. With ``warm_start`` and
        ``partial_fit``, epochs of earlier calls count. Early stopping starts after the warm-up.
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
    BetaVAE : Trains on the mean.

    References
    ----------
    Li and Zhu, "Risk-aware variational autoencoder".
    Rockafellar and Uryasev, "Optimization of conditional value-at-risk", Journal of Risk 2 (2000).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import RiskAwareVAE
    >>> X = load_digits().data / 16
    >>> vae = RiskAwareVAE(n_components=4, eps=0.2, random_state=0).fit(X)
    >>> vae.reconstruction_loss(X).shape
    (1797,)
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
        # Which tail.
        eps: float = 0.5,
        risk: Risk = "averse",
        risk_over: RiskOver = "batch",
        n_subsamples: int = 1,
        eps_subsamples: float | None = None,
        measure: Literal["cvar"] | risk_measures.Measure = "cvar",
        threshold: Threshold = "batch",
        threshold_decay: float = 0.9,
        risk_on: Literal["reconstruction", "elbo"] = "reconstruction",
        risk_per: Literal["row", "value"] = "row",
        eps_warmup: int = 0,
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

    _may_ignore_groups = True

    def _n_draws(self) -> int:
        return self.n_subsamples

    def _counted_share(self) -> float:
        if self.risk != "seeking":
            return 1.0
        return getattr(self._measure().with_eps(self.eps), "eps", 0.5)

    def _has_foreign_parts(self, *others: Any) -> bool:
        return super()._has_foreign_parts(self.measure, *others)

    def make_objective(self) -> Objective:
        if self.risk == "neutral":
            return super().make_objective()
        tail = "worst" if self.risk == "averse" else "best"
        measure = self._measure()
        rows = measure.with_eps(self.eps)
        threshold: risk_measures.Threshold | None = None
        if self.threshold == "ema":
            threshold = risk_measures.EMAThreshold(rows, decay=self.threshold_decay, tail=tail)
        elif self.threshold == "learned":
            threshold = risk_measures.LearnedThreshold(rows, tail=tail)
        return RiskObjective(
            self.beta,
            rows,
            measure.with_eps(self.eps if self.eps_subsamples is None else self.eps_subsamples),
            tail=tail,
            over=self.risk_over,
            threshold=threshold,
            on=self.risk_on,
            per=self.risk_per,
            eps_warmup=self.eps_warmup,
            beta_warmup=self.beta_warmup,
        )
