from ebmjax.eval.calibration import accuracy, nll_from_logits, softmax  # noqa: F401
