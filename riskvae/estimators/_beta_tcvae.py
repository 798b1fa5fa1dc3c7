"""BetaTCVAE: the evidence lower bound, of whose KL term only the total correlation is weighted."""

from typing import Any

from riskvae.estimators._beta_vae import BetaVAE
from riskvae.training import Objective, TotalCorrelationELBO

__all__ = ["BetaTCVAE"]


class BetaTCVAE(BetaVAE):
    r"""Variational autoencoder with a weighted total correlation.

    The KL term of the evidence bound, averaged over rows, is the sum of the information between rows and latent
    points, of the total correlation, and of the coordinates' own KL terms. Only the second entangles
    coordinates, and only it is weighted:

    .. math:: \frac1N \sum_i -E_{q(z|x_i)} \log p(x_i|z) + \mathrm{KL}(q(z|x_i) \,\|\, N(0, I))
              + (\beta - 1) \, \mathrm{KL}\Bigl(q(z) \,\Big\|\, \prod_k q(z_k)\Bigr),

    with the aggregated posterior :math:`q(z) = \frac1N \sum_i q(z|x_i)` estimated within each batch
    (:func:`riskvae.losses.total_correlation`): take large batches. ``beta=1`` is ``BetaVAE(beta=1)``. Compared
    with :class:`BetaVAE` at the same beta it keeps more of what the latent points tell about the rows.

    Parameters stand in groups: what is learned (``n_components`` to ``scale_offset``), how it trains
    (``max_epochs`` to ``random_state``), what it runs on (``n_score_samples`` to ``compile``).

    Parameters
    ----------
    n_components : int, default=10
        Number of latent dimensions.
    beta : float, default=4.0
        Weight of the total correlation within the KL term, at least 0.
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
    BetaVAE : Weighs the whole KL term.

    References
    ----------
    Chen, Li, Grosse and Duvenaud, "Isolating sources of disentanglement in variational autoencoders" (2018).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaTCVAE
    >>> X = load_digits().data / 16
    >>> vae = BetaTCVAE(n_components=4, beta=6.0, max_epochs=30, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (1797, 4)
    """

    def __init__(self, n_components: int = 10, *, beta: float = 4.0, **parameters: Any) -> None:
        super().__init__(n_components, beta=beta, **parameters)

    def make_objective(self) -> Objective:
        return TotalCorrelationELBO(self.beta, beta_warmup=self.beta_warmup)
