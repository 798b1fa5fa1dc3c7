"""Published results and comparisons, each reproduced by one command: ``python -m riskvae.studies NAME``.

In the house: studies are at the top and use only the public names of the library. A study is a module with
``run(config) -> StudyResult``.
"""

from riskvae.studies._frame import Config, StudyResult

__all__ = ["STUDIES", "Config", "StudyResult"]

STUDIES = {
    "anomalies": "Finding anomalies in 21 tables: QuantileVAE, its candidate scores, and other detectors.",
    "imputation": "Missing values: errors and ranges of `impute`, other imputers, and detectors of rows with holes.",
    "tails": "Figure 4 of the risk-aware VAE: tails of errors under averse and seeking training; both at equal rate.",
    "distortion": "Figure 5 of the risk-aware VAE: elastic distortions of Fashion-MNIST, seen and measured.",
    "downstream": "Table 1 of the risk-aware VAE: classes from embeddings; clusters and generated digits as well.",
    "margins": "Robustness: bounds against the attack; beta, total correlation and tau; damage by norm.",
    "lesions": "Finding lesions in brain MRI: QuantileVAE, other autoencoders, and thresholding; three patients.",
    "shrinkage": "Estimated noise against the true one: quantiles, and decoders with a variance.",
}
"""Names, and what each is about; a study is a module of that name with ``run(config) -> StudyResult``."""
