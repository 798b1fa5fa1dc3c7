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
    "a riskvae.likelihoods.Mixed, of which it takes the categories",
    kind=lambda value: isinstance(value, Mixed | str),
)
# n_components="auto" takes as many as there are features, up to this: the KL term switches off what is not needed.
_MOST_LATENT = 64


class QuantileVAE(OutlierMixin, ExplanationMixin, JudgedFit):
    r"""Variational autoencoder whose decoder gives quantiles of each feature; a detector of anomalies.

    Minimizes, over the encoder q, the decoded quantiles and their scale s,

    .. math:: \frac1N \sum_i E_{q(z|x_i)} \Bigl[ \frac1Q \sum_{j,a} \frac{\rho_a(x_{ij} - q_{ja}(z))}{s}
              + \log \frac{s}{a (1 - a)} \Bigr] + \beta \, \mathrm{KL}(q(z|x_i) \,\|\, N(0, I)),
              \qquad \rho_a(u) = \max(a u, (a - 1) u),

    over features j and levels a (:func:`riskvae.losses.asymmetric_laplace_nll`). A decoder that gives a mean
    and a variance is rewarded without bound for a variance that shrinks to 0 where it knows a value; quantiles are
    not. They cannot cross: the decoder gives the middle one, and positive steps from there.

    Three kinds of statements, from what the model says to what holds whatever it is worth:

    - of the model: :meth:`predict_quantiles`, :meth:`predict_scale`, :meth:`z_scores`;
    - marginal, once calibrated with held-out rows (``calibration_fraction`` or :meth:`conformalize`):
      the coverage of :meth:`predict_interval`, :meth:`conformal_p_values`, the false discovery rate of
      :meth:`detect`, the :meth:`p_values` of single values. They hold on average over rows and calibration sets;
    - nothing is promised conditionally: for rows of one kind, or given a row's content.

    Rows are scored by their evidence bound under the fitted density, or by their values one by one if those are more
    unusual (:meth:`score_samples`), and :meth:`predict` compares that with ``offset_``. Training on everything that
    there is, anomalies and all, is what the default is made for. Scale X first (StandardScaler): features count by
    their errors in the units that they come in.

    Parameters stand in groups: what is learned (``n_components`` to ``scale_offset``), which rows count and which are
    anomalies (``eps`` to ``n_folds``), how it trains (``max_epochs`` to ``random_state``), what it
    runs on (``n_score_samples`` to ``compile``).

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of latent dimensions; "auto" takes as many as there are features, at most 64. The KL term
        switches off those that do not help.
    beta : float, default=1.0
        Weight of the KL term, at least 0.
    quantiles : sequence of float, default=(0.15, 0.5, 0.85)
        Increasing levels in (0, 1). Two or more for whatever needs a spread; without 0.5 the median is interpolated. A
        ``decoder`` of your own gives ``len(quantiles)`` values per feature, a whole row for each level in turn
        (channels of an image).
    likelihood : "quantiles" or Mixed, default="quantiles"
        What the columns are: all of them numbers, or those of a table, by
        :meth:`Mixed.from_frame <riskvae.likelihoods.Mixed.from_frame>`. Of these, categories have probabilities and
        all others quantiles, and columns of any units do.
    hidden_layer_sizes : sequence of int, default=(256, 128)
        Widths of the encoder's hidden layers; the decoder mirrors them. Empty for a linear model.
    activation : str, default="relu"
        Hidden activation: "relu", "leaky_relu", "elu", "gelu", "silu", "tanh" or "softplus".
    encoder, decoder : callable, default=None
        Factories ``(n_in, n_out) -> nn.Module`` that replace the multilayer perceptrons, such as
        :func:`riskvae.nets.conv_encoder`. The encoder gives ``2 * n_components`` values per row in one tensor:
        the means, then what a softplus turns into scales. Functions and classes of an importable file, and partials
        of them, can be pickled; others by cloudpickle alone, which carries them to joblib's workers.
    scale_offset : float, default=0.0
        Constant tau added to the encoder's standard deviations, in training and after: a floor under the noise that
        the decoder learns to bear, where the encoder's own would be smaller.
    eps : float, default=1.0
        Share of each batch that trains, in (0, 1], by the rows' whole bounds; which rows is said by ``risk``. 1 trains
        on all but those that lie far off (by ten interquartile ranges of the batch). Lower it, to .9 or .8, where you
        know that X holds many anomalies: rows of a rare but normal kind are left out, too.
    risk : {"seeking", "averse", "neutral"}, default="seeking"
        Train on the best rows, on the worst, or on all; of no effect at ``eps=1``.
    contamination : float or "auto", default="auto"
        Where :meth:`predict` draws the line. A float in (0, 0.5]: that share of all rows given to fit is flagged, and
        more of new ones. "auto" needs no guess at it, but allows 5 % of false alarms, by rows that the model has not
        seen (``n_folds``, or those that calibrate). Set ``offset_`` to draw it by hand. After ``partial_fit``, under
        ``warm_start``, and of a Dataset that is iterable or has fewer than 1,000 rows, all rows were seen: the line is
        where 5 % of them would lie if they were new to the prior, which flags somewhat more of new ones. It is that of
        the last call's rows; of a Dataset of 10,000 items at random (of an iterable one, of the first thousand). A part
        given to ``partial_fit`` that is smaller than the largest so far counts by its share of that one, so a single
        row may be learned without deciding what is normal.
    calibration_fraction : float or "cross", default=0.0
        Share of the rows, at random, that fit keeps from training and calibrates with, in [0, 1). "cross" gives no more
        away than ``n_folds`` does (below 1,000 rows none): it calibrates with the rows that judge, by models that have
        not seen them; as those are not quite the model itself, its promises hold nearly. Training on, by
        ``partial_fit``, ends a calibration; under ``warm_start`` a fit that goes on cannot keep any.
    n_folds : int or "auto", default="auto"
        Where the error scales and the threshold come from: of n_folds parts of the rows each is judged by a model that
        was trained on the others, while the model itself trains on all. 1 holds a fifth of the rows out, at most 2,000,
        and trains no further model; 0 judges by the training rows, whose errors are too small. "auto" takes 5 for fewer
        than 1,000 rows (six times the work), else 1. Equal rows and those of one of the ``groups`` stay together;
        equal rows do not where all features have few values, so that rows are equal by chance.
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
    n_score_samples : int or "auto", default=1
        Latent draws per row in :meth:`score_samples`, as they were in fit. 1 takes the posterior mean alone, which
        ranks rows as well as draws do, and faster; "auto" takes whole sets of 2 ``n_components``, at least 16 draws.
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
        Scale of the asymmetric Laplace noise, in units of X: the mean pinball loss of a value.
    device_ : torch.device
        Where the model is.
    offset_ : float
        Score below which rows are outliers. Set it to draw the line by hand: it stays until the next training.

    Notes
    -----
    As in scikit-learn, larger scores are more normal, and outliers are -1 (PyOD has both the other way round). In a
    pipeline ``pipe[-1].detect(pipe[:-1].transform(X))`` reaches what pipelines do not pass on. :meth:`score`, the
    mean of the scores, does not tell which ``quantiles`` have the better intervals: compare
    :func:`riskvae.metrics.interval_score`.

    See Also
    --------
    riskvae.metrics.coverage, riskvae.metrics.interval_score : How good intervals are.
    riskvae.plotting.CalibrationDisplay, riskvae.plotting.AnomalyMapDisplay : Pictures of it.

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
        return (
            MixedQuantiles(self.likelihood.columns, levels) if isinstance(self.likelihood, Mixed) else Quantiles(levels)
        )

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
