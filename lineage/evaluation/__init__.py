"""What a feature is worth to a model: retraining without it, on the same folds, seeds and budget, and a verdict with its error.

The worth of a feature is the mean loss of the model retrained without it, minus that of the model with it, on rows neither of them was
trained on (leave one covariate out: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, *Distribution-free predictive inference for
regression*, 2018). It is judged against an epsilon that is declared before anybody looks.
"""
