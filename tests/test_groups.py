"""Risk over groups of rows: by its definition, its limits, on every path that rows take, and what it is for."""

from itertools import groupby

import numpy as np
import pytest
import torch
from helpers import small
from sklearn import config_context
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from riskvae import BetaVAE, RiskAwareVAE
from riskvae.nets import Posterior
from riskvae.risk import CVaR, cvar, group_means
from riskvae.training import Batch, RiskObjective, Terms, WeightedELBO


@pytest.fixture(scope="module")
def groups():
    return np.random.default_rng(0).choice(["a", "b", "rare"], size=300, p=[0.5, 0.45, 0.05])


def terms(nll, group):
    n = nll.shape[1]
    posterior = Posterior(torch.zeros(n, 2), torch.ones(n, 2))
    return Terms(
        nll, torch.linspace(0, 1, n), torch.zeros(*nll.shape, 2), posterior, Batch(torch.zeros(n, 3), group=group)
    )


def same_weights(a, b):
    pairs = zip(a.module_.state_dict().values(), b.module_.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


# ---------------------------------------------------------------------------------------------- laws


def test_means_of_groups_and_their_gradient():
    losses = torch.randn(50, dtype=torch.float64, requires_grad=True)
    group = torch.randint(-3, 4, (50,), generator=torch.Generator().manual_seed(0))
    means = group_means(losses, group)
    names = sorted(set(group.tolist()))
    expected = [losses[group == g].mean().item() for g in names]
    np.testing.assert_allclose(means.detach(), expected, rtol=1e-12)
    means[2].backward()
    inside = group == names[2]
    torch.testing.assert_close(losses.grad, inside.double() / inside.sum())
    assert torch.autograd.gradcheck(lambda x: group_means(x, group), losses)
    with pytest.raises(ValueError, match=r"losses of shape \(50,\) and groups of shape \(49,\)"):
        group_means(losses, group[1:])


def objective(eps, **options):
    return RiskObjective(2.0, CVaR(eps), CVaR(eps), over="groups", **options)


@pytest.mark.parametrize("tail", ["worst", "best"])
def test_limits(tail):
    generator = torch.Generator().manual_seed(0)
    nll, group = torch.randn(3, 40, generator=generator), torch.randint(0, 5, (40,), generator=generator)
    means = group_means(nll.mean(0), group)
    zero_beta = lambda eps: RiskObjective(0.0, CVaR(eps), CVaR(eps), over="groups", tail=tail)  # noqa: E731
    of = lambda eps, group=group, nll=nll: zero_beta(eps)(terms(nll, group))  # noqa: E731
    torch.testing.assert_close(of(1.0), means.mean())
    torch.testing.assert_close(of(0.2), means.max() if tail == "worst" else means.min())
    torch.testing.assert_close(of(0.5), cvar(means, 0.5, tail=tail))
    # A group for each row is the risk over rows; one group for all is the mean.
    torch.testing.assert_close(of(0.3, torch.arange(40)), cvar(nll.mean(0), 0.3, tail=tail))
    torch.testing.assert_close(of(0.3, torch.zeros(40, dtype=torch.int64)), nll.mean())
    # Neither names nor the order of rows matter.
    order = torch.randperm(40, generator=generator)
    torch.testing.assert_close(of(0.5, 7 - 2 * group[order], nll[:, order]), of(0.5))


def test_the_mean_over_groups_is_the_plain_loss_of_groups_of_equal_size():
    """Rows of a small group repeated until all are equally many: the same objective, KL term included."""
    generator = torch.Generator().manual_seed(0)
    nll, group = torch.randn(2, 9, generator=generator), torch.tensor([0] * 6 + [1] * 3)
    order = torch.tensor([*range(9), 6, 7, 8])
    given = terms(nll, group)
    repeated = Terms(nll[:, order], given.kl[order], given.z, given.posterior, given.batch)
    torch.testing.assert_close(objective(1.0)(given), WeightedELBO(2.0)(repeated))


def test_of_whole_bounds():
    generator = torch.Generator().manual_seed(0)
    nll, group = torch.randn(1, 40, generator=generator), torch.randint(0, 5, (40,), generator=generator)
    expected = cvar(group_means(nll[0] + 2.0 * torch.linspace(0, 1, 40), group), 0.3)
    torch.testing.assert_close(objective(0.3, on="elbo")(terms(nll, group)), expected)


# --------------------------------------------------------------------------------------------- paths


def test_labels_are_names(X, groups):
    a = small(RiskAwareVAE, risk_over="groups", batch_size=64).fit(X, groups=groups)
    for other in ((groups == "rare") * 7 + (groups == "b") * 3, groups.tolist(), groups.astype(object)):
        assert same_weights(a, small(RiskAwareVAE, risk_over="groups", batch_size=64).fit(X, groups=other))
    assert not same_weights(a, small(RiskAwareVAE, batch_size=64).fit(X))


def test_other_risks_do_not_use_them(X, groups):
    assert same_weights(small(RiskAwareVAE).fit(X), small(RiskAwareVAE).fit(X, groups=groups))
    neutral = small(RiskAwareVAE, risk="neutral", risk_over="groups").fit(X)
    assert same_weights(neutral, small(BetaVAE, beta=1.0).fit(X))


def test_a_group_for_each_row_is_the_risk_over_rows(X):
    a = small(RiskAwareVAE, risk_over="groups", batch_size=64).fit(X, groups=np.arange(300))
    b = small(RiskAwareVAE, batch_size=64).fit(X)
    np.testing.assert_allclose(a.transform(X), b.transform(X), rtol=1e-3, atol=1e-4)


class Listed(Dataset):
    def __init__(self, X, groups):
        self.X, self.groups = torch.tensor(X, dtype=torch.float32), groups

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return {"x": self.X[i], "group": int(self.groups[i])}


class Streamed(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return (self.items[i] for i in range(len(self.items)))


def test_groups_come_with_datasets(X, groups):
    numbers = np.unique(groups, return_inverse=True)[1]
    listed = Listed(X, numbers)
    make = lambda: small(RiskAwareVAE, risk_over="groups", batch_size=50)  # noqa: E731
    a = make().fit(listed)
    b = make().fit(TensorDataset(listed.X), groups=groups)
    assert same_weights(a, b)
    c = make().fit(Streamed(listed)).partial_fit(listed).partial_fit(X, groups=groups)
    assert c.n_iter_ == 5
    with pytest.raises(ValueError, match="iterable Dataset, whose rows only come in turn"):
        make().fit(Streamed(listed), groups=groups)
    with pytest.raises(ValueError, match="needs the group of each row"):
        make().fit(TensorDataset(listed.X))


def test_a_learned_threshold_is_refused(X, groups):
    with pytest.raises(ValueError, match="threshold='learned' needs a tail of some ten losses"):
        small(RiskAwareVAE, risk_over="groups", threshold="learned").fit(X, groups=groups)


def test_early_stopping_and_thresholds_take_groups(X, groups):
    for options in ({"early_stopping": True}, {"threshold": "ema"}, {"n_subsamples": 3}, {"eps_warmup": 1}):
        vae = small(RiskAwareVAE, risk_over="groups", **options).fit(X, groups=groups)
        assert np.isfinite(vae.score(X))


def test_a_pipeline_and_a_grid_route_them(X, groups):
    model = small(RiskAwareVAE, risk_over="groups")
    pipe = make_pipeline(StandardScaler(), model).fit(X, riskawarevae__groups=groups)
    assert same_weights(pipe[-1], small(RiskAwareVAE, risk_over="groups").fit(pipe[0].transform(X), groups=groups))
    with config_context(enable_metadata_routing=True):
        asking = small(RiskAwareVAE).set_fit_request(groups=True)
        search = GridSearchCV(asking, {"risk_over": ["groups", "batch"]}, cv=2).fit(X, groups=groups)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, ValueError, r"needs the group of each row.*fit\(X, groups=\.\.\.\).*riskawarevae__groups"),
        (np.zeros(299), ValueError, r"one label for each of 300 rows of X, shape \(300,\); got shape \(299,\)"),
        (np.zeros((300, 1)), ValueError, r"got shape \(300, 1\)"),
        ([float("nan")] * 300, ValueError, r"some are missing \(None or NaN\)"),
        ([None, *["a"] * 299], ValueError, r"some are missing \(None or NaN\)"),
        (np.array([1, "a"] * 150, dtype=object), TypeError, "labels of one kind, such as integers or strings"),
    ],
)
def test_mistakes(given, error, message, X):
    with pytest.raises(error, match=message):
        small(RiskAwareVAE, risk_over="groups").fit(X, groups=given)


