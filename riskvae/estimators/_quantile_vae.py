"""QuantileVAE: a decoder of quantiles, intervals that are calibrated, rows that are anomalies."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from riskvae import nets
from riskvae._sklearn import OutlierMixin
from riskvae._validation import Rule, choice, integer, real
from riskvae.estimators._base import BaseVAE
from riskvae.estimators._explanation import ExplanationMixin
from riskvae.estimators._judged_fit import JudgedFit
from riskvae.estimators._risk_parameters import Risk, RiskParametersMixin
from riskvae.estimators._types import Activation, Auto, Device, Distributed, Network, Precision, RandomState
from riskvae.likelihoods import Likelihood, Mixed, Quantiles
from riskvae.likelihoods._mixed_quantiles import MixedQuantiles
from riskvae.likelihoods._quantiles import LEVELS
from riskvae.risk import CVaR
from riskvae.training import Objective, RiskObjective
from riskvae.training._objective import NearELBO

# Parameters of the other estimators that choose a likelihood.
_NOT_HERE = ("noise_scale", "output_activation")
_TABLE = Rule(
    lambda value: isinstance(value, Mixed),
    "a riskvae.likelihoods.Mixed, from which it takes the categories",
    kind=lambda value: isinstance(value, Mixed | str),
)
# n_components="auto" takes as many as there are features, up to this: the KL term switches off what is not needed.
_MOST_LATENT = 64


class QuantileVAE(OutlierMixin, ExplanationMixin, JudgedFit):
    r"""Variational autoencoder that predicts quantiles of each feature and detects anomalies.

    The model minimizes, over the encoder q, the decoded quantiles and their scale s,

    .. math:: \frac1N \sum_i E_{q(z|x_i)} \Bigl[ \frac1Q \sum_{j,a} \frac{\rho_a(x_{ij} - q_{ja}(z))}{s}
              + \log \frac{s}{a (1 - a)} \Bigr] + \beta \, \mathrm{KL}(q(z|x_i) \,\|\, N(0, I)),
              \qquad \rho_a(u) = \max(a u, (a - 1) u),

    over features j and levels a (:func:`riskvae.losses.asymmetric_laplace_nll`). A decoder of means and variances is
    rewarded without limit for shrinking the variance to 0 where it knows a value; quantiles avoid this. They cannot
    cross, because the decoder outputs the middle one and positive steps from there.

    Results differ in what they guarantee:

    - model-based: :meth:`predict_quantiles`, :meth:`predict_scale` and :meth:`z_scores` are as good as the model;
    - marginal: after calibration with held-out rows (``calibration_fraction`` or :meth:`conformalize`), the coverage of
      :meth:`predict_interval`, :meth:`conformal_p_values`, the false discovery rate of :meth:`detect` and the
      :meth:`p_values` of single values hold for any model, on average over rows and calibration sets;
    - conditional: nothing is guaranteed for rows of one kind, or given a row's content.

    Rows are scored by their evidence bound under the fitted density, or by their single values if those are more
    unusual (:meth:`score_samples`), and :meth:`predict` compares the score with ``offset_``. The defaults are meant for
    training on all available rows, anomalies included. Scale X first (StandardScaler), because errors count in the
    units of the features.

    Parameters stand in four groups: the model (``n_components`` to ``scale_offset``), training rows and anomalies
    (``eps`` to ``n_folds``), training (``max_epochs`` to ``random_state``), and execution (``n_score_samples`` to
    ``compile``).

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of latent dimensions. "auto" uses the number of features, at most 64; the KL term switches off those that
        do not help.
    beta : float, default=1.0
        Weight of the KL term, at least 0.
    quantiles : sequence of float, default=(0.15, 0.5, 0.85)
        Increasing levels in (0, 1). Results that need a spread need two or more; without 0.5 the median is
        interpolated. Your own ``decoder`` must output ``len(quantiles)`` values per feature, ordered as one whole row
        per level (like the channels of an image).
    likelihood : "quantiles" or Mixed, default="quantiles"
        Type of the columns. "quantiles" treats all of them as numbers. For a table, pass a Mixed, as returned by
        :meth:`Mixed.from_frame <riskvae.likelihoods.Mixed.from_frame>`: categories then have probabilities, all other
        columns have quantiles, and columns may have any units.
    hidden_layer_sizes : sequence of int, default=(256, 128)
        Widths of the encoder's hidden layers; the decoder mirrors them. Empty for a linear model.
    activation : str, default="relu"
        Hidden activation: "relu", "leaky_relu", "elu", "gelu", "silu", "tanh" or "softplus".
    encoder, decoder : callable, default=None
        Factories ``(n_in, n_out) -> nn.Module`` that replace the multilayer perceptrons, such as
        :func:`riskvae.nets.conv_encoder`. The encoder returns ``2 * n_components`` values per row in one tensor: the
        means, then raw scales, which go through a softplus. Functions and classes of an importable file, and partials
        of them, can be pickled. Others need cloudpickle, which joblib uses for its workers.
    scale_offset : float, default=0.0
        Constant tau added to the encoder's standard deviations, in training and afterwards. It is a lower limit on the
        latent noise, so the decoder learns to tolerate at least that much.
    eps : float, default=1.0
        Fraction of each batch to train on, in (0, 1]; ``risk`` selects the rows by their whole bounds. 1 trains on all
        rows except extreme outliers (ten interquartile ranges of the batch). Lower it, to 0.9 or 0.8, if you know that
        X holds many anomalies; rows of a rare but normal kind are then left out, too.
    risk : {"seeking", "averse", "neutral"}, default="seeking"
        Whether to train on the best rows, on the worst, or on all; has no effect at ``eps=1``.
    contamination : float or "auto", default="auto"
        Determines the threshold of :meth:`predict`. A float in (0, 0.5] flags that fraction of all rows given to fit,
        and more of new ones. "auto" needs no such guess: it allows 5% false alarms, measured on rows that the model has
        not seen (those of ``n_folds``, or the calibration rows). Set ``offset_`` to choose the threshold yourself.
        After ``partial_fit``, under ``warm_start``, and for a Dataset that is iterable or has fewer than 1,000 rows,
        there are no unseen rows. The threshold is then where 5% of the rows of the last call would lie if they were new
        to the prior, which flags somewhat more of new rows. For a Dataset it uses 10,000 random items (the first
        thousand of an iterable one). A part given to ``partial_fit`` that is smaller than the largest so far counts in
        proportion to its size, so a single row can be learned without redefining what is normal.
    calibration_fraction : float or "cross", default=0.0
        Fraction of the rows, chosen at random, that fit holds out for calibration, in [0, 1). "cross" calibrates with
        the unseen rows of ``n_folds`` instead, so it costs no more training rows (none below 1,000 rows). The models
        that predict these rows are not quite the final model, so guarantees are approximate. ``partial_fit`` discards
        the calibration. Under ``warm_start``, a fit that continues cannot hold out calibration rows.
    n_folds : int or "auto", default="auto"
        How to get unseen rows, from which error scales and the threshold are estimated. The rows are split into n_folds
        parts, each predicted by a model trained on the others; the model itself trains on all rows. 1 holds out a fifth
        of the rows, at most 2,000, and trains no further model. 0 uses the training rows, whose errors are too small.
        "auto" uses 5 for fewer than 1,000 rows (six times the work), else 1. Equal rows and rows of the same group
        (``groups``) stay together. If all features have few values, rows are equal by chance, and equal rows may be
        separated.
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
    n_score_samples : int or "auto", default=1
        Number of latent draws per row in :meth:`score_samples`, as set at fit time. 1 uses the posterior mean, which is
        faster and ranks rows as well as draws do; "auto" uses complete sets of 2 ``n_components``, at least 16 draws.
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
        Scale of the asymmetric Laplace noise, in units of X: the mean pinball loss per value.
    device_ : torch.device
        Device of the model.
    offset_ : float
        Score below which rows are outliers. You can set it yourself; it then holds until the next training.

    Notes
    -----
    As in scikit-learn, larger scores are more normal, and outliers are labeled -1 (PyOD does the opposite in both).
    Pipelines do not expose all methods: use ``pipe[-1].detect(pipe[:-1].transform(X))``. :meth:`score`, the mean of the
    scores, does not show which ``quantiles`` give better intervals; use :func:`riskvae.metrics.interval_score`.

    See Also
    --------
    riskvae.metrics.coverage, riskvae.metrics.interval_score : Quality of intervals.
    riskvae.plotting.CalibrationDisplay, riskvae.plotting.AnomalyMapDisplay : Plots of the results.

    References
    ----------
    Akrami, Joshi, Aydore and Leahy, "Addressing variance shrinkage in variational autoencoders using quantile
    regression" (2020).
    Yu and Moyeed, "Bayesian quantile regression" (2001).

    Examples
    --------
    >>> import numpy as np
    >>> from riskvae import QuantileVAE
    >>> rng = np.random.default_rng(0)
    >>> t = rng.uniform(-1, 1, 1000)
    >>> X = np.column_stack((t, t**2)) + 0.05 * rng.normal(size=(1000, 2))  # near a parabola
    >>> vae = QuantileVAE(hidden_layer_sizes=(32,), calibration_fraction=0.3, random_state=0).fit(X)
    >>> vae.predict([[0.0, 0.0], [0.0, 1.0]])
    array([ 1, -1])
    >>> vae.detect([[0.0, 0.0], [0.0, 1.0]], fdr=0.1)
    array([False,  True])
    """

    quantiles: Sequence[float]
    eps: float
    risk: Risk
    offset_: float

    _made_of: ClassVar = (*(name for name in BaseVAE._made_of if name not in _NOT_HERE), "quantiles")
    _rules: ClassVar = {
        **{name: rule for name, rule in BaseVAE._rules.items() if name not in _NOT_HERE},
        "n_components": choice("auto") | integer(1),
        "quantiles": LEVELS,
        "likelihood": choice("quantiles") | _TABLE,
        **{name: RiskParametersMixin._rules[name] for name in ("eps", "risk")},
        "contamination": choice("auto") | real(0.0, 0.5, closed="right"),
        "n_folds": choice("auto") | integer(0),
        "calibration_fraction": choice("cross") | real(0.0, 1.0, closed="left"),
    }

    def __init__(
        self,
        n_components: int | Auto = "auto",
        *,
        # What is learned.
        beta: float = 1.0,
        quantiles: Sequence[float] = (0.15, 0.5, 0.85),
        likelihood: Literal["quantiles"] | Mixed = "quantiles",
        hidden_layer_sizes: Sequence[int] = (256, 128),
        activation: Activation = "relu",
        encoder: Network | None = None,
        decoder: Network | None = None,
        scale_offset: float = 0.0,
        # Which rows count, and which are anomalies.
        eps: float = 1.0,
        risk: Risk = "seeking",
        contamination: float | Auto = "auto",
        calibration_fraction: float | Literal["cross"] = 0.0,
        n_folds: int | Auto = "auto",
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
        n_score_samples: int | Auto = 1,
        refine: int = 0,
        verbose: int = 0,
        device: Device = "auto",
        distributed: Distributed | None = None,
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        self._remember(locals())

    # -------------------------------------------------------------------------------------- training

    _epochs_by_steps: ClassVar = (2_000, 1, 200)

    def make_objective(self) -> Objective:
        if self.risk == "neutral" or self.eps == 1:
            return NearELBO(self.beta, beta_warmup=self.beta_warmup)
        tail, measure = "best" if self.risk == "seeking" else "worst", CVaR().with_eps(self.eps)
        return RiskObjective(self.beta, measure, measure, tail=tail, on="elbo", beta_warmup=self.beta_warmup)

    def _counted_share(self) -> float:
        return self.eps if self.risk == "seeking" else 1.0

    def _make_likelihood(self) -> Likelihood:
        levels = tuple(float(level) for level in self.quantiles)
        if isinstance(self.likelihood, Mixed):
            return MixedQuantiles(self.likelihood.columns, levels, self.likelihood.unknown)
        return Quantiles(levels)

    def _n_latent(self, n_features: int) -> int:
        return min(n_features, _MOST_LATENT) if self.n_components == "auto" else self.n_components

    def _default_networks(self, make: Any) -> tuple[Any, Any]:
        encoder, decoder = super()._default_networks(make)
        return partial(_standardized, encoder), decoder

    def _fit_units(self, module: Any, x: Tensor) -> None:
        plain = isinstance(module.likelihood, Quantiles)  # a table's columns are standardized by themselves
        first = plain and not module.likelihood.started
        super()._fit_units(module, x)
        if first and module.likelihood.started and self.encoder is None:
            center = module.likelihood.center
            if module.told == "places":  # columns that say what is missing have none
                center = torch.cat((center, torch.zeros_like(center)))
            module.encoder[0].set(center, module.likelihood.unit)


def _standardized(encoder: Any, n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nets.Standardize(n_in), *encoder(n_in, n_out))
