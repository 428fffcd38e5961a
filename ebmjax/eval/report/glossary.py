"""What the numbers of the tasks mean, in one sentence each, and where they are from."""

from ebmjax.eval.report.page import Definition

CLASSIFICATION = (
    Definition("accuracy", "Share of examples whose most likely class is the label."),
    Definition(
        "NLL",
        "Mean of -log p(label | x) in nats, which punishes confident mistakes; a"
        " uniform guess over K classes has log K.",
        "Good (1952)",
    ),
    Definition(
        "Brier",
        "Mean squared distance of probabilities from the one-hot label, from 0 to 2.",
        "Brier (1950)",
    ),
    Definition(
        "ECE",
        "Expected calibration error: the mean gap between accuracy and confidence in"
        " bins of equally wide confidence, weighted by their examples.",
        "Naeini et al. (2015), Guo et al. (2017)",
    ),
)
CALIBRATION = (
    CLASSIFICATION[-1],
    Definition(
        "equal-mass ECE",
        "ECE in bins with equally many examples.",
        "Nixon et al. (2019)",
    ),
    Definition(
        "MCE",
        "The largest gap between accuracy and confidence of a bin of the ECE.",
        "Naeini et al. (2015)",
    ),
    Definition(
        "RMS",
        "Root of the mean squared gap of the ECE's bins.",
        "Hendrycks et al. (2019)",
    ),
    Definition(
        "class-wise ECE",
        "Mean over the classes of the ECE of each class's own probability.",
        "Kull et al. (2019)",
    ),
    Definition(
        "temperature",
        "The number by which logits are divided to minimise the NLL of validation"
        " examples; above 1 it makes a classifier less confident.",
        "Guo et al. (2017)",
    ),
)
SELECTIVE = (
    Definition(
        "risk and coverage",
        "Share of mistakes among the examples that are answered, and the share that is"
        " answered, if those of the lowest score are not.",
        "El-Yaniv & Wiener (2010)",
    ),
    Definition(
        "AURC", "Mean risk over all coverages; 0 is best.", "Geifman et al. (2019)"
    ),
    Definition(
        "excess AURC",
        "AURC less that of a score that puts all mistakes last, so that accuracy does"
        " not count.",
        "Geifman et al. (2019)",
    ),
    Definition(
        "accuracy at 90 % coverage",
        "Accuracy on the 90 % of the examples with the highest score.",
        "Geifman & El-Yaniv (2017)",
    ),
)
SHIFT = (
    Definition(
        "under corruption",
        "Mean over kinds of noise, blur and the like in five severities.",
        "Hendrycks & Dietterich (2019)",
    ),
    Definition(
        "mean corruption error",
        "One minus the mean accuracy under corruption, not divided by another model's.",
        "Hendrycks & Dietterich (2019)",
    ),
)
OOD = (
    Definition(
        "AUROC",
        "Probability that a test example has a higher score than one of another set;"
        " 0.5 is chance, below it the score prefers the other set.",
        "Hendrycks & Gimpel (2017)",
    ),
    Definition(
        "AUPR",
        "Area under precision against recall (average precision), which depends on the"
        " sizes of the sets.",
        "Hendrycks & Gimpel (2017)",
    ),
    Definition(
        "FPR95",
        "Share of one set that is accepted at the threshold that accepts 95 % of the"
        " other.",
        "Liang et al. (2018)",
    ),
    Definition(
        "log p(x)",
        "logsumexp of the logits, minus the energy E(x), up to the unknown constant"
        " log Z.",
        "Grathwohl et al. (2020), Liu et al. (2020)",
    ),
    Definition(
        "approximate mass",
        "Minus the norm of the gradient of log p(x), which is near 0 where the mass of"
        " p lies.",
        "Grathwohl et al. (2020)",
    ),
    Definition(
        "max p(y | x)",
        "The confidence: probability of the most likely class.",
        "Hendrycks & Gimpel (2017)",
    ),
    Definition(
        "entropy of p(y | x)",
        "Uncertainty of the answer over all classes, negated as a score.",
    ),
    Definition("max logit", "The largest logit.", "Hendrycks et al. (2022)"),
    Definition(
        "ODIN",
        "Confidence at a high temperature after a small step of the image towards it.",
        "Liang et al. (2018)",
    ),
    Definition(
        "Mahalanobis distance of features",
        "Minus the squared distance of the last features to the nearest mean of a"
        " class, in units of the classes' common covariance.",
        "Lee et al. (2018)",
    ),
    Definition(
        "nearest neighbours of features",
        "Minus the distance of the normalised last features to the k-th nearest"
        " training example.",
        "Sun et al. (2022)",
    ),
    Definition(
        "in refinement",
        "How log p(x), its gradient and the image change in some sampling steps that"
        " start at it: little, where an example is familiar.",
    ),
    Definition(
        "near and far",
        "Sets that share the subject of the training data, and such that do not.",
        "Zhang et al. (2023)",
    ),
)
ATTACKS = (
    Definition(
        "accuracy at eps",
        "Share of images still classified right after an attack within a ball of radius"
        " eps about each, in units of images in [0, 1]; an upper bound.",
        "Szegedy et al. (2014)",
    ),
    Definition(
        "PGD",
        "Projected gradient ascent on a loss from random starts.",
        "Madry et al. (2018)",
    ),
    Definition(
        "AutoAttack",
        "Four attacks without parameters to tune, of which each gets the images that"
        " still stand.",
        "Croce & Hein (2020)",
    ),
    Definition(
        "JEM-k",
        "Classification of images that k sampling steps have moved towards the model,"
        " attacked as a whole.",
        "Grathwohl et al. (2020)",
    ),
    Definition(
        "nearest mistake",
        "The smallest distance at which an attack has changed the answer.",
        "Carlini & Wagner (2017)",
    ),
    Definition(
        "distal adversarial example",
        "What noise becomes that climbs p(class | x) until the model is sure.",
        "Schott et al. (2019)",
    ),
)
ENERGIES = (
    Definition(
        "E(x), marginal energy",
        "Minus logsumexp of the logits; an attack that lowers it makes images that the"
        " model finds more likely than clean ones.",
        "Beadini & Masi (2023), Mirza et al. (2024)",
    ),
    Definition(
        "E(x, label), joint energy",
        "Minus the logit of the label; less E(x) it is the cross-entropy.",
        "Grathwohl et al. (2020)",
    ),
    Definition(
        "AUROC of log p(x), clean against attacked",
        "Probability that a clean image has a higher log p(x) than an attacked one.",
        "Hendrycks & Gimpel (2017)",
    ),
)
COUNTERFACTUALS = (
    Definition(
        "counterfactual",
        "A similar input with another answer: here, where a chain on E(x, class) from a"
        " test image ends.",
        "Wachter et al. (2018)",
    ),
)
SAMPLES = (
    Definition(
        "Fréchet distance",
        "Distance of two Gaussians with the means and covariances of the features of"
        " samples and of training images.",
        "Heusel et al. (2017)",
    ),
    Definition(
        "FID",
        "The Fréchet distance by features of one Inception network; it falls as the"
        " number of samples grows.",
        "Heusel et al. (2017)",
    ),
    Definition(
        "KID, kernel distance",
        "Squared difference of mean embeddings by a cubic kernel on the same features,"
        " without bias for few samples.",
        "Bińkowski et al. (2018)",
    ),
    Definition(
        "Inception Score",
        "exp of the mean divergence of p(y | sample) from p(y): high, where samples are"
        " clear and diverse.",
        "Salimans et al. (2016)",
    ),
)