def test_groups_that_nobody_looks_at_are_refused(X, groups):
    with pytest.raises(ValueError, match=r"groups were given, but WeightedELBO does not.*RiskAwareVAE\(risk_over"):
        small(BetaVAE).fit(X, groups=groups)


def test_an_objective_of_ones_own_may_need_groups(X, groups):
    class Balanced(WeightedELBO):
        needs = ("group",)

        def forward(self, terms):
            return group_means(terms.nll.mean(0) + self.beta * terms.kl, terms.batch.group).mean()

    class BalancedVAE(BetaVAE):
        def make_objective(self):
            return Balanced(self.beta)

    balanced = small(BalancedVAE, beta=1.0).fit(X, groups=groups)
    same = small(RiskAwareVAE, eps=1.0, risk_over="groups", risk_on="elbo").fit(X, groups=groups)
    np.testing.assert_allclose(balanced.transform(X), same.transform(X), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="needs the group of each row"):
        small(BalancedVAE).fit(X)


def test_a_label_is_the_same_group_in_every_call(X):
    seen = []

    class Watching(WeightedELBO):
        needs = ("group",)

        def forward(self, terms):
            seen.append(terms.batch.group.unique().tolist())
            return super().forward(terms)

    class Watched(BetaVAE):
        def make_objective(self):
            return Watching(self.beta)

    vae = small(Watched)
    for labels in ("a", "b", "a"):
        vae.partial_fit(X, groups=[labels] * 300)
    assert [group for group, _ in groupby(seen)] == [[0], [1], [0]]
    seen.clear()
    small(Watched).partial_fit(X, groups=[7] * 300)
    assert {tuple(group) for group in seen} == {(7,)}


