"""Any classifier of scikit-learn, corrected for another class mix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectFromModel
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from ltaug.integrations.sklearn import PriorCorrectedClassifier

NAMES = np.array(["cat", "dog", "owl"])


def sample(counts: tuple[int, ...], seed: int = 0) -> tuple[Any, Any]:
    """Gaussian classes, one a corner."""
    random = np.random.default_rng(seed)
    y = np.repeat(np.arange(3), counts)
    centers = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])
    return centers[y] + random.normal(size=(len(y), 2)), NAMES[y]


X, y = sample((600, 90, 10))


@parametrize_with_checks([PriorCorrectedClassifier(LogisticRegression())])
def test_the_contract_of_estimators(estimator: Any, check: Any) -> None:
    check(estimator)


def test_bayes_rule() -> None:
    """Naive Bayes has the prior as a setting: corrected, it is the one that was fitted with the other prior."""
    target = [0.2, 0.3, 0.5]
    wanted = GaussianNB(priors=target).fit(X, y).predict_proba(X)
    found = PriorCorrectedClassifier(GaussianNB(), target).fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X), wanted, rtol=1e-9, atol=1e-12)
    by_name = PriorCorrectedClassifier(GaussianNB(), {"owl": 5, "cat": 2, "dog": 3}).fit(X, y)
    np.testing.assert_allclose(by_name.predict_proba(X), wanted, rtol=1e-9, atol=1e-12)
    assert (found.predict(X) == NAMES[wanted.argmax(1)]).all()


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_strength(strength: float) -> None:
    model = GaussianNB().fit(X, y)
    p = model.predict_proba(X) * (model.class_prior_**-strength)
    found = PriorCorrectedClassifier(GaussianNB(), strength=strength).fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X), p / p.sum(1, keepdims=True), rtol=1e-9, atol=1e-12)


def test_weights_are_part_of_the_prior() -> None:
    """What the classifier has balanced already is not balanced twice."""
    balanced = LogisticRegression(class_weight="balanced")
    found = PriorCorrectedClassifier(balanced).fit(X, y)
    np.testing.assert_allclose(found.source_prior_, [1 / 3] * 3)
    np.testing.assert_allclose(found.predict_proba(X), balanced.fit(X, y).predict_proba(X), rtol=1e-9)
    piped = make_pipeline(StandardScaler(), LogisticRegression(class_weight={"cat": 1, "dog": 2, "owl": 3}))
    np.testing.assert_allclose(PriorCorrectedClassifier(piped).fit(X, y).source_prior_, np.array([60, 18, 3]) / 81)
    weights = np.where(y == "owl", 9.0, 1.0)
    found = PriorCorrectedClassifier(LogisticRegression()).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(found.source_prior_, np.array([600, 90, 90]) / 780)
    with pytest.raises(ValueError, match=r"some sample of each class, but class .*'owl'.* has none"):
        PriorCorrectedClassifier(LogisticRegression()).fit(X, y, sample_weight=(y != "owl") * 1.0)
    with pytest.raises(ValueError, match=r"`class_weight` must be positive for each class, but is not for .*'owl'"):
        PriorCorrectedClassifier(LogisticRegression(class_weight={"owl": 0.0})).fit(X, y)
    with pytest.raises(
        ValueError, match=r"`source_prior` must be given for class_weight='balanced' and `sample_weight`"
    ):
        PriorCorrectedClassifier(balanced).fit(X, y, sample_weight=weights)


@pytest.mark.parametrize("make", [lambda: RandomForestClassifier(20, random_state=0), lambda: KNeighborsClassifier(15)])
def test_zeros_of_votes(make: Any) -> None:
    """A class without a vote can win nevertheless: it counts one more vote, split as in training."""
    plain, found = make().fit(X, y), PriorCorrectedClassifier(make()).fit(X, y)
    p, votes = plain.predict_proba(X), 20 if isinstance(plain, RandomForestClassifier) else 15
    assert (p == 0).any()
    pi = np.array([600, 90, 10]) / 700
    wanted = (votes * p + pi) / (votes + 1) / pi
    np.testing.assert_allclose(found.predict_proba(X), wanted / wanted.sum(1, keepdims=True), rtol=1e-9)


def test_the_mix_is_estimated() -> None:
    there, labels = sample((50, 100, 850), seed=1)
    found = PriorCorrectedClassifier(GaussianNB(), "estimate").fit(X, y)
    given = PriorCorrectedClassifier(GaussianNB(), [0.05, 0.1, 0.85]).fit(X, y)
    plain = GaussianNB().fit(X, y)
    scores = [(model.predict(there) == labels).mean() for model in (plain, found, given)]
    assert scores[1] > scores[0] + 0.2
    assert abs(scores[1] - scores[2]) < 0.05


def test_rare_classes_are_found() -> None:
    there, labels = sample((300, 300, 300), seed=2)
    plain, found = LogisticRegression(), PriorCorrectedClassifier(LogisticRegression())
    before, after = (balanced_accuracy_score(labels, model.fit(X, y).predict(there)) for model in (plain, found))
    assert after > before + 0.1


def test_inside_and_around_others() -> None:
    search = GridSearchCV(LogisticRegression(), {"class_weight": ["balanced"]}, cv=2)
    np.testing.assert_allclose(PriorCorrectedClassifier(search).fit(X, y).source_prior_, [1 / 3] * 3)
    search = GridSearchCV(
        PriorCorrectedClassifier(LogisticRegression()), {"estimator__C": [0.1, 1.0], "strength": [0.5]}
    )
    assert search.fit(X, y).best_params_["strength"] == 0.5
    assert len(cross_val_score(PriorCorrectedClassifier(CalibratedClassifierCV(LinearSVC())), X, y, cv=2)) == 2


def test_a_frozen_one_needs_its_prior() -> None:
    frozen = FrozenEstimator(GaussianNB().fit(X, y))
    with pytest.raises(ValueError, match=r"`source_prior` must be given for a FrozenEstimator"):
        PriorCorrectedClassifier(frozen).fit(X[:5], y[:5])
    with pytest.raises(ValueError, match=r"`y` must hold classes of the classifier, but holds 'cow'"):
        PriorCorrectedClassifier(frozen, source_prior="uniform").fit(X[:2], ["cow", "cat"])
    found = PriorCorrectedClassifier(frozen, source_prior=[600, 90, 10]).fit(X[:5], y[:5])
    wanted = PriorCorrectedClassifier(GaussianNB()).fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X), wanted.predict_proba(X))


BALANCED = LogisticRegression(class_weight="balanced")


@pytest.mark.parametrize(
    ("estimator", "found"),
    [
        (BaggingClassifier(BALANCED, 2), r"a BaggingClassifier with estimator__class_weight='balanced'"),
        (OneVsRestClassifier(BALANCED), r"a OneVsRestClassifier with estimator__class_weight='balanced'"),
        (VotingClassifier([("a", BALANCED), ("b", GaussianNB())], voting="soft"), r"with a__class_weight='balanced'"),
        (StackingClassifier([("a", BALANCED)], cv=2), r"a StackingClassifier with a__class_weight='balanced'"),
        (make_pipeline(StandardScaler(), BaggingClassifier(BALANCED, 2)), r"with estimator__class_weight='balanced'"),
        (BaggingClassifier(make_pipeline(StandardScaler(), BALANCED), 2), r"logisticregression__class_weight"),
        (BaggingClassifier(GridSearchCV(LogisticRegression(), {"class_weight": ["balanced"]}, cv=2), 2), "param_grid"),
        (GaussianNB(priors=[0.2, 0.3, 0.5]), r"a GaussianNB with priors=\[0.2, 0.3, 0.5\]"),
        (LinearDiscriminantAnalysis(priors=[0.2, 0.3, 0.5]), r"with priors"),
        (QuadraticDiscriminantAnalysis(priors=[0.2, 0.3, 0.5]), r"with priors"),
        (BernoulliNB(fit_prior=False), r"a BernoulliNB with fit_prior=False"),
        (SVC(probability=True, class_weight="balanced"), r"a SVC with class_weight='balanced'"),
        (RandomForestClassifier(5, class_weight="balanced"), r"a RandomForestClassifier with class_weight='balanced'"),
        (SGDClassifier(loss="modified_huber", class_weight="balanced"), r"a SGDClassifier with class_weight"),
        (AdaBoostClassifier(n_estimators=2), r"a AdaBoostClassifier, which weights the samples by itself"),
        (BaggingClassifier(AdaBoostClassifier(n_estimators=2), 2), r"a AdaBoostClassifier"),
        (VotingClassifier([("a", FrozenEstimator(GaussianNB().fit(X, y)))], voting="soft"), r"of a FrozenEstimator"),
    ],
    ids=lambda each: type(each).__name__ if hasattr(each, "fit") else "",
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_prior_that_is_not_known_must_be_given(estimator: Any, found: str) -> None:
    """What weights the classes in a way whose effect on the probabilities is not known is not corrected by a guess."""
    with pytest.raises(ValueError, match=rf"`source_prior` must be given for .*{found}"):
        PriorCorrectedClassifier(estimator).fit(X, y)
    given = PriorCorrectedClassifier(estimator, source_prior="uniform").fit(X, y)
    np.testing.assert_allclose(given.source_prior_, [1 / 3] * 3)


def test_a_sampler_of_imbalanced_learn_makes_the_prior_unknown() -> None:
    class Sampler(StandardScaler):  # type: ignore[misc]  # untyped
        def fit_resample(self, X: Any, y: Any) -> Any:
            return X, y

    class Balanced(GaussianNB):  # type: ignore[misc]  # untyped
        pass

    Balanced.__module__ = "imblearn.ensemble._forest"
    for estimator in (make_pipeline(Sampler(), GaussianNB()), Balanced(), BaggingClassifier(Balanced(), 2)):
        with pytest.raises(ValueError, match=r"must be given for a (Sampler|Balanced), which balances the classes"):
            PriorCorrectedClassifier(estimator).fit(X, y)


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(class_weight="balanced", max_iter=5),
        SGDClassifier(loss="log_loss", class_weight="balanced"),
        LogisticRegressionCV(Cs=2, cv=2, class_weight="balanced", use_legacy_attributes=False)
        if "use_legacy_attributes" in LogisticRegressionCV().get_params()
        else LogisticRegressionCV(Cs=2, cv=2, class_weight="balanced"),
        make_pipeline(SelectFromModel(BALANCED), BALANCED),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_are_known(estimator: Any) -> None:
    np.testing.assert_allclose(PriorCorrectedClassifier(estimator).fit(X, y).source_prior_, [1 / 3] * 3)


@pytest.mark.parametrize(
    "estimator",
    [
        BaggingClassifier(GaussianNB(), 2),
        BernoulliNB(),
        RandomForestClassifier(5),
        CalibratedClassifierCV(FrozenEstimator(GaussianNB().fit(X, y))),
        make_pipeline(SelectFromModel(BALANCED), GaussianNB()),
    ],
    ids=lambda each: type(each).__name__,
)
def test_without_weights_the_prior_is_that_of_training(estimator: Any) -> None:
    found = PriorCorrectedClassifier(estimator).fit(X, y)
    np.testing.assert_allclose(found.source_prior_, np.array([600, 90, 10]) / 700)


def test_the_target_train_undoes_class_weights() -> None:
    balanced = LogisticRegression(class_weight="balanced", C=1e6)
    p = balanced.fit(X, y).predict_proba(X) * np.array([600, 90, 10])
    found = PriorCorrectedClassifier(balanced, "train").fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X), p / p.sum(1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(found.predict_log_proba(X), np.log(found.predict_proba(X)))


def test_weights_of_samples_in_a_pipeline() -> None:
    weights = np.where(y == "owl", 9.0, 1.0)
    wanted = np.array([600, 90, 90]) / 780
    piped = make_pipeline(StandardScaler(), LogisticRegression())
    found = PriorCorrectedClassifier(piped).fit(X, y, logisticregression__sample_weight=weights)
    np.testing.assert_allclose(found.source_prior_, wanted)
    plain = clone(piped).fit(X, y, logisticregression__sample_weight=weights).predict_proba(X) / wanted
    np.testing.assert_allclose(found.predict_proba(X), plain / plain.sum(1, keepdims=True), rtol=1e-9)
    # Those of another step do not weight the classifier.
    found = PriorCorrectedClassifier(piped).fit(X, y, standardscaler__sample_weight=weights)
    np.testing.assert_allclose(found.source_prior_, np.array([600, 90, 10]) / 700)
    search = GridSearchCV(piped, {"logisticregression__C": [0.1, 1.0]}, cv=2)
    found = PriorCorrectedClassifier(search).fit(X, y, logisticregression__sample_weight=weights)
    np.testing.assert_allclose(found.source_prior_, wanted)
    with sklearn.config_context(enable_metadata_routing=True):
        asks = LogisticRegression().set_fit_request(sample_weight=True)
        piped = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), asks)
        found = PriorCorrectedClassifier(piped).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(found.source_prior_, wanted)
    inner = CalibratedClassifierCV(make_pipeline(StandardScaler(), GaussianNB()), cv=2)
    with pytest.raises(ValueError, match=r"must be given for `gaussiannb__sample_weight`, which weights a part of it"):
        PriorCorrectedClassifier(inner).fit(X, y, gaussiannb__sample_weight=weights)


def test_weights_that_do_not_reach_the_probabilities() -> None:
    weights = np.where(y == "owl", 9.0, 1.0)
    forest = RandomForestClassifier(5)
    for model in (forest, VotingClassifier([("a", GaussianNB()), ("b", forest)], voting="soft")):
        with pytest.raises(ValueError, match=r"must be given for a RandomForestClassifier with `sample_weight`"):
            PriorCorrectedClassifier(model).fit(X, y, sample_weight=weights)
    found = PriorCorrectedClassifier(forest).fit(X, y, sample_weight=np.full(len(y), 2.0))
    np.testing.assert_allclose(found.source_prior_, np.array([600, 90, 10]) / 700)


def test_a_series_is_ordered_by_its_index() -> None:
    """`value_counts()` stands in the order of frequency, whatever the classes are."""
    pandas = pytest.importorskip("pandas")
    counts = pandas.Series(["owl"] * 5 + ["dog"] * 3 + ["cat"] * 2).value_counts()
    assert counts.index.tolist() == ["owl", "dog", "cat"]
    wanted = PriorCorrectedClassifier(GaussianNB(), [2, 3, 5]).fit(X, y).predict_proba(X)
    for given in (counts, counts.to_frame(), counts.to_frame().T, pandas.DataFrame({"y": counts.index.repeat(counts)})):
        given = given.value_counts() if list(given.columns if given.ndim == 2 else ()) == ["y"] else given
        found = PriorCorrectedClassifier(GaussianNB(), given).fit(X, y)
        np.testing.assert_allclose(found.predict_proba(X), wanted)
    found = PriorCorrectedClassifier(GaussianNB(), source_prior=counts).fit(X, y)
    np.testing.assert_allclose(found.source_prior_, [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match=r"none for 'cat'. Numbers in the order of `classes_` come as a list"):
        PriorCorrectedClassifier(GaussianNB(), pandas.Series([2, 3, 5])).fit(X, y)
    with pytest.raises(ValueError, match=r"its index has classes that stand there twice"):
        PriorCorrectedClassifier(GaussianNB(), pandas.concat([counts, counts])).fit(X, y)


def test_metadata_goes_to_the_classifier() -> None:
    class Asks(GaussianNB):  # type: ignore[misc]  # untyped
        def fit(self, X: Any, y: Any, sample_weight: Any = None, mood: Any = None) -> Any:
            self.mood_ = mood
            return super().fit(X, y, sample_weight)

    with sklearn.config_context(enable_metadata_routing=True):
        found = PriorCorrectedClassifier(Asks().set_fit_request(mood=True)).fit(X, y, mood="good")
    assert found.estimator_.mood_ == "good"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target_prior": "flat"},
            r"`target_prior` must be uniform, train, estimate, or a number a class, but is 'flat'",
        ),
        ({"source_prior": "estimate"}, r"`source_prior` must be uniform, train, or a number a class"),
        ({"target_prior": [0.5, 0.5]}, r"shape \[3\], but has \[2\]"),
        ({"target_prior": {"cat": 1, "dog": 1}}, r"has none for 'owl'"),
        ({"target_prior": {"cat": 1, "dog": 1, "owl": 1, "cow": 1}}, r"a number for 'cow', which is none"),
        ({"source_prior": [1, 0, 1]}, r"`source_prior` must be positive and finite"),
        ({"strength": -1}, r"`strength` must be a number from 0, but is -1"),
        ({"estimator": LinearSVC()}, r"`estimator` must give probabilities .* LinearSVC does not.*Calibrated"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PriorCorrectedClassifier(**{"estimator": LogisticRegression(), **arguments}).fit(X, y)


def test_a_target_that_excludes_all_there_is() -> None:
    """A row of one class only, which the target excludes, is no NaN."""

    class Certain(GaussianNB):  # type: ignore[misc]  # untyped
        def predict_proba(self, X: Any) -> Any:
            return np.tile([1.0, 0.0, 0.0], (len(X), 1))

    found = PriorCorrectedClassifier(Certain(), [0, 1, 1]).fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X[:2]), [[0, 0.5, 0.5]] * 2)
