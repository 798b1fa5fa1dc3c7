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
    r"""Variational autoencoder that is trained on the tail of its reconstruction losses.

    With the reconstruction losses :math:`l_i = -\log p(x_i | z_i)` of a batch, minimizes

    .. math:: C_\epsilon(l_1, \dots, l_N) + \beta \, \frac1N \sum_i \mathrm{KL}(q(z|x_i) \,\|\, N(0, I)),

    where :math:`C_\epsilon` is the conditional value at risk, the mean of the worst fraction eps of the
    losses (:func:`riskvae.risk.cvar`). ``risk="seeking"`` takes the best fraction instead, with the KL terms and the
    learned noise of the rows that count: the others are ignored altogether. ``risk="neutral"`` takes the mean, which
    gives ``BetaVAE(beta=beta)``.

    The losses come from latent draws, one per row or, with ``n_subsamples``, several: :math:`l_{ij}` for
    draw j of row i. ``risk_over`` says over what the risk :math:`\rho` is taken:

    - "batch": :math:`\rho_i(\frac1B \sum_j l_{ij})`, rows that are reconstructed badly on average;
    - "subsamples": :math:`\frac1N \sum_i \rho_j(l_{ij})`, each row's unlucky draws;
    - "nested": :math:`\rho_i(\rho_j(l_{ij}))`, the unlucky draws of bad rows;
    - "joint": :math:`\rho_{ij}(l_{ij})`, all draws of all rows as one sample;
    - "groups": :math:`\rho_g(\bar l_g)`, the mean losses of groups of rows, which :meth:`fit` is told. Every group
      counts once, however few rows it has, and the KL term is a mean over groups, too
      (:func:`riskvae.risk.group_means`).

    The tail weighs more against the KL term than the mean does, so part of what is gained in the tail is a
    weaker regularization: compare models along beta.

    Parameters stand in groups: what is learned (``n_components`` to ``scale_offset``), which tail (``eps`` to
    ``eps_warmup``), how it trains (``max_epochs`` to ``random_state``), what it runs on (``n_score_samples`` to
    ``compile``).

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
        :func:`riskvae.nets.conv_encoder`. The encoder gives ``2 * n_components`` values per row in one tensor:
        the means, then what a softplus turns into scales. Functions and classes of an importable file, and partials
        of them, can be pickled; others by cloudpickle alone, which carries them to joblib's workers.
    likelihood : {"gaussian", "bernoulli"} or Likelihood, default="gaussian"
        Observation model: "bernoulli" needs X in [0, 1]; an object is one of :mod:`riskvae.likelihoods` or of your
        own, and a grid search reaches its parameters, as by ``likelihood__nu``.
    noise_scale : float or "learned", default="learned"
        Standard deviation of the Gaussian observation noise, shared by all features, in units of X; "learned"
        follows the root mean squared error of the reconstructions.
        ``0.5 ** 0.5`` makes the reconstruction loss the summed squared error (plus a constant).
    output_activation : {"auto", "identity", "sigmoid"}, default="auto"
        Applied to the decoder's output; "auto" is the sigmoid for bernoulli, else the identity.
    scale_offset : float, default=0.0
        Constant tau added to the encoder's standard deviations, in training and after: a floor under the noise that
        the decoder learns to bear, where the encoder's own would be smaller.
    eps : float, default=0.5
        Share of the losses that count, in (0, 1]; 1 is the mean, eps * batch_size <= 1 the maximum.
    risk : {"averse", "seeking", "neutral"}, default="averse"
        Train on the worst losses, on the best, or on all.
    risk_over : {"batch", "subsamples", "nested", "joint", "groups"}, default="batch"
        Over what the risk is taken. "subsamples", "nested" and "joint" need ``n_subsamples`` of at least 2; "groups"
        needs ``fit(X, groups=...)``, and ``eps`` is then the share of the groups that count, among those that a batch
        holds: let batches be large enough to hold some rows of each.
    n_subsamples : int, default=1
        B, latent draws per row and step, decoded in one pass.
    eps_subsamples : float, default=None
        Share of a row's draws that count ("subsamples" and "nested", of a measure that takes the estimator's
        eps); None means ``eps``.
    measure : "cvar" or object, default="cvar"
        Risk measure: any of :mod:`riskvae.risk`, such as ``risk.SmoothedCVaR(smoothing=1.0)``,
        ``risk.Entropic(0.1)`` or ``risk.Spectral(risk.Extremile(3))``, or a subclass of ``risk.Measure``. A
        measure whose own ``eps`` is None takes the estimator's; those without one do not use ``eps``.
    threshold : {"batch", "ema", "learned"}, default="batch"
        Where the tail begins in training: at the batch's own quantile; at its moving average, corrected for the
        lag of one (:class:`riskvae.risk.EMAThreshold`); or where a learned quantile has got to
        (:class:`riskvae.risk.LearnedThreshold`). The last two need a measure of a tail ("cvar",
        ``SmoothedCVaR``) over rows, and batches in which eps * batch_size is above 1: a batch without losses beyond
        the threshold teaches nothing about reconstruction. Held-out losses are always the risk itself.
    threshold_decay : float, default=0.9
        Weight of the old average for ``threshold="ema"``, in [0, 1).
    risk_on : {"reconstruction", "elbo"}, default="reconstruction"
        Take the risk of the reconstruction losses, and add the mean KL term; or of the rows' whole negative
        evidence bounds, with the KL term weighted by ``beta``; then "train_loss" is that risk.
    risk_per : {"row", "value"}, default="row"
        Where values are missing: a row's reconstruction loss is the sum over its known values, or their mean times the
        number of features, :math:`l_i d / d_i` with :math:`d_i` of d values known, so that its place in the tail does
        not hang on how much of it is known. A known value of such a row then counts as much more. Whole rows are the
        same to both.
    eps_warmup : int, default=0
        Epochs over which eps, and ``eps_subsamples``, fall in equal steps from 1 to their values; helps
        ``risk="seeking"``, which otherwise gives up more of the other rows. Epochs of earlier calls count under
        ``warm_start`` and ``partial_fit``; early stopping begins to look after them.
    max_epochs : int or "auto", default="auto"
        Passes over the data; "auto" makes 2,000 gradient steps, but 30 epochs at least (one of QuantileVAE, and of more
        rows than those steps take, as many at random) and 200 at most (30 for an iterable Dataset, whose rows nobody
        knows).
    beta_warmup : int, default=0
        Epochs over which the weight of the KL term rises in equal steps from 0 to ``beta``, so that latent coordinates
        are in use before they cost anything. Epochs of earlier calls count under ``warm_start`` and ``partial_fit``;
        early stopping begins to look after them.
    batch_size : int, default=256
        Rows per gradient step, at most; an epoch is cut into batches of equal size, give or take a row.
    lr : float, default=1e-3
        Learning rate of Adam.
    weight_decay : float, default=0.0
        Decoupled weight decay (AdamW).
    lipschitz_penalty : float, default=0.0
        Weight, in nats, of how much farther a reconstruction moves than its row, in the direction that moves it most:
        of what the squared ratio of the two moves exceeds 1 by. A projection on the rows' manifold has the ratio 1, so
        margins widen at little cost in reconstruction; 10 suits images. An epoch takes some four times as long. Losses
        in ``history_`` leave it out.
    early_stopping : bool, default=False
        Hold out rows, stop when their loss has not improved for a while, keep the best epoch's weights.
    validation_fraction : float, default=0.1
        Share of the rows that are held out when ``early_stopping``.
    n_iter_no_change : int, default=5
        Epochs without improvement after which training stops when ``early_stopping``.
    tol : float, default=1e-4
        Smallest decrease of the held-out loss, in nats per row, that counts as improvement.
    callbacks : list, default=None
        Skorch callbacks, for schedules, checkpoints, loggers. Used as they are, so that their state can be read
        after fit (and is pickled with this parameter). Scikit-learn's own callbacks go to ``set_callbacks``.
    warm_start : bool, default=False
        Let :meth:`fit` go on from the last fit (weights, optimizer, history) instead of starting anew.
    checkpoint : path, default=None
        File in which :meth:`fit` keeps, after each epoch, all it needs to go on. If the file is there already, fit
        goes on from it, and ends as if it had never been interrupted, bit for bit; a file of other data or
        parameters is refused. ``max_epochs`` may be raised later. In a folder that exists, each training has a file
        of its own, as a grid search needs. With ``random_state=None`` the file's seed goes on. Callbacks of your own
        must be the same; of all it keeps attributes that end in "_", as skorch's state does.
    random_state : int, RandomState or None, default=None
        Decides initial weights, order of rows and latent draws, and nothing else does. None draws a seed from
        NumPy's global generator.
    n_score_samples : int or "auto", default="auto"
        Latent draws per row in :meth:`score_samples`; "auto" takes whole sets of 2 ``n_components``, at least 16 draws,
        which leave hardly any chance in a score.
    refine : int, default=0
        Steps by which each row's posterior is refined on its own evidence bound (:meth:`encode`), in all answers of the
        fitted model: codes fit their rows better, and answers take many times as long. 0 takes the encoder's.
        QuantileVAE is judged by refined posteriors, and so answers as it was fitted.
    verbose : int, default=0
        1 shows a progress bar (a line per epoch where tqdm is not installed).
    device : str or torch.device, default="auto"
        "cpu", "cuda", "cuda:1", "mps"; "auto" takes the best there is. Answers are computed in the dtype of their rows,
        and most GPUs are many times slower in float64 (which MPS lacks: the CPU does it). There, pass float32 rows:
        ``X.astype("float32")``.
    distributed : {"replicated", "sharded"}, default=None
        Train one model in all processes that ``torchrun`` started: "replicated" where each is given all rows and takes
        its share of every batch, "sharded" where each is given rows of its own. Losses, thresholds and a learned noise
        are those of all rows, so that the model is that of one process, up to rounding. Afterwards each process has it.
    precision : {"float32", "tf32", "bfloat16"}, default="float32"
        In which the networks compute in training; losses, weights and all answers of the fitted model stay in float32
        or better. "bfloat16" suits NVIDIA's GPUs since Ampere, and processors with AMX or AVX-512 for it; "tf32" those
        GPUs alone. Elsewhere a warning says so, and training goes on in float32.
    compile : bool, default=False
        Compile the training step with :func:`torch.compile`; it takes some ten seconds and a C++ compiler. On
        a GPU leave it: there ``fit`` records its steps, which is faster.

    Attributes
    ----------
    n_features_in_ : int
        Features seen in fit.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, where X had names that are all strings.
    module_ : nn.Module
        The fitted model: ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on tensors.
    net_ : skorch.NeuralNet
        The net that trained it.
    history_ : list of dict
        One dict per epoch: "train_loss", what is minimized; "train_reconstruction" and "train_kl", the plain
        means of its terms (train_loss minus beta times train_kl is the risk of the reconstruction losses), all in
        nats per row; the same as ``"valid_..."`` when early_stopping; "beta" and "eps", those of the
        epoch, under ``beta_warmup`` and ``eps_warmup``; "dur", the seconds it took.
    n_iter_ : int
        Epochs trained.
    best_iter_ : int
        Epoch whose weights were kept, counted from 1: with ``early_stopping`` the one with the smallest held-out loss,
        ``history_[best_iter_ - 1]``; otherwise the last.
    noise_scale_ : float
        Standard deviation of the observation noise (NaN for bernoulli).
    device_ : torch.device
        Where the model is.

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