def test_held_out_losses_are_the_risk_whatever_the_order_of_rows():
    """Sites one after the other: held-out batches are of all of them, as training batches are."""
    rng = np.random.default_rng(0)
    G = np.repeat(np.arange(4), 500)
    X = rng.normal(size=(2000, 10)) * np.array([0.2, 0.4, 0.6, 2.0])[G][:, None]
    options = {"eps": 0.25, "max_epochs": 1, "lr": 1e-9, "beta": 0.0, "noise_scale": 0.5, "batch_size": 128}
    vae = small(RiskAwareVAE, risk_over="groups", early_stopping=True, validation_fraction=0.3, **options).fit(
        X, groups=G
    )
    history = vae.history_[0]
    # The worst of four groups; 150 held-out rows of it: standard error 4 %, two batches apart.
    assert history["valid_loss"] == pytest.approx(history["train_loss"], rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_means_bear_extreme_losses_and_many_groups(dtype):
    losses = torch.tensor([1.0, float("inf"), 3.0, float("nan")], dtype=dtype)
    means = group_means(losses, torch.tensor([0, 1, 0, 2]))
    assert means[0] == 2
    assert means[1] == float("inf")
    assert means[2].isnan()
    assert group_means(torch.full((5000,), 60.0, dtype=dtype), torch.zeros(5000, dtype=torch.int64)).item() == 60
    many = torch.randn(30_000).to(dtype)
    torch.testing.assert_close(group_means(many, torch.arange(30_000)), many)


def test_items_with_what_nobody_knows_are_refused(X):
    class Odd(Listed):
        def __getitem__(self, i):
            return {**super().__getitem__(i), "weight": 1.0}

    class Fractional(Listed):
        def __getitem__(self, i):
            return {"x": self.X[i], "group": 0.5}

    with pytest.raises(ValueError, match="dicts with 'weight'; expected 'x'"):
        small(RiskAwareVAE).fit(Odd(X, np.zeros(300)))
    with pytest.raises(TypeError, match="'group' that is not an integer"):
        small(RiskAwareVAE, risk_over="groups").fit(Fractional(X, np.zeros(300)))


# -------------------------------------------------------------------------------------- what it is for


def test_a_rare_group_is_reconstructed_better():
    """Two planes, one with a thirtieth of the rows: fixed seeds, and far from the margin that is asked for."""
    rng = np.random.default_rng(0)
    n, rare = 1500, 50
    planes = rng.normal(size=(2, 2, 10))
    z = rng.normal(size=(n, 2))
    X = z @ planes[0]
    X[:rare] = z[:rare] @ planes[1]
    X += 0.1 * rng.normal(size=X.shape)
    group = np.arange(n) < rare
    options = {"max_epochs": 60, "hidden_layer_sizes": (64,), "noise_scale": 0.3, "lr": 3e-3, "batch_size": 128}
    errors = {}
    for over in ("batch", "groups"):
        vae = small(RiskAwareVAE, eps=1.0 if over == "batch" else 0.5, risk_over=over, **options).fit(X, groups=group)
        errors[over] = np.square(X - vae.reconstruct(X))[:rare].mean()
    assert errors["groups"] < 0.8 * errors["batch"]
