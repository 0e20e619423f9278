"""How much ρ depends on the batch size of the training alone: the Breast Cancer example, five seeds each."""

import tempfile
from pathlib import Path

import numpy as np

import regime_proto
from regime_proto.examples import breast_cancer

print("batch size   ρ (preset paper), mean of 5 seeds   lowest   highest   AUC_W   AUC_P")
for batch_size in (16, 32, 64, 128, 256):
    results = []
    for seed in range(5):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            breast_cancer.train(folder, seed=seed, batch_size=batch_size)
            path = regime_proto.convert(
                folder / "checkpoints",
                folder / "run.h5",
                model=breast_cancer.make(),
                probe=folder / "probe.npz",
            )
            results.append(regime_proto.analyze(path))
    rho = [result.rho for result in results]
    auc_w, auc_p = (np.mean([getattr(result, name) for result in results]) for name in ("auc_w", "auc_p"))
    print(f"{batch_size:10}   {np.mean(rho):33.2f}   {min(rho):6.2f}   {max(rho):7.2f}   {auc_w:.3f}   {auc_p:.3f}")
